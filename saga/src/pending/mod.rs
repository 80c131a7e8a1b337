//! Replies to sagas of versions that this replica lacks.
//!
//! In a rolling deploy an old replica may take a reply to a saga that a new one has started. What
//! passes here: such replies, kept in the transaction that handles their message, and taken up by
//! any replica that knows the version. Promised: none is lost, none is counted twice. Not promised:
//! that anybody ever knows the version. If we die here, the reply is still
//! kept, or its message comes again.

mod table;

use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Turns},
    event::Input,
    operation::Operation,
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
}

/// Keeps replies for whoever can read them.
pub(crate) async fn keep(tx: &mut PgTransaction<'_>, replies: &[Waiting]) -> Result<(), Error> {
    if !replies.is_empty() {
        table::keep(tx, replies).await?;
        telemetry::replies_kept(replies.len());
    }
    Ok(())
}

/// Takes up what this replica can read. Returns of how many sagas.
///
/// # Errors
///
/// When the database does not answer, or a saga cannot go on; its replies are still kept then.
pub(crate) async fn take_up(coordinator: &Coordinator, pool: &PgPool) -> Result<usize, Error> {
    let mut tx = pool.begin_with(sagas::BEGIN).await?;
    let ids: Vec<Uuid> = table::sagas(&mut tx, &coordinator.known(), BATCH).await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let loaded = sagas::load_for_update(&mut tx, &ids).await?;
    let mut turns = Turns::of(coordinator, loaded);
    for reply in table::take(&mut tx, &ids).await? {
        let reply = reply?;
        turns.take(reply.operation.saga_id, &Input::Reply(reply))?;
    }
    turns.write(&mut tx).await?;
    tx.commit().await?;
    Ok(ids.len())
}
