//! Replies that are kept beside their sagas.
//!
//! In a rolling deploy an old replica may take a reply to a saga that a new one has started; and a
//! saga that is parked as a whole has nothing decided about it. What passes here: such replies, kept
//! in the transaction that handles their message, and taken up by any replica that knows the version,
//! or when a person retries. Promised: none is lost, none is counted twice; a saga whose replies
//! cannot be taken up stops no other: it is parked with the reason, or tried again later and later.
//! Not promised: that anybody ever knows the version. If we die here, the reply is still kept, or its
//! message comes again.

pub(crate) mod table;

use sqlx::{PgPool, PgTransaction};
use tracing::{Instrument, debug_span, info_span, warn};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Failed, Turns, stop},
    table as sagas, telemetry,
};

pub(crate) use table::Waiting;

/// Sagas whose replies are taken up in one go.
const BATCH: i64 = 50;

/// Keeps replies for whoever can decide about them.
pub(crate) async fn keep(tx: &mut PgTransaction<'_>, replies: &[Waiting]) -> Result<(), Error> {
    if !replies.is_empty() {
        table::keep(tx, replies).await?;
        telemetry::replies_kept(replies.len());
    }
    Ok(())
}

/// Takes up what this replica can decide about. Returns of how many sagas.
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
        let taking = take_up_one(coordinator, pool, id);
        taken_up += usize::from(taking.instrument(span).await?);
    }
    Ok(taken_up)
}

/// Whether the saga went on. If not, it is parked, or its replies are put off.
async fn take_up_one(coordinator: &Coordinator, pool: &PgPool, id: Uuid) -> Result<bool, Error> {
    let mut tx = pool.begin_with(sagas::BEGIN).await?;
    let Some(locked) = sagas::load_for_update(&mut tx, &[id]).await?.pop() else {
        return Ok(false);
    };
    let failed = match decide(coordinator, &mut tx, locked).await {
        Ok(went_on) => {
            tx.commit().await?;
            return Ok(went_on);
        }
        Err(failed) => failed,
    };
    tx.rollback().await?;
    let mut tx = pool.begin_with(sagas::BEGIN).await?;
    let own = failed.error.is_the_sagas_own();
    if !own || !stop(&mut tx, id, &failed).await? {
        warn!(saga_id = %id, error = %failed, "a kept reply cannot be taken up and is put off");
        table::postpone(&mut tx, id).await?;
    }
    tx.commit().await?;
    Ok(false)
}

async fn decide(
    coordinator: &Coordinator,
    tx: &mut PgTransaction<'_>,
    locked: sagas::Locked,
) -> Result<bool, Failed> {
    let id = locked.id;
    let loaded = locked
        .loaded
        .map_err(|error| Failed::new("cannot go on", error))?;
    let asking = |error| Failed::new("cannot ask for its kept replies", error);
    if loaded.instance.stopped {
        table::hold(tx, id).await.map_err(asking)?;
        return Ok(false);
    }
    let mut turns = Turns::of(coordinator, vec![loaded]);
    for kept in table::take(tx, id).await.map_err(asking)? {
        let (reply, origin) = kept.map_err(|error| Failed::new("cannot read a reply", error))?;
        let span = info_span!("saga.kept_reply", saga_id = %id, step = reply.operation.step);
        let trace = origin.trace.as_deref();
        let trace = trace.map_or_else(Vec::new, |came| outbox::resume(&span, came));
        turns.because_of(id, &span, trace);
        let _inside = span.enter();
        turns.take_answer(reply, &origin)?;
    }
    let written = turns.write(tx).await;
    written.map_err(|error| Failed::new("cannot write what a kept reply leads to", error))?;
    Ok(true)
}
