//! What may be chosen about a consumer.

use std::time::Duration;

use crate::{Error, broker::OnPoison, settings};

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
    /// to start otherwise. All consumers of a database share its inbox: the longest counts.
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

impl Config {
    /// Refuses what cannot work, in one line that names the setting.
    pub(super) fn check(&self) -> Result<(), Error> {
        settings::check(
            "consumer",
            &[
                ("batch", self.batch > 0, "must be at least 1"),
                ("attempts", self.attempts > 0, "must be at least 1"),
                (
                    "backoff",
                    !self.backoff.is_zero(),
                    "must be longer than nothing",
                ),
                (
                    "backoff_max",
                    self.backoff_max >= self.backoff,
                    "must not be shorter than backoff",
                ),
                ("lane_bytes", self.lane_bytes > 0, "must be at least 1"),
                (
                    "stalled_after",
                    !self.stalled_after.is_zero(),
                    "must be longer than nothing",
                ),
                (
                    "retention",
                    self.retention
                        .is_none_or(|retention| retention > self.replay_window),
                    "must be longer than replay_window: a message that the inbox has forgotten is handled again",
                ),
                (
                    "audit_retention",
                    self.audit_retention
                        .is_none_or(|retention| retention >= DAY),
                    "must be at least a day",
                ),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_its_name() {
        let change = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        assert_eq!(change(|_| {}), Ok(()));
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 8] = [
            ("batch", |config| config.batch = 0),
            ("attempts", |config| config.attempts = 0),
            ("backoff", |config| config.backoff = Duration::ZERO),
            ("backoff_max", |config| {
                config.backoff_max = Duration::from_millis(1)
            }),
            ("lane_bytes", |config| config.lane_bytes = 0),
            ("stalled_after", |config| {
                config.stalled_after = Duration::ZERO
            }),
            ("retention", |config| config.retention = Some(7 * DAY)),
            ("audit_retention", |config| {
                config.audit_retention = Some(DAY / 2)
            }),
        ];
        for (name, set) in cases {
            let reason = change(set).unwrap_err();
            assert!(
                reason.starts_with(&format!("consumer: {name} must ")),
                "{reason}"
            );
            assert_eq!(reason.lines().count(), 1, "{reason}");
        }
    }
}
