//! What the broker has not acknowledged yet: exact, by the stored cursor.

use serde::Serialize;
use sqlx::PgPool;

use crate::{
    Error,
    operator::look,
    outgoing::backlog::{
        table::{Waiting, count},
        unsettled,
    },
};

/// Committed messages that the broker has not acknowledged.
///
/// By the relay's own rule: not visible in the settled snapshot, and not both visible in the target
/// snapshot and at or below its last number. What is parked is not among them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = OutboxLag))]
pub struct Lag {
    /// How many were counted.
    pub messages: i64,
    /// Whether there may be more: counting stopped at the limit.
    pub at_least: bool,
    /// Age of the oldest, in seconds by the database's clock; `None` when there is none.
    pub oldest_seconds: Option<f64>,
    /// The same by topic, most first.
    pub topics: Vec<TopicLag>,
}

/// A topic's share of a [`Lag`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct TopicLag {
    /// The topic.
    pub topic: String,
    /// How many of the counted are its.
    pub messages: i64,
    /// Age of its oldest, in seconds.
    pub oldest_seconds: f64,
}

impl From<Waiting> for TopicLag {
    fn from(waiting: Waiting) -> Self {
        Self {
            topic: waiting.topic,
            messages: waiting.messages,
            oldest_seconds: waiting.oldest_seconds,
        }
    }
}

/// Counts what is not acknowledged, up to about `limit` messages; then [`Lag::at_least`] is set.
/// Reads only those messages, through the log's indexes, however much of the log is published.
///
/// # Errors
///
/// [`Error::Database`], and [`Error::ForeignCursor`] when the stored snapshots are not readable.
pub async fn lag(pool: &PgPool, limit: i64) -> Result<Lag, Error> {
    let mut tx = look::begin(pool).await?;
    let cursor = look::table::cursor(&mut tx).await?;
    let waiting = count(&mut tx, &unsettled(&cursor), limit.max(1)).await?;
    tx.rollback().await?;
    let topics: Vec<TopicLag> = waiting.into_iter().map(TopicLag::from).collect();
    let messages = topics.iter().map(|topic| topic.messages).sum();
    Ok(Lag {
        messages,
        at_least: messages >= limit,
        oldest_seconds: topics
            .iter()
            .map(|topic| topic.oldest_seconds)
            .reduce(f64::max),
        topics,
    })
}
