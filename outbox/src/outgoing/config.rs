//! A relay's settings, and three sets of them with names.

use std::{fmt, str::FromStr, time::Duration};

use crate::{Error, broker::Tuning, outgoing::source::Source, settings};

/// Settings of a relay.
#[derive(Debug, Clone)]
pub struct Config {
    /// The CloudEvents `source` of every message; by default `/outbox`.
    pub source: Source,
    /// How long a leader may be silent before a standby takes over; by default 1.5 s. Shorter
    /// means faster take-over and more false alarms on a starved machine (harmless: duplicates).
    pub lease: Duration,
    /// Most rows read at once; by default 2,000. Large rows are read fewer at once.
    pub page: usize,
    /// Most messages on their way to the broker; by default 20,000.
    pub max_in_flight: usize,
    /// Most bytes on their way; by default 32 MiB.
    pub max_in_flight_bytes: usize,
    /// Shortest pause between two looks at the log, while there is work; by default 1 ms.
    pub poll_busy: Duration,
    /// Longest pause, when idle; by default 20 ms. Bounds the latency of the first message.
    pub poll_idle: Duration,
    /// How often the cursor is written down at most; by default 50 ms. A crash repeats what was
    /// acknowledged since.
    pub cursor_interval: Duration,
    /// How long a stopping relay waits for what is on its way; by default 5 s.
    pub grace: Duration,
    /// How long a producer may answer nothing, while the broker answers, until another takes its place;
    /// by default a minute. Costs duplicates where it was only slow.
    pub silence: Duration,
    /// The producer's trade between latency and throughput.
    pub tuning: Tuning,
}

impl Default for Config {
    fn default() -> Self {
        Self::of(Profile::Balanced)
    }
}

impl Config {
    /// The settings of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let balanced = Self {
            source: Source::default(),
            lease: Duration::from_millis(1500),
            page: 2_000,
            max_in_flight: 20_000,
            max_in_flight_bytes: 32 << 20,
            poll_busy: Duration::from_millis(1),
            poll_idle: Duration::from_millis(20),
            cursor_interval: Duration::from_millis(50),
            grace: Duration::from_secs(5),
            silence: Duration::from_secs(60),
            tuning: Tuning::default(),
        };
        match profile {
            Profile::Balanced => balanced,
            Profile::LowLatency => Self {
                poll_idle: Duration::from_millis(2),
                tuning: Tuning {
                    linger_ms: 0.0,
                    ..balanced.tuning
                },
                ..balanced
            },
            Profile::Throughput => Self {
                page: 5_000,
                max_in_flight: 50_000,
                max_in_flight_bytes: 64 << 20,
                poll_busy: Duration::from_millis(5),
                poll_idle: Duration::from_millis(100),
                cursor_interval: Duration::from_millis(200),
                tuning: Tuning {
                    linger_ms: 5.0,
                    queue_kib: 128 << 10,
                    ..balanced.tuning
                },
                ..balanced
            },
        }
    }
}

impl Config {
    /// Refuses what cannot work, in one line that names the setting.
    pub(super) fn check(&self) -> Result<(), Error> {
        let tuning = &self.tuning;
        settings::check(
            "relay",
            &[
                (
                    "lease",
                    !self.lease.is_zero(),
                    "must be longer than nothing",
                ),
                ("page", self.page > 0, "must be at least 1"),
                (
                    "max_in_flight",
                    self.max_in_flight > 0,
                    "must be at least 1",
                ),
                (
                    "max_in_flight_bytes",
                    self.max_in_flight_bytes > 0,
                    "must be at least 1",
                ),
                (
                    "poll_idle",
                    !self.poll_idle.is_zero(),
                    "must be longer than nothing",
                ),
                (
                    "poll_busy",
                    self.poll_busy <= self.poll_idle,
                    "must not be longer than poll_idle",
                ),
                (
                    "cursor_interval",
                    self.cursor_interval <= self.lease,
                    "must not be longer than lease",
                ),
                (
                    "tuning.linger_ms",
                    tuning.linger_ms.is_finite() && tuning.linger_ms >= 0.0,
                    "must be 0 or more",
                ),
                (
                    "tuning.queue_kib",
                    tuning.queue_kib > 0,
                    "must be at least 1",
                ),
                (
                    "tuning.max_record_bytes",
                    tuning.max_record_bytes > 0,
                    "must be at least 1",
                ),
                (
                    "tuning.batch_bytes",
                    tuning.batch_bytes > 0,
                    "must be at least 1",
                ),
            ],
        )
    }
}

