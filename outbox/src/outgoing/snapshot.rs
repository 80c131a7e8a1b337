//! PostgreSQL's snapshots as values, and the difference between two of them.
//!
//! The rule is PgQ's (<https://github.com/pgq/pgq>, Skype's queue, 2007): what is visible in a
//! later snapshot and was not in an earlier one is exactly what committed between the two,
//! whatever numbers it drew and however long it took. Pure; the text form is the server's
//! `pg_snapshot`: `xmin:xmax:xip_list`
//! (<https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT>).

use std::{fmt, str::FromStr};

/// Which transactions had ended at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Every transaction below has ended.
    xmin: u64,
    /// No transaction from here on has ended.
    xmax: u64,
    /// Between the two: those still in progress, ascending.
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// No transaction from here on has ended.
    #[must_use]
    pub(crate) fn xmax(&self) -> u64 {
        self.xmax
    }

    /// The transactions in progress, ascending.
    #[must_use]
    pub(crate) fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }

    /// Whether the transaction had ended.
    #[must_use]
    pub(crate) fn has_ended(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// The transactions that were in progress here and have ended in `later`.
    #[must_use]
    pub(crate) fn ended_since(&self, later: &Snapshot) -> Vec<u64> {
        self.in_progress
            .iter()
            .copied()
            .filter(|&xid| later.has_ended(xid))
            .collect()
    }
}

/// Not the text form of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a pg_snapshot: {0:?}")]
pub(crate) struct ParseError(String);

impl FromStr for Snapshot {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || -> Option<Self> {
            let mut parts = text.split(':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            let mut in_progress = list
                .split(',')
                .filter(|xid| !xid.is_empty())
                .map(|xid| xid.parse().ok())
                .collect::<Option<Vec<u64>>>()?;
            in_progress.sort_unstable();
            (parts.next().is_none() && xmin <= xmax).then_some(Self {
                xmin,
                xmax,
                in_progress,
            })
        };
        parse().ok_or_else(|| ParseError(text.to_owned()))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn the_text_form_survives_a_round_trip() {
        for text in ["1:1:", "10:20:10,14,15", "10:20:10", "7:7:"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["", "1", "1:2", "a:b:", "1:2:x", "1:2:3:4", "5:1:"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_transaction_has_ended_when_it_is_below_xmax_and_not_in_progress() {
        let s = snapshot("10:20:10,14");
        assert!(s.has_ended(9) && s.has_ended(11) && s.has_ended(19));
        assert!(!s.has_ended(10) && !s.has_ended(14) && !s.has_ended(20));
    }

    #[test]
    fn the_difference_names_the_transactions_that_were_open_and_are_not_any_more() {
        let before = snapshot("10:20:10,14,15");
        assert_eq!(before.ended_since(&snapshot("14:30:14,25")), [10, 15]);
        assert_eq!(before.ended_since(&before), [] as [u64; 0]);
    }
}
