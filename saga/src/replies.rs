//! Replies come in.
//!
//! What passes here: every message on the reply topic, a batch at a time, inside the consumer's
//! transaction, which holds their inbox rows. Promised: all sagas of a batch are locked in one
//! order and take their turns together, and each is read and decided by itself: one that cannot be
//! is parked as a whole with the reason, and its reply kept for when a person retries. So is one
//! whose turn cannot be written, after the batch was redone without the others. A reply to a version
//! that this replica lacks is kept for one that has it. Not promised: that a message is understood;
//! one without readable headers, or that belongs to no saga here, is a permanent error and the
//! consumer parks it. If we die here, the consumer hands the batch over again.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
};

use outbox::{BatchHandler, Received};
use sqlx::PgTransaction;
use tracing::{Instrument, debug, debug_span, info_span};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Failed, Turns, stop},
    origin::Origin,
    pending::{self, Waiting},
    table, wire,
};

/// Turns replies into turns of their sagas. See [`Coordinator::replies`].
#[derive(Clone)]
pub struct Replies {
    coordinator: Coordinator,
}

/// Whose replies are kept, and why. Of one saga either all of a batch are, or none.
#[derive(Default)]
struct NotDecided {
    failed: BTreeMap<Uuid, Failed>,
    /// Parked as a whole already.
    stopped: BTreeSet<Uuid>,
    /// Of a version that this replica lacks.
    unknown: BTreeSet<Uuid>,
}

impl NotDecided {
    /// Whether a reply is kept, and then whether until a person retries.
    fn held(&self, saga_id: Uuid) -> Option<bool> {
        let held = self.failed.contains_key(&saga_id) || self.stopped.contains(&saga_id);
        (held || self.unknown.contains(&saga_id)).then_some(held)
    }
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
        let mut not = NotDecided::default();
        let mut loaded = Vec::with_capacity(ids.len());
        for locked in table::load_for_update(tx, &ids).await? {
            match locked.loaded {
                Ok(saga) => loaded.push(saga),
                Err(error) => {
                    let failed = Failed::new("cannot decide about an answer", error);
                    not.failed.insert(locked.id, failed);
                }
            }
        }
        let mut turns = Turns::of(&self.coordinator, loaded);
        for (message, reply) in batch.iter().zip(&replies) {
            self.decide(&mut turns, message, reply, &mut not)?;
        }
        turns.write(tx).await?;
        for (saga_id, failed) in &not.failed {
            if !stop(tx, *saga_id, failed).await? {
                // It has ended: what cannot be read is the message's affair.
                return Err(Error::Corrupt {
                    saga_id: *saga_id,
                    reason: failed.to_string(),
                });
            }
        }
        let kept = batch.iter().zip(replies).filter_map(|(message, reply)| {
            let held = not.held(reply.operation.saga_id)?;
            Some(waiting(reply, message, held))
        });
        let kept: Vec<Waiting> = kept.collect();
        pending::keep(tx, &kept).await
    }

    /// Decides about one reply, or notes why not. Its error is the message's.
    fn decide(
        &self,
        turns: &mut Turns<'_>,
        message: &Received,
        reply: &wire::Reply,
        not: &mut NotDecided,
    ) -> Result<(), Error> {
        let saga_id = reply.operation.saga_id;
        if not.held(saga_id).is_some() {
            return Ok(());
        }
        let instance = turns.instance(saga_id)?;
        if instance.stopped {
            not.stopped.insert(saga_id);
            return Ok(());
        }
        match self.coordinator.pinned(instance) {
            Ok(_) => {}
            Err(Error::UnknownDefinition { .. }) => {
                not.unknown.insert(saga_id);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let payload = message.payload.as_deref().unwrap_or_default();
        let reply = reply.clone().answered(&message.kind, payload);
        let step = reply.operation.step.as_str();
        let phase = reply.operation.phase.as_str();
        let outcome = reply.answer.outcome().as_str();
        let span = info_span!("saga.reply", %saga_id, step, phase, outcome);
        turns.because_of(saga_id, &span, outbox::follow(&span, message));
        let _inside = span.enter();
        match turns.take_answer(reply, &Origin::of_answer(message)) {
            Ok(instance) => {
                debug!(status = %instance.status, seq = instance.seq, "reply handled");
            }
            Err(failed) if failed.error.is_the_sagas_own() => {
                turns.forget(saga_id);
                not.failed.insert(saga_id, failed);
            }
            Err(failed) => return Err(failed.error),
        }
        Ok(())
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

    /// A reply that came, and whose turn cannot be written: its saga is parked as a whole.
    async fn keep_refused(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
        error: &outbox::Error,
    ) -> Result<bool, outbox::Error> {
        let Ok(reply) = wire::Reply::parse(message) else {
            return Ok(false);
        };
        let source = StdError::source(error).and_then(|source| source.downcast_ref::<Error>());
        if source.is_some_and(|error| !error.is_the_sagas_own()) {
            return Ok(false);
        }
        let (phase, step) = (reply.operation.phase, &reply.operation.step);
        let what = "cannot write what the answer leads to, of the";
        let reason = format!("{what} {phase} of {step}: {error}");
        if !stop(tx, reply.operation.saga_id, &reason).await? {
            return Ok(false);
        }
        pending::keep(tx, &[waiting(reply, message, true)]).await?;
        Ok(true)
    }
}

fn waiting(reply: wire::Reply, message: &Received, held: bool) -> Waiting {
    Waiting {
        operation: reply.operation,
        outcome: reply.outcome,
        kind: message.kind.clone(),
        payload: message.payload.clone().unwrap_or_default(),
        origin: Origin::of_answer(message),
        held,
    }
}
