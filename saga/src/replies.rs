//! Replies come in.
//!
//! What passes here: every message on the reply topic, a batch at a time, inside the consumer's
//! transaction, which holds their inbox rows. Promised: all sagas of a batch are locked in one
//! order and take their turns together; if one cannot, the batch is redone one by one, so that a
//! sick reply holds up no other saga. A reply to a version that this replica lacks is kept for one
//! that has it. Not promised: that a message is understood; one without readable headers, or that
//! belongs to no saga here, is a permanent error and the consumer parks it. A payload that cannot
//! be read parks its saga. If we die here, the consumer hands the batch over again.

use std::collections::BTreeSet;

use outbox::{BatchHandler, Received};
use sqlx::PgTransaction;
use tracing::{Instrument, debug, debug_span, info_span};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Turns},
    origin::Origin,
    pending::{self, Waiting},
    table, wire,
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

    async fn replies(&self, tx: &mut PgTransaction<'_>, batch: &[Received]) -> Result<(), Error> {
        let replies = batch.iter().map(wire::Reply::parse);
        let replies: Vec<wire::Reply> = replies.collect::<Result<_, _>>()?;
        let ids: BTreeSet<Uuid> = replies.iter().map(|r| r.operation.saga_id).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let loaded = table::load_for_update(tx, &ids).await?;
        let mut turns = Turns::of(&self.coordinator, loaded);
        let mut unknown = Vec::new();
        for (message, reply) in batch.iter().zip(replies) {
            let saga_id = reply.operation.saga_id;
            let instance = turns.instance(saga_id)?;
            match self.coordinator.pinned(instance) {
                Ok(_) => {}
                Err(Error::UnknownDefinition { .. }) => {
                    unknown.push(waiting(reply, message));
                    continue;
                }
                Err(error) => return Err(error),
            }
            let payload = message.payload.as_deref().unwrap_or_default();
            let reply = reply.answered(&message.kind, payload)?;
            let step = reply.operation.step.as_str();
            let phase = reply.operation.phase.as_str();
            let outcome = reply.answer.outcome().as_str();
            let span = info_span!("saga.reply", %saga_id, step, phase, outcome);
            turns.because_of(saga_id, &span, outbox::follow(&span, message));
            let _inside = span.enter();
            let instance = turns.take_answer(reply, &Origin::of_answer(message))?;
            debug!(status = %instance.status, seq = instance.seq, "reply handled");
        }
        turns.write(tx).await?;
        pending::keep(tx, &unknown).await
    }
}

impl BatchHandler for Replies {
    async fn handle_batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), outbox::Error> {
        // For the log alone: whoever follows a trace looks for one saga, see `saga.reply`.
        let span = debug_span!("saga.replies", replies = batch.len());
        Ok(self.replies(tx, batch).instrument(span).await?)
    }
}

fn waiting(reply: wire::Reply, message: &Received) -> Waiting {
    Waiting {
        operation: reply.operation,
        outcome: reply.outcome,
        kind: message.kind.clone(),
        payload: message.payload.clone().unwrap_or_default(),
        origin: Origin::of_answer(message),
    }
}
