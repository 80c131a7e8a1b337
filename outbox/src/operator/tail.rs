//! The newest messages of the log.

mod table;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error,
    operator::{look, parked::Class},
    outgoing::{cursor::Cursor, snapshot::Snapshot},
    printable::Payload,
};

/// How far back a look goes, in numbers of the log, so that one for a rare key ends.
pub(super) const WINDOW: i64 = 1 << 20;

/// Which messages to look for; a field that is `None` lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this key.
    pub key: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Whether payloads are wanted: they may hold what not everyone should see.
    pub payload: bool,
}

/// A message of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Its number.
    pub seq: i64,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// How long ago, by the database's clock.
    pub age_seconds: f64,
    /// Where it goes.
    pub topic: String,
    /// Its record key.
    pub key: String,
    /// What its payload is.
    pub kind: String,
    /// Of its payload; `None` for a tombstone.
    pub bytes: Option<i64>,
    /// The message's id.
    pub message_id: Uuid,
    /// What became of it.
    pub state: State,
    /// Its payload, if that was asked for and it is no tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The broker has not acknowledged it yet, or that is not written down yet.
    Unpublished,
    /// The broker has acknowledged it.
    Published,
    /// Kept in `outbox.parked`.
    Parked(Class),
}

/// The newest messages, oldest of them first. Looks at the newest 2²⁰ numbers at most.
///
/// # Errors
///
/// [`Error::Database`], and [`Error::ForeignCursor`] when the stored snapshots are not readable.
pub async fn tail(pool: &PgPool, filter: &Filter, limit: i64) -> Result<Vec<Entry>, Error> {
    let mut tx = look::begin(pool).await?;
    let cursor = look::table::cursor(&mut tx).await?;
    let rows = table::newest(&mut tx, filter, limit).await?;
    tx.rollback().await?;
    let entries = rows.into_iter().rev();
    Ok(entries.map(|row| row.entry(&cursor)).collect())
}

/// The log as it grows: each look returns what has become visible since the one before.
///
/// By snapshots, as the relay reads: a transaction that was open for long appears when it commits,
/// though its numbers are older than those already shown.
#[derive(Debug)]
pub struct Follow {
    filter: Filter,
    seen: Snapshot,
}

impl Follow {
    /// Begins with the newest messages, as [`tail`] does, and returns them.
    ///
    /// # Errors
    ///
    /// As [`tail`].
    pub async fn begin(
        pool: &PgPool,
        filter: Filter,
        limit: i64,
    ) -> Result<(Self, Vec<Entry>), Error> {
        let mut tx = look::begin(pool).await?;
        let seen = look::table::snapshot(&mut tx).await?;
        let cursor = look::table::cursor(&mut tx).await?;
        let rows = table::newest(&mut tx, &filter, limit).await?;
        tx.rollback().await?;
        let entries = rows.into_iter().rev().map(|row| row.entry(&cursor));
        let entries = entries.collect();
        Ok((Self { filter, seen }, entries))
    }

    /// What has become visible since, in the order of its numbers; of more than `limit` messages only
    /// so many, chosen by the order of their transactions, and then `true`: some are left out.
    ///
    /// # Errors
    ///
    /// As [`tail`].
    pub async fn next(&mut self, pool: &PgPool, limit: i64) -> Result<(Vec<Entry>, bool), Error> {
        let mut tx = look::begin(pool).await?;
        let now = look::table::snapshot(&mut tx).await?;
        let cursor = look::table::cursor(&mut tx).await?;
        let late = look::news(&self.seen);
        let rows = table::began_or_late(&mut tx, &self.filter, self.seen.xmax(), &late, limit);
        let mut rows = rows.await?;
        tx.rollback().await?;
        self.seen = now;
        let more = rows.len() as i64 >= limit;
        rows.sort_unstable_by_key(|row| row.seq);
        let entries = rows.into_iter().map(|row| row.entry(&cursor)).collect();
        Ok((entries, more))
    }
}

impl table::Row {
    fn entry(self, cursor: &Cursor) -> Entry {
        let state = match (self.parked, look::is_settled(cursor, self.xid, self.seq)) {
            (Some(class), _) => State::Parked(class),
            (None, true) => State::Published,
            (None, false) => State::Unpublished,
        };
        Entry {
            seq: self.seq,
            created_at: self.created_at,
            age_seconds: self.age_seconds,
            topic: self.topic,
            key: self.key,
            kind: self.kind,
            bytes: self.bytes,
            message_id: self.message_id,
            state,
            payload: self.payload.map(Payload::from),
        }
    }
}
