//! Replies come in.
//!
//! What passes here: every message on the reply topic, inside the consumer's transaction, which
//! holds its inbox row. Promised: all sagas of a batch are locked in one order before the first
//! reply is handled. Not promised: that a reply is understood; one that cannot be read, or that
//! belongs to no saga here, is a permanent error and the consumer parks it. If we die here, the
//! consumer hands the batch over again.

use std::collections::BTreeSet;

use outbox::{Handler, Received};
use sqlx::PgTransaction;
use tracing::{Instrument, debug, info_span};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::Coordinator,
    error::without_content,
    event::{Answer, Input, Reply},
    table,
    wire::{self, Outcome, Refusal},
};

/// Turns replies into turns of their sagas. See [`Coordinator::replies`].
#[derive(Clone)]
pub struct Replies {
    coordinator: Coordinator,
}

impl Replies {
    pub(crate) fn new(coordinator: Coordinator) -> Self {
        Self { coordinator }
    }

    async fn reply(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let reply = parse(message)?;
        let saga_id = reply.operation.saga_id;
        let loaded = table::load_for_update(tx, saga_id).await?;
        let loaded = loaded.ok_or(Error::UnknownSaga(saga_id))?;
        let instance = self
            .coordinator
            .turn(tx, loaded, &Input::Reply(reply))
            .await?;
        debug!(status = %instance.status, seq = instance.seq, "reply handled");
        Ok(())
    }
}

impl Handler for Replies {
    async fn prepare(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), outbox::Error> {
        // A message without a readable id fails by itself, when its turn comes.
        let ids: BTreeSet<Uuid> = batch.iter().flat_map(wire::saga_id).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        table::lock_instances(tx, &ids).await?;
        Ok(())
    }

    async fn handle(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
    ) -> Result<(), outbox::Error> {
        let step = message.header(wire::STEP).unwrap_or_default();
        let span = info_span!("saga.reply", saga_id = %message.key, step);
        Ok(self.reply(tx, message).instrument(span).await?)
    }
}

fn parse(message: &Received) -> Result<Reply, Error> {
    let wire::Reply { operation, outcome } = wire::Reply::parse(message)?;
    let payload = message.payload.as_deref().unwrap_or_default();
    let answer = match outcome {
        Outcome::Succeeded => Answer::Succeeded {
            kind: message.kind.clone(),
            payload: payload.to_vec(),
        },
        Outcome::Failed => Answer::Failed(refusal(&operation.step, &message.kind, payload)?),
        Outcome::Compensated => Answer::Compensated,
        Outcome::NullCompensated => Answer::NullCompensated,
        Outcome::Tombstoned => Answer::Tombstoned,
    };
    Ok(Reply { operation, answer })
}

fn refusal(step: &str, kind: &str, payload: &[u8]) -> Result<Refusal, Error> {
    serde_json::from_slice(payload).map_err(|error| Error::Reply {
        step: step.to_owned(),
        kind: kind.to_owned(),
        reason: without_content(&error),
    })
}
