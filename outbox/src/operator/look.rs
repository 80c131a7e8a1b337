//! One look at the log: all its questions are answered from one snapshot.

pub(super) mod table;

use sqlx::{PgPool, PgTransaction};

use crate::{
    Error,
    operator::look::table::Unsettled,
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

/// Where the rows are that [`is_settled`] denies, as ranges of the log's two indexes. Disjoint.
///
/// A row that is not settled belongs to a transaction that was open in `target` (all its rows), or
/// was open in `settled` and had ended in `target` (those after `last_seq`), or began later. The
/// last are by far the most, and lie above a number that is known: above `last_seq`, but for those
/// that began even after `target`, which lie above its floor.
pub(super) fn unsettled(cursor: &Cursor) -> Unsettled {
    let (settled, target) = (&cursor.settled, &cursor.target);
    let still_open = target.snapshot.in_progress();
    let ended = settled.snapshot.ended_since(&target.snapshot);
    let late = still_open.iter().map(|xid| (*xid, i64::MIN));
    let late = late.chain(ended.into_iter().map(|xid| (xid, cursor.last_seq)));
    Unsettled {
        began_at: settled.snapshot.xmax(),
        above: settled.floor.max(cursor.last_seq),
        but_not: still_open.to_vec(),
        began_later_at: target.snapshot.xmax(),
        later_above: target.floor,
        later_to: cursor.last_seq,
        late: late.collect(),
    }
}

/// What is visible now and was not in `since`.
pub(super) fn news(since: &Snapshot) -> Vec<(u64, i64)> {
    let open = since.in_progress().iter();
    open.map(|xid| (*xid, i64::MIN)).collect()
}
