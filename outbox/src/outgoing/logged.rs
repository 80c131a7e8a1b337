//! A row as the relay reads it, from the log or from `outbox.parked`.
//!
//! Decoding never fails: a value that the record could not have is the row's own flaw, and the leader
//! parks that row with the reason. (An error of one row would be an error of its page, again and again.)

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use sqlx::{
    Decode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueRef},
    types::Json,
};
use uuid::Uuid;

use crate::{message::Headers, outgoing::enqueue};

/// A row of the log.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) seq: i64,
    pub(crate) message_id: Uuid,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) traceparent: Option<String>,
    pub(crate) headers: Option<Headers>,
    pub(crate) created_at: DateTime<Utc>,
    /// Why no record can be made of it.
    pub(crate) flaw: Option<String>,
}

impl Logged {
    /// A rough size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self.headers.iter().flatten();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        self.payload.as_ref().map_or(0, Vec::len) + self.key.len() + headers + 256
    }
}

/// The same, as the driver returns it.
pub(crate) struct Fetched {
    pub(crate) seq: i64,
    pub(crate) message_id: Uuid,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) traceparent: Option<String>,
    pub(crate) headers: Option<Read<Headers>>,
    pub(crate) created_at: Read<DateTime<Utc>>,
    /// Whether the payload is there: a page has only so many bytes.
    pub(crate) fits: bool,
}

impl From<Fetched> for Logged {
    fn from(row: Fetched) -> Self {
        let headers = row.headers.as_ref().is_some_and(|read| read.0.is_none());
        let headers = headers.then(|| "its headers are not an object of strings".to_owned());
        let time = row.created_at.0.is_none();
        let time = time.then(|| "its created_at is no time of the years 1 to 9999".to_owned());
        let topic = enqueue::topic_flaw(&row.topic);
        Self {
            seq: row.seq,
            message_id: row.message_id,
            topic: row.topic,
            key: row.key,
            kind: row.kind,
            payload: row.payload,
            traceparent: row.traceparent,
            headers: row.headers.and_then(|read| read.0),
            created_at: row.created_at.0.unwrap_or(DateTime::UNIX_EPOCH),
            flaw: headers.or(time).or(topic),
        }
    }
}

/// Rows up to the first whose payload was left out because the page is full, and whether there was one.
pub(crate) fn cut(rows: Vec<Fetched>) -> (Vec<Logged>, bool) {
    let all = rows.len();
    let fitting = rows.into_iter().take_while(|row| row.fits);
    let rows: Vec<_> = fitting.map(Logged::from).collect();
    let full = rows.len() < all;
    (rows, full)
}

/// A column's value, if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read<T>(pub(crate) Option<T>);

impl Type<Postgres> for Read<Headers> {
    fn type_info() -> PgTypeInfo {
        <Json<Headers> as Type<Postgres>>::type_info()
    }

    fn compatible(of: &PgTypeInfo) -> bool {
        <Json<Headers> as Type<Postgres>>::compatible(of)
    }
}

impl<'r> Decode<'r, Postgres> for Read<Headers> {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let read = <Json<Headers> as Decode<'r, Postgres>>::decode(value);
        Ok(Self(read.ok().map(|headers| headers.0)))
    }
}

impl Type<Postgres> for Read<DateTime<Utc>> {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }

    fn compatible(of: &PgTypeInfo) -> bool {
        <DateTime<Utc> as Type<Postgres>>::compatible(of)
    }
}

impl<'r> Decode<'r, Postgres> for Read<DateTime<Utc>> {
    /// Microseconds since 2000; the driver's own decoding panics beyond its calendar.
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(time(<i64 as Decode<'r, Postgres>>::decode(value)?)))
    }
}

fn time(since_2000: i64) -> Option<DateTime<Utc>> {
    let epoch = DateTime::from_timestamp_secs(946_684_800)?;
    let time = epoch.checked_add_signed(TimeDelta::microseconds(since_2000))?;
    (1..=9999).contains(&time.year()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_that_a_record_can_say() {
        assert_eq!(time(0).unwrap().to_rfc3339(), "2000-01-01T00:00:00+00:00");
        let last = DateTime::parse_from_rfc3339("9999-12-31T23:59:59Z").unwrap();
        let micros = (last.to_utc() - time(0).unwrap())
            .num_microseconds()
            .unwrap();
        assert_eq!(time(micros), Some(last.to_utc()));
        // `infinity`, `-infinity`, and what PostgreSQL still counts as a year.
        for beyond in [
            i64::MAX,
            i64::MIN,
            micros + 1_000_000,
            9_223_371_331_200_000_000,
        ] {
            assert_eq!(time(beyond), None, "{beyond}");
        }
    }
}
