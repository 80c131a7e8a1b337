//! What may be chosen about a consumer.

use std::time::Duration;

use crate::broker::OnPoison;

/// Settings of a consumer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most messages in one transaction; by default 500. Participants of sagas open a savepoint
    /// for each: at most 50 there, or every snapshot on the server slows down.
    pub batch: usize,
    /// Attempts at a message that fails transiently before it is parked; by default 8. Failures of
    /// the database itself are not counted.
    pub attempts: u32,
    /// First pause between two attempts; it doubles, with jitter. By default 50 ms.
    pub backoff: Duration,
    /// Longest pause between two attempts; by default 5 s.
    pub backoff_max: Duration,
    /// By default [`OnPoison::BlockKey`].
    pub on_poison: OnPoison,
    /// Most bytes of records that a partition may have in memory, waiting or being handled; by
    /// default 32 MiB. One record larger than that is still taken, alone. The client holds up to
    /// 16 MiB more for all partitions together.
    pub lane_bytes: usize,
    /// How long a client may deliver nothing from a partition that has something, before it is
    /// given up and a new one joins; by default 2 minutes.
    pub stalled_after: Duration,
    /// How long a message is remembered after it was handled; by default 15 days, `None` for ever.
    /// Must be longer than the broker keeps records of any topic read here plus `replay_window`,
    /// because a record that the inbox has forgotten would be handled again; the consumer refuses
    /// to start otherwise. All consumers of a database share its inbox: the shortest counts.
    pub retention: Option<Duration>,
    /// How old a message may be when its sender's relay publishes it, again or for the first time;
    /// by default 7 days.
    pub replay_window: Duration,
    /// How long what people did (`outbox.audit`) is remembered; by default 365 days, `None` for ever.
    /// All consumers of a database see to it: the shortest counts.
    pub audit_retention: Option<Duration>,
    /// How long a stopping consumer waits for its workers; by default 6 s.
    pub grace: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Config {
    fn default() -> Self {
        Self {
            batch: 500,
            attempts: 8,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            on_poison: OnPoison::default(),
            lane_bytes: 32 << 20,
            stalled_after: Duration::from_secs(120),
            retention: Some(15 * DAY),
            replay_window: 7 * DAY,
            audit_retention: Some(365 * DAY),
            grace: Duration::from_secs(6),
        }
    }
}
