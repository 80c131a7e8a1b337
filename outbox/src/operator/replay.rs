//! Enqueues messages that the log still holds once more.
//!
//! What was published is appended anew, in the order of its numbers, with a header [`REPLAYED_FROM`] that
//! names the number it had. With the same message id, receivers that handled it ignore it: this is
//! how one that lost messages gets them. With new ids everybody handles it again.
//!
//! Promised: nothing newer than the beginning is replayed, so it ends; a second run does not copy the
//! copies of the first beside their originals (unless they have ids of their own); the log is not emptied
//! meanwhile, it grows instead. What is parked, and what is not published yet, is left to the leader.
//!
//! Not promised: that a key's newest message comes last. A copy is an old message with a new number: a
//! message that is enqueued during the replay may come before the copies of older ones of its
//! key. Receivers that know the ids ignore the copies; for others, and with new ids, pause
//! the writers of these keys, or let receivers compare versions. [`crate::lock_key`] does not help: it orders
//! transactions, and the copies are old whatever the order.
//!
//! If we die here, whole pages have been enqueued; [`Page::last`] of the last one says how far.

pub(super) mod table;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::{
    Error,
    audit::{self, Author},
    operator::look::{self, table::BEGIN},
};

/// The header of a copy: the number of the message it was made from.
pub const REPLAYED_FROM: &str = "replayed-from";

/// Messages of one transaction.
const PAGE: i64 = 5_000;
/// A message enqueued at a time may have a number a little below one enqueued earlier.
const SKEW: i64 = 10_000;

/// Where to begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum From {
    /// With the oldest that the log holds.
    #[default]
    Oldest,
    /// With this number.
    Seq(i64),
    /// With what was enqueued at this time, by the database's clock.
    Time(DateTime<Utc>),
}

/// Which messages; a field that is `None` lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// From here on.
    pub from: From,
    /// To this number: to go on with a replay that failed, without copying its copies. `None`: to the
    /// end of the log when the replay begins.
    pub until_seq: Option<i64>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this key.
    pub key: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
}

/// What a replay would enqueue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Looked at from this number on.
    pub from_seq: i64,
    /// And to this one.
    pub until_seq: i64,
    /// How many messages would be enqueued.
    pub messages: i64,
    /// The same by topic.
    pub topics: Vec<TopicPlan>,
    /// What the log still holds at all; `None` when it is empty.
    pub holds: Option<Holds>,
}

/// A topic's share of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopicPlan {
    /// The topic.
    pub topic: String,
    /// How many messages.
    pub messages: i64,
    /// When the first of them was enqueued.
    pub first_at: DateTime<Utc>,
    /// When the last was.
    pub last_at: DateTime<Utc>,
}

/// The oldest message of the log. Older ones are gone: their partition was emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// Its number.
    pub from_seq: i64,
    /// When it was enqueued.
    pub from_time: DateTime<Utc>,
}

/// A page that was enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Messages in it.
    pub messages: u64,
    /// The number, as it was, of the last of them.
    pub last: i64,
}

/// What is looked at: fixed when a replay begins.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) from: i64,
    /// Copied up to here.
    pub(super) after: i64,
    pub(super) until: i64,
    pub(super) since: Option<DateTime<Utc>>,
    /// Texts of the stored snapshots, and the number up to which the second is acknowledged.
    pub(super) settled: String,
    pub(super) target: String,
    pub(super) last_seq: i64,
}

/// Counts what [`Replay::begin`] would enqueue now. Reads the whole range: seconds for millions.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn plan(pool: &PgPool, selection: &Selection) -> Result<Plan, Error> {
    let mut tx = look::begin(pool).await?;
    let holds = table::oldest(&mut tx).await?;
    let range = range(&mut tx, selection, holds.as_ref()).await?;
    let topics = table::count_replayable(&mut tx, &range, selection).await?;
    tx.rollback().await?;
    Ok(Plan {
        from_seq: range.from,
        until_seq: range.until,
        messages: topics.iter().map(|topic| topic.messages).sum(),
        topics,
        holds,
    })
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    pool: PgPool,
    /// Holds a share of every partition's lock, so that none is emptied before it is copied. It has
    /// no snapshot and no transaction id, so it holds up nothing else.
    guard: PgTransaction<'static>,
    selection: Selection,
    range: Range,
    new_ids: bool,
    by: Author,
}

