//! What was not sent (`outbox.parked`): to look at, to have sent again, to give up.
//!
//! A replay is only *requested* here; the leader sends and deletes. A message behind a refused one
//! of its key cannot be replayed before that: `behind_head`.
//!
//! Locks are taken in the order of the parking protocol: the row of the blocked key, then parked
//! rows by number. Discarding a key's head and a leader parking one more behind it happen one
//! after the other, never at once.

mod table;

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub use crate::incoming::parked::Request;
use crate::{
    Error,
    audit::{self, Author},
    message::Headers,
    operator::look::table::BEGIN,
    outgoing::parking,
    printable::Payload,
};

/// How long a discard waits for the cursor to pass a message that was parked just now.
const PASSING: Duration = Duration::from_secs(2);
/// Rows asked for in one transaction by [`request_replay_of_all`].
const PAGE: i64 = 1_000;

/// Why a message is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = OutboxParkedClass))]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Refused even when sent alone.
    Poison,
    /// Behind a refused message of its key.
    Blocked,
    /// Its topic refused; the leader tries it again by itself.
    Held,
    /// A word that this version does not know: a newer one wrote it.
    Other,
}

impl Class {
    /// As in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::Blocked => "blocked",
            Self::Held => "held",
            Self::Other => "other",
        }
    }

    /// Of a row. One that says what only a newer version knows must not hide the others.
    pub(crate) fn of_row(word: &str) -> Self {
        word.parse().unwrap_or(Self::Other)
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Poison, Self::Blocked, Self::Held].into_iter();
        let found = known.into_iter().find(|class| class.as_str() == text);
        found.ok_or_else(|| "must be one of poison, blocked, held".to_owned())
    }
}

/// Which parked messages; a field that is `None` lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of this class.
    pub class: Option<Class>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this key.
    pub key: Option<String>,
}

/// A parked message in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Item {
    /// Its number in the log; names it here.
    pub seq: i64,
    /// Why it is parked.
    pub class: Class,
    /// Where it was going.
    pub topic: String,
    /// Its record key.
    pub key: String,
    /// What its payload is.
    pub kind: String,
    /// The message's id.
    pub message_id: Uuid,
    /// Since when.
    pub parked_at: DateTime<Utc>,
    /// For how long, in seconds.
    pub parked_seconds: f64,
    /// Times it was sent alone and refused.
    pub attempts: i32,
    /// What the broker or its client said.
    pub reason: String,
    /// Since when it is asked for again, and by whom.
    pub replay: Option<Request>,
}

/// Everything about a parked message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parked {
    /// As in the list.
    #[serde(flatten)]
    pub item: Item,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// The last message of its key that was under way when this one was refused, and may have
    /// arrived first.
    pub overtaken_by: Option<i64>,
    /// The refused message it waits behind.
    pub head: Option<i64>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// Its further headers.
    pub headers: Headers,
    /// Size of its payload in bytes; `None` for a tombstone.
    pub bytes: Option<i64>,
    /// Its payload, if that was asked for and it is no tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
}

/// What became of a request to send one message again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Replay {
    /// The leader will try it within a second.
    Requested,
    /// It was asked for before.
    AlreadyRequested(Request),
    /// It waits behind this one: replay or discard that first.
    BehindHead {
        /// The refused message of its key.
        head: i64,
    },
    /// No such message is parked: it was sent or discarded.
    NotParked,
}

/// What became of a wish to discard one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Discard {
    /// It is gone for good.
    Discarded {
        /// Messages that waited behind it and will now be sent, in order.
        released: u64,
        /// Whether it was the last of a blocked key, which is blocked no longer.
        key_opened: bool,
    },
    /// No such message is parked: it was sent or discarded.
    NotParked,
    /// It stays. The relay's cursor has not passed it yet, because a message before it is on its way
    /// still: a relay that died now would meet it again and park or send it. Once that one is
    /// acknowledged it can be discarded.
    NotPassed,
}

/// How many messages are parked.
///
/// # Errors
///
/// [`Error::Database`]; so with everything below.
pub async fn count(pool: &PgPool, selection: &Selection) -> Result<i64, Error> {
    table::count(pool, selection).await
}

/// Parked messages by number, from above `after`; not more than `limit`.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn list(
    pool: &PgPool,
    selection: &Selection,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Item>, Error> {
    table::list(pool, selection, after, limit).await
}

/// One message; its payload only if `with_payload`. `None` when it is not parked.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn show(pool: &PgPool, seq: i64, with_payload: bool) -> Result<Option<Parked>, Error> {
    table::show(pool, seq, with_payload).await
}

