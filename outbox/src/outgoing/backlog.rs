//! What the broker has not acknowledged yet: where it is in the log. Pure.
//!
//! The relay's metrics and the operator's looks count by this one rule.

pub(crate) mod table;

use crate::outgoing::cursor::Cursor;

/// Where the rows are that a cursor has not passed, as ranges of the log's two indexes. Disjoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// Transactions from here on, with numbers above, except `but_not`.
    pub(crate) began_at: u64,
    pub(crate) above: i64,
    pub(crate) but_not: Vec<u64>,
    /// Transactions from here on, with numbers above and up to.
    pub(crate) began_later_at: u64,
    pub(crate) later_above: i64,
    pub(crate) later_to: i64,
    /// Single transactions, each with the number above which its rows count.
    pub(crate) late: Vec<(u64, i64)>,
}

/// Where the rows are that the broker has not acknowledged, by the relay's own rule.
///
/// Such a row belongs to a transaction that was open in `target` (all its rows), or
/// was open in `settled` and had ended in `target` (those after `last_seq`), or began later. The
/// last are by far the most, and lie above a number that is known: above `last_seq`, but for those
/// that began even after `target`, which lie above its floor.
pub(crate) fn unsettled(cursor: &Cursor) -> Unsettled {
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
