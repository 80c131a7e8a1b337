//! From what an author writes for an effect outside to the two things the barrier does with it:
//! carry it out, or find out what became of it.
//!
//! What passes here: an operation whose row is `running` and locked by this transaction. Promised:
//! the outside is asked in the one order that is safe, and never waited for longer than its
//! [`patience`](External::patience). If we die here, the row stays `running`.

use std::{collections::HashMap, future::Future};

use futures::future::BoxFuture;
use outbox::Payload;
use sqlx::{Connection, PgPool, PgTransaction};

use crate::{
    Error,
    error::without_content,
    participant::{
        action::Context,
        answer::{encode, expired},
        external::{Admission, Called, External, Probed, Settled},
        table::{self, Intent, Stored},
    },
    telemetry,
    wire::{self, Outcome, Refusal, Tombstoned},
};

/// By the command's kind.
pub(crate) type Externals = HashMap<&'static str, Box<dyn Outside>>;

/// What to do when the outside does not know the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfNotFound {
    /// The command is at hand.
    CallAgain,
    /// The command is at hand, and has expired: rather not.
    RevokeOrCallAgain,
    /// Nobody wants it any more: it must never take effect.
    Revoke,
}

/// What came of it.
pub(crate) enum Came {
    Answer(Stored),
    Silent,
}

/// An external action, its types erased.
pub(crate) trait Outside: Send + Sync {
    fn admit<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Admission, outbox::Error>>;

    /// Commits the row `running`, on a connection of its own.
    fn intend<'a>(
        &'a self,
        command: &'a wire::Command,
        payload: &'a [u8],
    ) -> BoxFuture<'a, Result<Intent, outbox::Error>>;

    fn call<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Came, outbox::Error>>;

    fn find_out<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
        if_not_found: IfNotFound,
    ) -> BoxFuture<'a, Result<Came, outbox::Error>>;
}

/// Generic at the edge, plain inside.
pub(crate) struct Typed<E> {
    pub(crate) external: E,
    pub(crate) intents: PgPool,
}

impl<E: External> Outside for Typed<E> {
    fn admit<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Admission, outbox::Error>> {
        Box::pin(async move {
            let command = decode::<E::Command>(command)?;
            self.external.admit(tx, context, &command).await
        })
    }

    fn intend<'a>(
        &'a self,
        command: &'a wire::Command,
        payload: &'a [u8],
    ) -> BoxFuture<'a, Result<Intent, outbox::Error>> {
        let (pool, payload) = (self.intents.clone(), payload.to_vec());
        let (operation, expires_at) = (command.operation.clone(), command.expires_at);
        // A task of its own: dropped in its `begin`, it would leave a transaction open on a pooled
        // connection.
        let noting = tokio::spawn(async move {
            let mut tx = pool.begin().await?;
            let what = (E::Command::KIND, payload.as_slice());
            let intent = table::intend(&mut tx, &operation, what, expires_at).await?;
            tx.commit().await?;
            Ok(intent)
        });
        Box::pin(async move { noting.await.map_err(outbox::Error::transient)? })
    }

    fn call<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
    ) -> BoxFuture<'a, Result<Came, outbox::Error>> {
        Box::pin(async move {
            let command = decode::<E::Command>(command)?;
            self.carry_out(tx, context, &command).await
        })
    }

    fn find_out<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        command: &'a [u8],
        if_not_found: IfNotFound,
    ) -> BoxFuture<'a, Result<Came, outbox::Error>> {
        Box::pin(async move {
            let command = decode::<E::Command>(command)?;
            self.trace(tx, context, &command, if_not_found).await
        })
    }
}

impl<E: External> Typed<E> {
    async fn carry_out(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &E::Command,
    ) -> Result<Came, outbox::Error> {
        let calling = self.external.call(context, command);
        match self.patient(context, calling).await? {
            Called::Done(receipt) => {
                telemetry::external(&context.step, "done");
                self.settle(tx, context, command, receipt).await
            }
            Called::Refused(refusal) => {
                telemetry::external(&context.step, "refused");
                refused(&refusal)
            }
            Called::Silent => {
                telemetry::external(&context.step, "silent");
                Ok(Came::Silent)
            }
        }
    }

    async fn trace(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &E::Command,
        if_not_found: IfNotFound,
    ) -> Result<Came, outbox::Error> {
        let probing = self.external.probe(context, command);
        match self.patient(context, probing).await? {
            Probed::Found(receipt) => {
                telemetry::external(&context.step, "found");
                self.settle(tx, context, command, receipt).await
            }
            Probed::Refused(refusal) => {
                telemetry::external(&context.step, "found_refused");
                refused(&refusal)
            }
            Probed::NotFound => {
                telemetry::external(&context.step, "not_found");
                self.not_found(tx, context, command, if_not_found).await
            }
            Probed::Unknown => {
                telemetry::external(&context.step, "unknown");
                Err(Error::Running(context.op_key).into())
            }
        }
    }

    async fn not_found(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &E::Command,
        if_not_found: IfNotFound,
    ) -> Result<Came, outbox::Error> {
        match if_not_found {
            IfNotFound::CallAgain => self.carry_out(tx, context, command).await,
            IfNotFound::RevokeOrCallAgain if self.revoke(context, command).await? => {
                refused(&expired())
            }
            // It was begun in time, and only an answer to its key settles it.
            IfNotFound::RevokeOrCallAgain => self.carry_out(tx, context, command).await,
            IfNotFound::Revoke if self.revoke(context, command).await? => {
                let tombstone = encode(Outcome::Tombstoned, &Tombstoned {})?;
                Ok(Came::Answer(tombstone))
            }
            IfNotFound::Revoke => Err(Error::Running(context.op_key).into()),
        }
    }

    /// The savepoint is released when what was done stands; otherwise it is undone outside, too,
    /// before anybody is told that it was refused.
    async fn settle(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &E::Command,
        receipt: E::Receipt,
    ) -> Result<Came, outbox::Error> {
        let mut savepoint = tx.begin().await?;
        let settled = self
            .external
            .settle(&mut savepoint, context, command, receipt)
            .await?;
        match settled {
            Settled::Done(reply) => {
                savepoint.commit().await?;
                Ok(Came::Answer(encode(Outcome::Succeeded, &reply)?))
            }
            Settled::Refused(refusal) => {
                savepoint.rollback().await?;
                if self.revoke(context, command).await? {
                    refused(&refusal)
                } else {
                    Err(Error::Irrevocable(context.op_key).into())
                }
            }
        }
    }

    async fn revoke(&self, context: &Context, command: &E::Command) -> Result<bool, outbox::Error> {
        let revoking = self.external.revoke(context, command);
        let revoked = self.patient(context, revoking).await?;
        if revoked {
            telemetry::external(&context.step, "revoked");
        }
        Ok(revoked)
    }

    async fn patient<T>(
        &self,
        context: &Context,
        asking: impl Future<Output = Result<T, outbox::Error>>,
    ) -> Result<T, outbox::Error> {
        let patience = self.external.patience();
        let overdue = Error::Overdue(context.op_key, patience);
        let answered = tokio::time::timeout(patience, asking).await;
        answered.unwrap_or_else(|_| Err(overdue.into()))
    }
}

fn refused(refusal: &Refusal) -> Result<Came, outbox::Error> {
    encode(Outcome::Failed, refusal).map(Came::Answer)
}

fn decode<C: Payload>(bytes: &[u8]) -> Result<C, outbox::Error> {
    serde_json::from_slice(bytes).map_err(|error| outbox::Error::Decode {
        kind: C::KIND.to_owned(),
        reason: without_content(&error),
    })
}
