//! Replies to sagas of versions that this replica lacks.
//!
//! In a rolling deploy an old replica may take a reply to a saga that a new one has started. What
//! passes here: such replies, kept in the transaction that handles their message, and taken up by
//! any replica that knows the version. Promised: none is lost, none is counted twice. Not promised:
//! that anybody ever knows the version. If we die here, the reply is still
//! kept, or its message comes again.

mod table;

use sqlx::{PgPool, PgTransaction};
use tracing::{Instrument, debug_span, info_span, warn};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Turns},
    operation::Operation,
    origin::Origin,
    table as sagas, telemetry,
    wire::Outcome,
};

/// Sagas whose replies are taken up in one transaction.
const BATCH: i64 = 50;

/// A reply on its way into the table.
pub(crate) struct Waiting {
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) origin: Origin,
}

/// Keeps replies for whoever can read them.
pub(crate) async fn keep(tx: &mut PgTransaction<'_>, replies: &[Waiting]) -> Result<(), Error> {
    if !replies.is_empty() {
        table::keep(tx, replies).await?;
        telemetry::replies_kept(replies.len());
    }
    Ok(())
}

/// Takes up what this replica can read. Returns of how many sagas. One that cannot go on stops no
/// other: its replies stay, and are tried again with the next look.
///
/// # Errors
///
/// When the database does not answer.
pub(crate) async fn take_up(coordinator: &Coordinator, pool: &PgPool) -> Result<usize, Error> {
    let mut tx = pool.begin_with(sagas::BEGIN).await?;
    if !table::any(&mut tx).await? {
        return Ok(0);
    }
    let ids: Vec<Uuid> = table::sagas(&mut tx, &coordinator.known(), BATCH).await?;
    // Each is taken up by itself: they are few, and come with a deploy.
    tx.rollback().await?;
    let mut taken_up = 0;
    for id in ids {
        // For the log alone: each reply goes on with its trace, see `saga.kept_reply`.
        let span = debug_span!("saga.kept_replies", saga_id = %id);
        match take_up_one(coordinator, pool, id).instrument(span).await {
            Ok(()) => taken_up += 1,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => warn!(saga_id = %id, %error, "a kept reply cannot be taken up"),
        }
    }
    Ok(taken_up)
}

async fn take_up_one(coordinator: &Coordinator, pool: &PgPool, id: Uuid) -> Result<(), Error> {
    let mut tx = pool.begin_with(sagas::BEGIN).await?;
    let loaded = sagas::load_for_update(&mut tx, &[id]).await?;
    let mut turns = Turns::of(coordinator, loaded);
    for kept in table::take(&mut tx, &[id]).await? {
        let (reply, origin) = kept?;
        let span = info_span!("saga.kept_reply", saga_id = %id, step = reply.operation.step);
        let trace = origin.trace.as_deref();
        let trace = trace.map_or_else(Vec::new, |came| outbox::resume(&span, came));
        turns.because_of(id, &span, trace);
        let _inside = span.enter();
        turns.take_answer(reply, &origin)?;
    }
    turns.write(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}
