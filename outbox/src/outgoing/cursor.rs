//! How far the relay is: a value that can be written down between any two acknowledgements.

use crate::outgoing::snapshot::Snapshot;

/// A point at which the log can be cut in two: a snapshot, with a number to read on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// What was visible.
    pub(crate) snapshot: Snapshot,
    /// Every transaction at or above `snapshot.xmax()` has drawn only higher numbers.
    ///
    /// The sequence's value at the time of the snapshot would not do: `xmax` is one above the
    /// latest transaction that has *ended*, and others above that may long be drawing numbers. It
    /// is the value just before a transaction of the relay's own got its id, one that had ended
    /// by the time of the snapshot: whoever is above it began later and drew later.
    pub(crate) floor: i64,
}

/// The place in the log up to which everything has been acknowledged by the broker.
///
/// A *tick* is what is visible in `target` and was not in `settled`, in the order of `seq`; of it,
/// everything up to `last_seq` is acknowledged. When the tick is exhausted, `target` becomes
/// `settled`, and `last_seq` starts again below everything: a transaction that was open may hold
/// lower numbers than those already sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Everything visible in it is acknowledged.
    pub(crate) settled: Cut,
    /// Where the tick under way ends; equal to `settled` between ticks.
    pub(crate) target: Cut,
    /// Acknowledged within the tick.
    pub(crate) last_seq: i64,
    /// No row of the tick has a higher number.
    pub(crate) ceiling: i64,
}

impl Cursor {
    /// Between two ticks: everything visible in `settled` is acknowledged, and no more.
    #[must_use]
    pub(crate) fn at(settled: Cut) -> Self {
        Self {
            target: settled.clone(),
            settled,
            last_seq: 0,
            ceiling: i64::MAX,
        }
    }

    /// Whether no tick is under way.
    #[must_use]
    pub(crate) fn is_between_ticks(&self) -> bool {
        self.settled == self.target
    }

    /// Whatever has a lower number is acknowledged, except what transactions wrote that were open for long.
    #[must_use]
    pub(crate) fn passed(&self) -> i64 {
        match self.is_between_ticks() {
            true => self.settled.floor,
            false => self.settled.floor.max(self.last_seq),
        }
    }
}