impl Replay {
    /// The last number that will be looked at.
    #[must_use]
    pub fn until_seq(&self) -> i64 {
        self.range.until
    }

    /// Fixes what will be enqueued. With `new_ids` every copy is a message of its own, which
    /// receivers handle although they handled the original. `by` says who wants it. Keeps one of the
    /// pool's connections and needs a second.
    ///
    /// # Errors
    ///
    /// [`Error::Database`].
    pub async fn begin(
        pool: &PgPool,
        selection: Selection,
        new_ids: bool,
        by: impl Into<Author>,
    ) -> Result<Self, Error> {
        let mut guard = pool.begin_with(BEGIN).await?;
        table::keep_partitions(&mut guard).await?;
        let mut tx = look::begin(pool).await?;
        let holds = table::oldest(&mut tx).await?;
        let range = range(&mut tx, &selection, holds.as_ref()).await?;
        tx.rollback().await?;
        Ok(Self {
            pool: pool.clone(),
            guard,
            selection,
            range,
            new_ids,
            by: by.into(),
        })
    }

    /// Enqueues the next messages, in one transaction; `None` when all are.
    ///
    /// # Errors
    ///
    /// [`Error::Database`]; then the page was not enqueued, and can be tried again unless the connection
    /// that keeps the log is lost.
    pub async fn page(&mut self) -> Result<Option<Page>, Error> {
        // Before anything is written: whoever does not hold the partitions may miss messages.
        table::keep_partitions(&mut self.guard).await?;
        let mut tx = self.pool.begin_with(BEGIN).await?;
        look::table::pin_plans(&mut tx).await?;
        table::be_durable(&mut tx).await?;
        let seqs = table::replayable(&mut tx, &self.range, &self.selection, PAGE).await?;
        let Some(last) = seqs.last().copied() else {
            tx.rollback().await?;
            return Ok(None);
        };
        let ids: Vec<_> = seqs
            .iter()
            .map(|_| self.new_ids.then(Uuid::now_v7))
            .collect();
        let messages = table::enqueue_again(&mut tx, &seqs, &ids, REPLAYED_FROM).await?;
        let details = json!({
            "messages": messages, "first": seqs.first(), "last": last, "new_ids": self.new_ids,
            "topic": self.selection.topic, "key": self.selection.key, "kind": self.selection.kind,
        });
        audit::record(&mut tx, &self.by, "log.replay", "outbox", details).await?;
        tx.commit().await?;
        self.range.after = last;
        Ok(Some(Page { messages, last }))
    }
}

/// From a selection's beginning, or what is left of it, to the end of the log now.
async fn range(
    tx: &mut PgTransaction<'_>,
    selection: &Selection,
    holds: Option<&Holds>,
) -> Result<Range, Error> {
    let cursor = look::table::cursor(tx).await?;
    let oldest = holds.map_or(1, |holds| holds.from_seq);
    let newest = look::table::newest_seq(tx).await?.unwrap_or(0);
    let until = selection
        .until_seq
        .map_or(newest, |until| until.min(newest));
    let (from, since) = match selection.from {
        From::Oldest => (oldest, None),
        From::Seq(seq) => (seq, None),
        From::Time(time) => {
            let seq = first_since(tx, time, oldest, newest).await?;
            (seq - SKEW, Some(time))
        }
    };
    let from = from.max(oldest);
    Ok(Range {
        from,
        after: from - 1,
        until,
        since,
        settled: cursor.settled.snapshot.to_string(),
        target: cursor.target.snapshot.to_string(),
        last_seq: cursor.last_seq,
    })
}

/// The first number enqueued at `time` or later, give or take [`SKEW`]: by halves, because times are not
/// indexed and grow with the numbers. One above `newest` when all are older.
pub(super) async fn first_since(
    tx: &mut PgTransaction<'_>,
    time: DateTime<Utc>,
    oldest: i64,
    newest: i64,
) -> Result<i64, Error> {
    let (mut low, mut high) = (oldest, newest + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match table::next_from(tx, middle, newest).await? {
            Some((seq, created_at)) if created_at < time => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
