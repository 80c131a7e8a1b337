//! Columns that people are shown, read so that none can fail.
//!
//! A row may hold what this program cannot read: a word of a later release, JSON of another form, the
//! moment `infinity`. Whoever takes such a row for an error takes every row of the list with it. What
//! passes here: words, moments and JSON out of the database. Promised: each is read as far as it can
//! be, and what could not be read is said with its column. What *steers* a saga is not read here.

use std::{fmt, str::FromStr};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Serialize, Serializer, de::DeserializeOwned};
use sqlx::{
    Decode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueFormat, PgValueRef},
};

/// A word of ours, or one that this program does not know: shown as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word<T> {
    /// One of ours.
    Known(T),
    /// Another one, of a later release maybe.
    Unknown(String),
}

impl<T: Copy> Word<T> {
    /// The word, if it is one of ours.
    #[must_use]
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(word) => Some(*word),
            Self::Unknown(_) => None,
        }
    }
}

impl<T: FromStr> From<String> for Word<T> {
    fn from(word: String) -> Self {
        word.parse()
            .map_or_else(|_| Self::Unknown(word), Self::Known)
    }
}

impl<T: PartialEq> PartialEq<T> for Word<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(word) if word == other)
    }
}

impl<T: fmt::Display> fmt::Display for Word<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(word) => word.fmt(out),
            Self::Unknown(word) => word.fmt(out),
        }
    }
}

impl<T: Serialize> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(word) => word.serialize(to),
            Self::Unknown(word) => word.serialize(to),
        }
    }
}

/// A moment. PostgreSQL knows `infinity` and years that a date-time on the wire cannot have; these
/// become the last or the first moment of the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) DateTime<Utc>);

impl Moment {
    /// From microseconds since 2000, as the server sends them.
    fn of(micros: i64) -> Self {
        let on = |year, month, day| NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default();
        let start = |day: NaiveDate| day.and_time(chrono::NaiveTime::MIN).and_utc();
        let (first, end) = (start(on(1, 1, 1)), start(on(10_000, 1, 1)));
        let last = end - TimeDelta::microseconds(1);
        let moment = start(on(2000, 1, 1)).checked_add_signed(TimeDelta::microseconds(micros));
        Self(match moment {
            Some(moment) => moment.clamp(first, last),
            None if micros < 0 => first,
            None => last,
        })
    }
}

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }

    fn compatible(other: &PgTypeInfo) -> bool {
        <DateTime<Utc> as Type<Postgres>>::compatible(other)
    }
}

impl<'r> Decode<'r, Postgres> for Moment {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => <i64 as Decode<Postgres>>::decode(value).map(Self::of),
            PgValueFormat::Text => <DateTime<Utc> as Decode<Postgres>>::decode(value).map(Self),
        }
    }
}

impl From<Moment> for DateTime<Utc> {
    fn from(moment: Moment) -> Self {
        moment.0
    }
}

/// What of a row could not be read: the first of it.
#[derive(Debug, Default)]
pub(crate) struct Unreadable(Option<String>);

impl Unreadable {
    /// A column of JSON; what its type is at rest if it cannot be read.
    pub(crate) fn json<T: DeserializeOwned + Default>(&mut self, column: &str, json: &str) -> T {
        serde_json::from_str(json).unwrap_or_else(|error| {
            self.note(column, error);
            T::default()
        })
    }

    /// Whatever else of a column went wrong.
    pub(crate) fn note(&mut self, column: &str, reason: impl fmt::Display) {
        self.0.get_or_insert_with(|| format!("{column}: {reason}"));
    }

    /// Why the row cannot be read; none if it can.
    pub(crate) fn reason(self) -> Option<String> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Status;

    #[test]
    fn a_moment_beyond_the_calendar_becomes_its_end() {
        let shown = |micros| Moment::of(micros).0.to_rfc3339();
        assert_eq!(shown(0), "2000-01-01T00:00:00+00:00");
        assert_eq!(shown(i64::MAX), "9999-12-31T23:59:59.999999+00:00");
        assert_eq!(shown(i64::MAX / 2), "9999-12-31T23:59:59.999999+00:00");
        assert_eq!(shown(i64::MIN), "0001-01-01T00:00:00+00:00");
    }

    #[test]
    fn an_unknown_word_is_shown_as_it_is_stored() {
        let known = Word::<Status>::from("parked".to_owned());
        assert!(known == Status::Parked);
        let unknown = Word::<Status>::from("frozen".to_owned());
        assert!(unknown != Status::Parked);
        assert_eq!(serde_json::to_string(&unknown).unwrap(), "\"frozen\"");
        assert_eq!(unknown.to_string(), "frozen");
    }

    #[test]
    fn the_first_column_that_cannot_be_read_is_told_with_its_reason() {
        let mut unreadable = Unreadable::default();
        assert_eq!(unreadable.json::<Vec<i32>>("locks", "[1]"), [1]);
        assert!(unreadable.json::<Vec<i32>>("steps", "{}").is_empty());
        assert!(unreadable.json::<Vec<i32>>("tags", "7").is_empty());
        let reason = unreadable.reason().unwrap();
        assert!(reason.starts_with("steps: invalid type: map"), "{reason}");
    }
}
