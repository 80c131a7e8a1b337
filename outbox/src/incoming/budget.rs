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

/// What is to be done about some messages.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing: they are handled or parked.
    Settled,
    /// One of them may be to blame: each half by itself.
    Halve,
    /// This one is given up.
    Sick(Sickness),
}

/// What a message may still cost.
pub(super) struct Budget {
    failures: u32,
    /// Of several nobody is charged: it is looked for who is to blame.
    is_one: bool,
    pause: Duration,
    /// The message's id is random enough to keep a crowd of failed messages apart.
    share: f64,
}

impl Budget {
    /// For so many messages, of which this is the first.
    pub(super) fn new(config: &Config, id: Uuid, messages: usize) -> Self {
        Self {
            failures: 0,
            is_one: messages == 1,
            pause: config.backoff,
            share: f64::from(id.as_bytes()[15]) / 255.0,
        }
    }

    /// Charges a failure. `None` when the same is to be tried again; a failure that is not the
    /// messages' fault costs nothing and is waited out for as long as it takes.
    pub(super) fn spend(&mut self, failed: &Failed, config: &Config) -> Option<Verdict> {
        let Failed::Within(error) = failed else {
            return None;
        };
        if error.is_database_outage() {
            return None;
        }
        if !self.is_one {
            return Some(Verdict::Halve);
        }
        self.failures += 1;
        let attempts = i32::try_from(self.failures).unwrap_or(i32::MAX);
        let sickness = if !error.is_transient() {
            Sickness::refused(error, attempts)
        } else if self.failures >= config.attempts {
            Sickness::exhausted(error, attempts)
        } else {
            return None;
        };
        Some(Verdict::Sick(sickness))
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
        let mut budget = Budget::new(&config, Uuid::nil(), 1);
        let flaky = Failed::Within(Error::transient("busy"));
        let outage = Failed::Within(Error::Database(sqlx::Error::PoolTimedOut));
        let early = Failed::Before(Error::permanent("read-only"));
        assert_eq!(budget.spend(&flaky, &config), None);
        for _ in 0..10 {
            assert_eq!(budget.spend(&outage, &config), None);
            assert_eq!(budget.spend(&early, &config), None);
        }
        let given_up = |budget: &mut Budget, failed| match budget.spend(failed, &config) {
            Some(Verdict::Sick(sickness)) => (sickness.class, sickness.attempts),
            other => panic!("{other:?}"),
        };
        assert_eq!(given_up(&mut budget, &flaky), (Class::Exhausted, 2));
        let mut budget = Budget::new(&config, Uuid::nil(), 1);
        let refused = Failed::Within(Error::permanent("never"));
        assert_eq!(given_up(&mut budget, &refused), (Class::Refused, 1));
        let mut budget = Budget::new(&config, Uuid::nil(), 500);
        for own in [&flaky, &refused] {
            assert_eq!(budget.spend(own, &config), Some(Verdict::Halve));
        }
        assert_eq!(budget.spend(&outage, &config), None, "all of them again");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let config = Config {
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_millis(300),
            ..Config::default()
        };
        let mut budget = Budget::new(&config, Uuid::max(), 1);
        let pauses = [(); 4].map(|()| budget.pause(&config).as_millis());
        assert_eq!(pauses, [100, 200, 300, 300]);
    }
}
