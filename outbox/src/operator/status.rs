//! The outbox at a glance.

pub(super) mod table;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use crate::{
    Error,
    operator::{look, parked::Class},
    outgoing::backlog::{table::count, unsettled},
};

/// A backlog up to this is counted, a larger one estimated.
const COUNTED: i64 = 1_000;

/// What goes on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = OutboxStatus))]
pub struct Status {
    /// Who publishes; `None` when nobody does.
    pub lease: Option<Lease>,
    /// How often a relay has taken over.
    pub epoch: i64,
    /// Set while an operator keeps the leader from sending.
    pub paused: Option<Pause>,
    /// Since the cursor was last written, in seconds. A leader writes it several times a second,
    /// also when idle.
    pub cursor_age_seconds: f64,
    /// What is not published yet.
    pub backlog: Backlog,
    /// Age of the oldest message that is not published, in seconds.
    pub oldest_unpublished_seconds: Option<f64>,
    /// What was not sent, by class.
    pub parked: Vec<ParkedCount>,
    /// Keys whose messages wait behind a refused one.
    pub blocked_keys: i64,
    /// What could not be handled here, by consumer.
    pub inbox_parked: Vec<InboxParked>,
    /// The log's ring.
    pub partitions: Vec<Partition>,
    /// Where in the ring the writers are.
    pub turn: Turn,
}

/// A relay's lease.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = RelayLease))]
pub struct Lease {
    /// The relay's name for itself.
    pub owner: String,
    /// How long it lasts if it is not renewed.
    pub seconds_left: f64,
}

/// An operator's pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = RelayPause))]
pub struct Pause {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Who, and why if that was said.
    pub by: String,
}

/// How much is not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = OutboxBacklog))]
pub struct Backlog {
    /// Messages; an estimate unless `exact`.
    pub messages: i64,
    /// Whether they were counted. An estimate is the distance of two numbers of the log: too high by the
    /// transactions that were rolled back, too low by those that were open for long.
    pub exact: bool,
}

/// Parked messages of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct ParkedCount {
    /// Why they are parked.
    pub class: Class,
    /// How many.
    pub messages: i64,
    /// How long the first has been lying there, in seconds.
    pub oldest_seconds: f64,
}

/// Messages a consumer could not handle.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct InboxParked {
    /// The consumer.
    pub consumer: String,
    /// How many.
    pub messages: i64,
    /// How long the first has been lying there, in seconds.
    pub oldest_seconds: f64,
}

/// One partition of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = LogPartition))]
pub struct Partition {
    /// Its table.
    pub name: String,
    /// On disk, indexes included.
    pub bytes: i64,
    /// By the server's statistics.
    pub rows_estimate: i64,
    /// Whether the next message goes here.
    pub current: bool,
}

/// Where in the ring the writers are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = LogTurn))]
pub struct Turn {
    /// The last number given out.
    pub seq: i64,
    /// How much of the ring this turn has filled, in percent.
    pub percent: f64,
    /// How much of the current partition, in percent.
    pub partition_percent: f64,
}

/// Looks at everything, cheaply: nothing here depends on how much is published.
///
/// # Errors
///
/// [`Error::Database`], and [`Error::ForeignCursor`] when the stored snapshots are not readable.
pub async fn status(pool: &PgPool) -> Result<Status, Error> {
    let mut tx = look::begin(pool).await?;
    let relay = table::relay(&mut tx).await?;
    let cursor = look::table::cursor(&mut tx).await?;
    let counted = count(&mut tx, &unsettled(&cursor), COUNTED).await?;
    let exact: i64 = counted.iter().map(|topic| topic.messages).sum();
    let (seq, ring) = (table::last_seq(&mut tx).await?, table::ring(&mut tx).await?);
    let status = Status {
        lease: relay.lease,
        epoch: relay.epoch,
        paused: relay.paused,
        cursor_age_seconds: relay.cursor_age_seconds,
        backlog: match exact < COUNTED {
            true => Backlog {
                messages: exact,
                exact: true,
            },
            false => Backlog {
                messages: (seq - cursor.passed()).max(exact),
                exact: false,
            },
        },
        oldest_unpublished_seconds: counted
            .iter()
            .map(|topic| topic.oldest_seconds)
            .reduce(f64::max),
        parked: table::parked_counts(&mut tx).await?,
        blocked_keys: table::blocked_keys(&mut tx).await?,
        inbox_parked: table::inbox_parked_counts(&mut tx).await?,
        partitions: table::partitions(&mut tx, seq).await?,
        turn: turn(seq, ring),
    };
    tx.rollback().await?;
    Ok(status)
}

/// How large the ring is, as chosen at the migration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    /// Numbers in a partition.
    pub(super) partition: i64,
}

impl Ring {
    /// Numbers in a turn.
    pub(super) fn turn(self) -> i64 {
        4 * self.partition
    }
}

fn turn(seq: i64, ring: Ring) -> Turn {
    let percent = |part: i64, whole: i64| 100.0 * part as f64 / whole as f64;
    Turn {
        seq,
        percent: percent(seq % ring.turn(), ring.turn()),
        partition_percent: percent(seq % ring.partition, ring.partition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_begins_anew_after_four_partitions() {
        let turn = |seq| turn(seq, Ring { partition: 1024 });
        assert_eq!(turn(0).percent, 0.0);
        assert_eq!(turn(512).partition_percent, 50.0);
        assert_eq!(turn(3 * 1024).percent, 75.0);
        assert_eq!(turn(4 * 1024).percent, 0.0);
        assert_eq!(turn(5 * 1024).percent, 25.0);
    }
}
