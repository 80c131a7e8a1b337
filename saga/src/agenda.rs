//! When a saga goes on by itself: its timers, at most one for each step and phase.
//!
//! They stand in the saga's own row, so that a turn writes them with everything else; nobody else
//! may, because nobody else holds that row. Pure: the moment is given.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc, serde::ts_microseconds};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    UnknownWord,
    event::{Attempt, Timer},
    operation::Phase,
};

/// The phase of a saga's own timer.
pub(crate) const DEADLINE: &str = "deadline";
/// The phase of a timer that stands for a granted claim; its step is the resource.
pub(crate) const LOCK: &str = "lock";

/// Nobody lives to see the end of a longer wait, and every clock can tell it.
pub(crate) const LONGEST: TimeDelta = TimeDelta::days(100 * 365);

/// What a timer stands for, in words and numbers.
pub(crate) struct Place<'a> {
    /// Empty for the saga's own deadline; the resource for a claim that was granted.
    pub(crate) step: &'a str,
    pub(crate) phase: &'a str,
    /// Which attempt is meant: a timer of another one is dropped by the decision.
    pub(crate) round: i32,
    pub(crate) attempt: i32,
}

impl<'a> Place<'a> {
    pub(crate) fn of(timer: &'a Timer) -> Self {
        let (step, phase, round, attempt) = match timer {
            Timer::Attempt(due) => {
                let phase = due.phase.as_str();
                (due.step.as_str(), phase, due.round, due.attempt)
            }
            Timer::Deadline => ("", DEADLINE, 0, 0),
            Timer::Lock { resource } => (resource.as_str(), LOCK, 0, 0),
        };
        Self {
            step,
            phase,
            round,
            attempt,
        }
    }
}

/// One timer: a [`Place`] and a moment. Stored as an array, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Entry {
    step: String,
    phase: String,
    round: i32,
    attempt: i32,
    #[serde(with = "ts_microseconds")]
    fire_at: DateTime<Utc>,
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fire_at = self.fire_at.timestamp_micros();
        (&self.step, &self.phase, self.round, self.attempt, fire_at).serialize(serializer)
    }
}

impl Entry {
    fn new(timer: &Timer, fire_at: DateTime<Utc>) -> Self {
        let place = Place::of(timer);
        Self {
            step: place.step.to_owned(),
            phase: place.phase.to_owned(),
            round: place.round,
            attempt: place.attempt,
            fire_at,
        }
    }

    fn is(&self, step: &str, phase: &str) -> bool {
        self.step == step && self.phase == phase
    }

    fn timer(self) -> Result<Timer, UnknownWord> {
        Ok(match self.phase.as_str() {
            DEADLINE => Timer::Deadline,
            LOCK => Timer::Lock {
                resource: self.step,
            },
            phase => Timer::Attempt(Attempt {
                phase: phase.parse()?,
                step: self.step,
                round: self.round,
                attempt: self.attempt,
            }),
        })
    }
}

/// The timers of one saga.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Agenda(Vec<Entry>);

impl Agenda {
    /// Sets a timer; the one of its step and phase, if there is one, is gone.
    pub(crate) fn set(&mut self, timer: &Timer, now: DateTime<Utc>, after: Duration) {
        let entry = Entry::new(timer, after_a_while(now, after));
        let mut entries = self.0.iter_mut();
        match entries.find(|known| known.is(&entry.step, &entry.phase)) {
            Some(known) => *known = entry,
            None => self.0.push(entry),
        }
    }

    /// This step and phase waits for no moment any more.
    pub(crate) fn clear(&mut self, step: &str, phase: Phase) {
        self.0.retain(|entry| !entry.is(step, phase.as_str()));
    }

    /// An ended saga waits for nothing.
    pub(crate) fn clear_all(&mut self) {
        self.0.clear();
    }

    /// Whether each of them can be understood.
    ///
    /// # Errors
    ///
    /// When somebody wrote a phase that is none.
    pub(crate) fn check(&self) -> Result<(), UnknownWord> {
        let mut entries = self.0.iter().cloned();
        entries.try_for_each(|entry| entry.timer().map(drop))
    }

    /// The attempts that are due.
    pub(crate) fn due_attempts(&self, now: DateTime<Utc>) -> Vec<Attempt> {
        let due = self.0.iter().filter(|entry| entry.fire_at <= now);
        let timers = due.filter_map(|entry| entry.clone().timer().ok());
        let attempts = timers.filter_map(|timer| match timer {
            Timer::Attempt(attempt) => Some(attempt),
            Timer::Deadline | Timer::Lock { .. } => None,
        });
        attempts.collect()
    }

