//! One look at the log: all its questions are answered from one snapshot.

pub(super) mod table;

use sqlx::{PgPool, PgTransaction};

use crate::{
    Error,
    outgoing::{cursor::Cursor, snapshot::Snapshot},
};

/// Begins a read-only transaction whose statements all see the same, with plans that use the log's
/// indexes whatever its statistics say.
pub(super) async fn begin(pool: &PgPool) -> Result<PgTransaction<'static>, Error> {
    let mut tx = pool
        .begin_with("begin isolation level repeatable read read only")
        .await?;
    table::pin_plans(&mut tx).await?;
    Ok(tx)
}

/// Whether the broker has acknowledged a row (or it was parked): the relay's own rule.
pub(super) fn is_settled(cursor: &Cursor, xid: u64, seq: i64) -> bool {
    cursor.settled.snapshot.has_ended(xid)
        || (cursor.target.snapshot.has_ended(xid) && seq <= cursor.last_seq)
}

/// What is visible now and was not in `since`.
pub(super) fn news(since: &Snapshot) -> Vec<(u64, i64)> {
    let open = since.in_progress().iter();
    open.map(|xid| (*xid, i64::MIN)).collect()
}
