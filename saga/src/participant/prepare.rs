//! What a participant's author does once for a batch of commands: taking row locks in one order.

use std::future::Future;

use futures::future::BoxFuture;
use outbox::{Error, Payload, Received};
use serde::de::DeserializeOwned;
use sqlx::PgTransaction;

/// Done once in each transaction, before its first command is carried out: the place to lock the
/// business rows that its commands will need, **in one order**. Two batches that lock them one by
/// one, each in its own order, wait for each other until the server ends one of them.
pub trait Prepare: Send + Sync + 'static {
    /// Locks, or does whatever else the whole batch needs. Of these commands some may be repetitions,
    /// which are not carried out.
    ///
    /// # Errors
    ///
    /// The batch is rolled back and redone in parts, down to the command that is to blame.
    fn prepare(
        &self,
        tx: &mut PgTransaction<'_>,
        commands: Commands<'_>,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The commands of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Commands<'a>(pub(crate) &'a [Received]);

impl Commands<'_> {
    /// Those of one kind, decoded; others are left out.
    pub fn of<C: Payload>(&self) -> impl Iterator<Item = C> {
        let of_kind = self.0.iter().filter(|message| message.kind == C::KIND);
        of_kind.filter_map(|message| message.decode().ok())
    }

    /// What all commands have in common, of those that have it: the id of an order.
    pub fn having<T: DeserializeOwned>(&self) -> impl Iterator<Item = T> {
        let payloads = self
            .0
            .iter()
            .filter_map(|message| message.payload.as_deref());
        payloads.filter_map(|payload| serde_json::from_slice(payload).ok())
    }
}

/// Its types erased.
pub(crate) trait Prepared: Send + Sync {
    fn prepare<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        commands: Commands<'a>,
    ) -> BoxFuture<'a, Result<(), Error>>;
}

impl<P: Prepare> Prepared for P {
    fn prepare<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        commands: Commands<'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(Prepare::prepare(self, tx, commands))
    }
}
