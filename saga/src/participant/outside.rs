//! What an author writes for something outside of the database, its types erased.

use std::{any::Any, collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use outbox::Received;
use sqlx::PgTransaction;

use crate::{
    participant::{
        action::Context,
        answer::{decode, encode},
        barrier::{Undo, payload},
        external::{Admission, Called, External, ExternalCompensation, Probed, Settled},
        table::Stored,
    },
    wire::{Outcome, Refusal},
};

/// By the command's kind.
pub(crate) type Externals = HashMap<&'static str, Arc<dyn Outside>>;

/// What the outside says when it has done it.
pub(crate) type Receipt = Box<dyn Any + Send>;

/// How the outside may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long it may take to answer.
    pub(crate) patience: Duration,
    /// How many operations of this kind are worked at together.
    pub(crate) at_once: usize,
}

/// An external action.
pub(crate) trait Outside: Send + Sync {
    /// Whether it could read the command.
    fn check(&self, message: &Received) -> Result<(), outbox::Error>;

    fn limits(&self) -> Limits;

    fn admit<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Admission, outbox::Error>>;

    fn call<'a>(
        &'a self,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Called<Receipt>, outbox::Error>>;

    fn probe<'a>(
        &'a self,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Probed<Receipt>, outbox::Error>>;

    fn revoke<'a>(
        &'a self,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, outbox::Error>>;

    fn settle<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
        receipt: Receipt,
    ) -> BoxFuture<'a, Result<Settled<Stored>, outbox::Error>>;
}

/// Generic at the edge, plain inside.
pub(crate) struct Typed<E>(pub(crate) E);

impl<E: External> Outside for Typed<E> {
    fn check(&self, message: &Received) -> Result<(), outbox::Error> {
        decode::<E::Command>(payload(message)?).map(drop)
    }

    fn limits(&self) -> Limits {
        Limits {
            patience: self.0.patience(),
            at_once: self.0.at_once(),
        }
    }

    fn admit<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Admission, outbox::Error>> {
        Box::pin(async move { self.0.admit(tx, context, &decode(command)?).await })
    }

    fn call<'a>(
        &'a self,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Called<Receipt>, outbox::Error>> {
        Box::pin(async move {
            Ok(match self.0.call(context, &decode(command)?).await? {
                Called::Done(receipt) => Called::Done(Box::new(receipt) as Receipt),
                Called::Refused(refusal) => Called::Refused(refusal),
                Called::Silent => Called::Silent,
            })
        })
    }

    fn probe<'a>(
        &'a self,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Probed<Receipt>, outbox::Error>> {
        Box::pin(async move {
            Ok(match self.0.probe(context, &decode(command)?).await? {
                Probed::Found(receipt) => Probed::Found(Box::new(receipt) as Receipt),
                Probed::Refused(refusal) => Probed::Refused(refusal),
                Probed::NotFound => Probed::NotFound,
                Probed::Unknown => Probed::Unknown,
            })
        })
    }

    fn revoke<'a>(
        &'a self,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<bool, outbox::Error>> {
        Box::pin(async move { self.0.revoke(context, &decode(command)?).await })
    }

    fn settle<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
        receipt: Receipt,
    ) -> BoxFuture<'a, Result<Settled<Stored>, outbox::Error>> {
        Box::pin(async move {
            let command = decode(command)?;
            let receipt = receipt.downcast::<E::Receipt>();
            let receipt = receipt.map_err(|_| {
                outbox::Error::permanent("the receipt is another external action's")
            })?;
            let settled = self.0.settle(tx, context, &command, *receipt).await?;
            Ok(match settled {
                Settled::Done(reply) => Settled::Done(encode(Outcome::Succeeded, &reply)?),
                Settled::Refused(refusal) => Settled::Refused(refusal),
            })
        })
    }
}

impl<C: ExternalCompensation> Undo for Typed<C> {
    fn check(&self, message: &Received) -> Result<(), outbox::Error> {
        decode::<C::Command>(payload(message)?).map(drop)
    }

    fn limits(&self) -> Option<Limits> {
        Some(Limits {
            patience: self.0.patience(),
            at_once: self.0.at_once(),
        })
    }

    fn admit<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>> {
        Box::pin(async move {
            let command = decode(payload(message)?)?;
            self.0.admit(tx, context, &command).await
        })
    }

    fn call<'a>(
        &'a self,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>> {
        Box::pin(async move {
            let command = decode(payload(message)?)?;
            self.0.call(context, &command).await
        })
    }

    fn undo<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>> {
        Box::pin(async move {
            let command = decode(payload(message)?)?;
            self.0.settle(tx, context, command).await
        })
    }
}

pub(crate) fn refused(refusal: &Refusal) -> Result<Stored, outbox::Error> {
    encode(Outcome::Failed, refusal)
}