    /// Takes what is due, the longest overdue first. What cannot be understood stands for nothing:
    /// see [`Agenda::check`].
    pub(crate) fn take_due(&mut self, now: DateTime<Utc>) -> Vec<Timer> {
        let all = std::mem::take(&mut self.0).into_iter();
        let (mut due, later): (Vec<_>, Vec<_>) = all.partition(|entry| entry.fire_at <= now);
        self.0 = later;
        due.sort_by_key(|entry| entry.fire_at);
        due.into_iter().filter_map(|due| due.timer().ok()).collect()
    }

    /// When the first of them is due.
    pub(crate) fn first(&self) -> Option<DateTime<Utc>> {
        self.0.iter().map(|entry| entry.fire_at).min()
    }

    /// Until when a step waits.
    pub(crate) fn until(&self, step: &str, phase: &str) -> Option<DateTime<Utc>> {
        let mut entries = self.0.iter();
        let entry = entries.find(|entry| entry.is(step, phase));
        entry.map(|entry| entry.fire_at)
    }

    /// When the saga has to be looked at, where it was to be looked at `before`. A look that comes
    /// early finds nothing and is moved on; one that is left as it is costs no write to an index. So
    /// it is left wherever it does no harm: not if it would come too late, not if it is over.
    pub(crate) fn look_at(
        &self,
        before: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let first = self.first()?;
        Some(
            before
                .filter(|&at| now < at && at <= first)
                .unwrap_or(first),
        )
    }
}

fn after_a_while(now: DateTime<Utc>, after: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(after).map_or(LONGEST, |after| after.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn attempt(step: &str, attempt: i32) -> Timer {
        Timer::Attempt(Attempt {
            step: step.to_owned(),
            phase: Phase::Action,
            round: 1,
            attempt,
        })
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_timer_takes_the_place_of_the_one_its_step_and_phase_had() {
        let mut agenda = Agenda::default();
        agenda.set(&attempt("pay", 1), at(0), SECOND);
        agenda.set(&Timer::Deadline, at(0), 9 * SECOND);
        agenda.set(&attempt("pay", 2), at(1), SECOND);
        assert_eq!(agenda.until("pay", "action"), Some(at(2)));
        assert_eq!(agenda.until("", DEADLINE), Some(at(9)));
        assert_eq!(agenda.first(), Some(at(2)));
        agenda.clear("pay", Phase::Compensation);
        assert_eq!(agenda.first(), Some(at(2)), "another phase");
        agenda.clear("pay", Phase::Action);
        assert_eq!(agenda.first(), Some(at(9)));
        agenda.clear_all();
        assert_eq!(agenda, Agenda::default());
    }

    #[test]
    fn what_is_due_is_taken_once_the_longest_overdue_first() {
        let mut agenda = Agenda::default();
        let resource = "room".to_owned();
        agenda.set(&attempt("pay", 3), at(0), 3 * SECOND);
        agenda.set(&Timer::Lock { resource }, at(0), SECOND);
        agenda.set(&Timer::Deadline, at(0), 2 * SECOND);
        agenda.set(&attempt("print", 1), at(0), 4 * SECOND);
        let resource = "room".to_owned();
        let due = [Timer::Lock { resource }, Timer::Deadline, attempt("pay", 3)];
        assert_eq!(agenda.take_due(at(3)), due);
        assert_eq!(agenda.take_due(at(3)), []);
        assert_eq!(agenda.first(), Some(at(4)));
    }

    #[test]
    fn a_look_stays_where_it_is_unless_it_would_be_late_or_is_over() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.look_at(Some(at(5)), at(0)), None, "nothing to see");
        agenda.set(&attempt("pay", 1), at(0), 10 * SECOND);
        assert_eq!(agenda.look_at(None, at(0)), Some(at(10)));
        assert_eq!(agenda.look_at(Some(at(4)), at(0)), Some(at(4)), "early");
        assert_eq!(agenda.look_at(Some(at(11)), at(0)), Some(at(10)), "late");
        assert_eq!(agenda.look_at(Some(at(4)), at(4)), Some(at(10)), "over");
    }

    #[test]
    fn it_is_stored_as_arrays_and_read_again() {
        let mut agenda = Agenda::default();
        agenda.set(&attempt("pay", 1), at(0), SECOND);
        let text = serde_json::to_string(&agenda).unwrap();
        assert_eq!(text, r#"[["pay","action",1,1,1800000001000000]]"#);
        assert_eq!(serde_json::from_str::<Agenda>(&text).unwrap(), agenda);
        assert_eq!(agenda.check(), Ok(()));
        let broken: Agenda = serde_json::from_str(&text.replace("action", "paid")).unwrap();
        assert!(broken.check().is_err());
    }

    #[test]
    fn a_wait_beyond_all_time_is_a_hundred_years() {
        let mut agenda = Agenda::default();
        agenda.set(&Timer::Deadline, at(0), Duration::MAX);
        assert_eq!(agenda.first(), Some(at(0) + LONGEST));
    }
}
