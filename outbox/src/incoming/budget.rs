//! How often one message may fail, and how long to wait before it is tried again. Pure.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    Error,
    incoming::{config::Config, parking::Sickness},
};

/// Where an attempt at a message failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// Before the message was looked at: never its fault, whatever the database says (a server that
    /// is read-only after a failover, a password that was changed).
    Before(Error),
    /// While it was handled: its fault, unless the database was away.
    Within(Error),
}

impl Failed {
    pub(super) fn error(&self) -> &Error {
        match self {
            Self::Before(error) | Self::Within(error) => error,
        }
    }
}

/// What a message may still cost.
pub(super) struct Budget {
    failures: u32,
    pause: Duration,
    /// The message's id is random enough to keep a crowd of failed messages apart.
    share: f64,
}

impl Budget {
    pub(super) fn new(config: &Config, id: Uuid) -> Self {
        Self {
            failures: 0,
            pause: config.backoff,
            share: f64::from(id.as_bytes()[15]) / 255.0,
        }
    }

    /// Charges a failure. Some when the message is given up; a failure that is not the message's
    /// fault costs nothing and is waited out for as long as it takes.
    pub(super) fn spend(&mut self, failed: &Failed, config: &Config) -> Option<Sickness> {
        let Failed::Within(error) = failed else {
            return None;
        };
        if error.is_database_outage() {
            return None;
        }
        self.failures += 1;
        let attempts = i32::try_from(self.failures).unwrap_or(i32::MAX);
        if !error.is_transient() {
            Some(Sickness::refused(error, attempts))
        } else if self.failures >= config.attempts {
            Some(Sickness::exhausted(error, attempts))
        } else {
            None
        }
    }

    /// How long to wait before the next attempt: between half and all of a pause that doubles.
    pub(super) fn pause(&mut self, config: &Config) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(config.backoff_max);
        pause.mul_f64(0.5 + self.share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incoming::parked::Class;

    #[test]
    fn only_a_messages_own_failures_are_charged() {
        let config = Config {
            attempts: 2,
            ..Config::default()
        };
        let mut budget = Budget::new(&config, Uuid::nil());
        let flaky = Failed::Within(Error::transient("busy"));
        let outage = Failed::Within(Error::Database(sqlx::Error::PoolTimedOut));
        let early = Failed::Before(Error::permanent("read-only"));
        assert_eq!(budget.spend(&flaky, &config), None);
        for _ in 0..10 {
            assert_eq!(budget.spend(&outage, &config), None);
            assert_eq!(budget.spend(&early, &config), None);
        }
        let sickness = budget.spend(&flaky, &config).unwrap();
        assert_eq!((sickness.class, sickness.attempts), (Class::Exhausted, 2));
        let mut budget = Budget::new(&config, Uuid::nil());
        let refused = Failed::Within(Error::permanent("never"));
        let sickness = budget.spend(&refused, &config).unwrap();
        assert_eq!((sickness.class, sickness.attempts), (Class::Refused, 1));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let config = Config {
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_millis(300),
            ..Config::default()
        };
        let mut budget = Budget::new(&config, Uuid::max());
        let pauses = [(); 4].map(|()| budget.pause(&config).as_millis());
        assert_eq!(pauses, [100, 200, 300, 300]);
    }
}