/// Asks for messages to be sent again, all in one transaction. Answers in the order of the numbers.
///
/// # Errors
///
/// [`Error::Database`]; then nothing was asked for.
pub async fn request_replay(
    pool: &PgPool,
    seqs: &[i64],
    by: impl Into<Author>,
) -> Result<Vec<(i64, Replay)>, Error> {
    let by = by.into();
    let mut seqs = seqs.to_vec();
    seqs.sort_unstable();
    seqs.dedup();
    let mut tx = pool.begin_with(BEGIN).await?;
    let rows = table::lock_for_replay(&mut tx, &seqs).await?;
    let mut answers = Vec::with_capacity(seqs.len());
    let mut wanted = Vec::new();
    for seq in seqs {
        let answer = match rows.iter().find(|row| row.seq == seq) {
            None => Replay::NotParked,
            Some(row) => match (&row.replay, row.head) {
                (Some(request), _) => Replay::AlreadyRequested(request.clone()),
                (None, Some(head)) => Replay::BehindHead { head },
                (None, None) => {
                    wanted.push(seq);
                    Replay::Requested
                }
            },
        };
        answers.push((seq, answer));
    }
    table::ask_for(&mut tx, &wanted, &by.to_string()).await?;
    let subjects: Vec<String> = wanted.into_iter().map(subject).collect();
    audit::record_each(&mut tx, &by, "parked.replay", &subjects, json!({})).await?;
    tx.commit().await?;
    Ok(answers)
}

/// Asks for all selected messages that can be replayed: refused and held ones. Those behind a
/// refused one follow it by themselves. Returns how many were asked for; in transactions of 1,000.
///
/// # Errors
///
/// [`Error::Database`]; then those of finished transactions are asked for.
pub async fn request_replay_of_all(
    pool: &PgPool,
    selection: &Selection,
    by: impl Into<Author>,
) -> Result<u64, Error> {
    let by = by.into();
    let mut asked = 0;
    let mut after = i64::MIN;
    loop {
        let mut tx = pool.begin_with(BEGIN).await?;
        let page = table::lock_replayable(&mut tx, selection, after, PAGE).await?;
        table::ask_for(&mut tx, &page, &by.to_string()).await?;
        if let (Some(first), Some(last)) = (page.first(), page.last()) {
            let details = json!({
                "side": "outbox", "class": selection.class, "topic": selection.topic,
                "key": selection.key, "messages": page.len(), "first": first, "last": last,
            });
            audit::record(&mut tx, &by, "parked.replay", "parked", details).await?;
        }
        tx.commit().await?;
        asked += page.len() as u64;
        match page.last() {
            Some(last) => after = *last,
            None => return Ok(asked),
        }
    }
}

/// Gives messages up, each in a transaction of its own, the youngest first: so that of a key that is
/// given up whole none is released in between. Answers in that order.
///
/// # Errors
///
/// [`Error::Database`]; then some may be gone and others not.
pub async fn discard(
    pool: &PgPool,
    seqs: &[i64],
    by: impl Into<Author>,
) -> Result<Vec<(i64, Discard)>, Error> {
    let by = by.into();
    let mut seqs = seqs.to_vec();
    seqs.sort_unstable_by(|a, b| b.cmp(a));
    seqs.dedup();
    let ahead = ahead_of_cursor(pool, &seqs).await?;
    let mut answers = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let answer = match ahead.contains(&seq) {
            true => Discard::NotPassed,
            false => discard_one(pool, seq, &by).await?,
        };
        answers.push((seq, answer));
    }
    Ok(answers)
}

/// Gives up everything selected that was parked when this began, the youngest first. Returns how
/// many are gone.
///
/// # Errors
///
/// [`Error::Database`]; then some may be gone and others not.
pub async fn discard_all(
    pool: &PgPool,
    selection: &Selection,
    by: impl Into<Author>,
) -> Result<u64, Error> {
    let by = by.into();
    let mut gone = 0;
    let mut below = i64::MAX;
    loop {
        let page = table::youngest(pool, selection, below, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(gone);
        };
        below = *last;
        let answers = discard(pool, &page, &by).await?;
        let discarded = |answer: &&(i64, Discard)| matches!(answer.1, Discard::Discarded { .. });
        gone += answers.iter().filter(discarded).count() as u64;
    }
}

/// Which of these the cursor has not passed, after some patience. It never goes back, so what it has
/// passed stays passed.
async fn ahead_of_cursor(pool: &PgPool, seqs: &[i64]) -> Result<Vec<i64>, Error> {
    let patience = Instant::now() + PASSING;
    loop {
        let ahead = table::ahead_of_cursor(pool, seqs).await?;
        if ahead.is_empty() || Instant::now() >= patience {
            return Ok(ahead);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn discard_one(pool: &PgPool, seq: i64, by: &Author) -> Result<Discard, Error> {
    let mut tx = pool.begin_with(BEGIN).await?;
    // Without a lock: the key's comes first.
    let known = table::name(&mut tx, seq).await?;
    let removed = parking::table::remove(&mut tx, &[seq]).await?;
    let waiting = parking::table::waiting(&mut tx, &removed.released).await?;
    let released = u64::try_from(waiting).unwrap_or_default();
    if removed.messages > 0 {
        let details = known.map_or_else(
            || json!({}),
            |known| json!({ "message_id": known.message_id, "topic": known.topic, "kind": known.kind }),
        );
        audit::record(&mut tx, by, "parked.discard", &subject(seq), details).await?;
    }
    tx.commit().await?;
    if removed.messages == 0 {
        return Ok(Discard::NotParked);
    }
    tracing::warn!(seq, %by, released, "a parked message was discarded");
    Ok(Discard::Discarded {
        released,
        key_opened: !removed.opened.is_empty(),
    })
}

/// As people name it.
fn subject(seq: i64) -> String {
    format!("parked/outbox-{seq}")
}