/// A named set of settings, for those who do not want to choose each: what is dear, latency or
/// the machine's work? Each carries the same promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Looks at the log all the time and sends at once. Costs a few hundred small statements a
    /// second when idle.
    LowLatency,
    /// Some milliseconds of latency, little work when idle.
    #[default]
    Balanced,
    /// Larger pages and batches, up to twice the memory; tens of milliseconds of latency.
    Throughput,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::LowLatency, Self::Balanced, Self::Throughput];

    /// Its name, as on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowLatency => "low-latency",
            Self::Balanced => "balanced",
            Self::Throughput => "throughput",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |profile: &Self| profile.as_str() == text;
        let profile = Self::ALL.into_iter().find(named);
        profile.ok_or_else(|| "must be low-latency, balanced or throughput".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_its_name() {
        let change = |profile, change: fn(&mut Config)| {
            let mut config = Config::of(profile);
            change(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        for profile in Profile::ALL {
            assert_eq!(change(profile, |_| {}), Ok(()));
        }
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 11] = [
            ("lease", |config| config.lease = Duration::ZERO),
            ("page", |config| config.page = 0),
            ("max_in_flight", |config| config.max_in_flight = 0),
            ("max_in_flight_bytes", |config| {
                config.max_in_flight_bytes = 0
            }),
            ("poll_idle", |config| config.poll_idle = Duration::ZERO),
            ("poll_busy", |config| {
                config.poll_busy = Duration::from_secs(1)
            }),
            ("cursor_interval", |config| {
                config.cursor_interval = Duration::from_secs(2)
            }),
            ("tuning.linger_ms", |config| {
                config.tuning.linger_ms = f64::NAN
            }),
            ("tuning.queue_kib", |config| config.tuning.queue_kib = 0),
            ("tuning.max_record_bytes", |config| {
                config.tuning.max_record_bytes = 0
            }),
            ("tuning.batch_bytes", |config| config.tuning.batch_bytes = 0),
        ];
        for (name, set) in cases {
            let reason = change(Profile::Balanced, set).unwrap_err();
            assert!(
                reason.starts_with(&format!("relay: {name} must ")),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_profile_gives_up_what_it_is_not_named_after() {
        let [quick, balanced, wide] = Profile::ALL.map(Config::of);
        let default = Config::default();
        assert_eq!(format!("{default:?}"), format!("{balanced:?}"));
        // Latency: neither the client nor the loop waits for company.
        assert_eq!(quick.tuning.linger_ms, 0.0);
        assert!(quick.poll_busy <= balanced.poll_busy && balanced.poll_busy < wide.poll_busy);
        assert!(quick.poll_idle < balanced.poll_idle && balanced.poll_idle < wide.poll_idle);
        assert!(quick.poll_idle <= Duration::from_millis(2));
        // Throughput: more at once, written down less often.
        assert!(wide.page > balanced.page && wide.max_in_flight > balanced.max_in_flight);
        assert!(wide.max_in_flight_bytes > balanced.max_in_flight_bytes);
        assert!(wide.tuning.linger_ms > balanced.tuning.linger_ms);
        assert!(wide.tuning.queue_kib > balanced.tuning.queue_kib);
        assert!(wide.cursor_interval > balanced.cursor_interval);
        // What a promise rests on is nobody's to trade.
        for config in [&quick, &wide] {
            assert_eq!(config.lease, balanced.lease);
            assert_eq!(config.grace, balanced.grace);
            assert!(config.poll_idle < config.lease / 3);
        }
        for profile in Profile::ALL {
            assert_eq!(profile.as_str().parse(), Ok(profile));
        }
    }
}
