//! For the person on call: what a consumer could not handle, and what should become of it.
//!
//! Nothing here handles a message. [`request_replay`] only asks; a running consumer of that name does it
//! within a second. Then the message is gone from here, or is here with a new reason.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

pub use crate::incoming::parking::sickness::Class;
use crate::{
    Error,
    audit::{self, Author},
    incoming::{parking::table, table::begin},
    printable::{self, Payload},
};

/// Which parked messages; every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The consumer's name.
    pub consumer: Option<String>,
    /// The topic they were read from.
    pub topic: Option<String>,
    /// The record key, exactly.
    pub key: Option<Vec<u8>>,
    /// Why they are parked.
    pub class: Option<Class>,
}

/// A parked message without its content.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parked {
    /// Its number here: in the order of parking, which inside a key is the order of the partition.
    pub id: i64,
    /// Who could not handle it.
    pub consumer: String,
    /// The sender's message id; for an unreadable one a name derived from its place.
    pub message_id: Uuid,
    /// Where it was read.
    pub topic: String,
    /// The topic's partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// The record key. Serialized as a text, `key`; what is no text is in `key_hex` instead.
    #[serde(flatten, serialize_with = "serialize_key")]
    pub key: Option<Vec<u8>>,
    /// The sort of reason.
    pub class: Class,
    /// The reason in words.
    pub reason: String,
    /// How often the handler has failed.
    pub attempts: i32,
    /// When it was parked.
    pub parked_at: DateTime<Utc>,
    /// For how long, in seconds by the database's clock.
    pub parked_seconds: f64,
    /// Since when it is asked for, and by whom.
    pub replay: Option<Request>,
}

/// A request to handle, or send, a message again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "http", schema(as = ReplayRequest))]
pub struct Request {
    /// Since when.
    pub at: DateTime<Utc>,
    /// By whom.
    pub by: String,
}

impl Request {
    /// From two columns that are null together.
    pub(crate) fn of(at: Option<DateTime<Utc>>, by: Option<String>) -> Option<Self> {
        at.zip(by).map(|(at, by)| Self { at, by })
    }
}

/// A parked message with its content.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shown {
    /// As in the list.
    #[serde(flatten)]
    pub parked: Parked,
    /// The first parked message of its key, if it waits behind that.
    pub head: Option<i64>,
    /// In the order received.
    pub headers: Vec<Header>,
    /// Size of its payload; `None` for a tombstone.
    pub bytes: Option<i32>,
    /// Its payload, if that was asked for and it is no tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its bytes, if it has any.
    pub value: Option<Payload>,
}

/// What a request for a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Replay {
    /// The consumer will handle it, and then its followers.
    Requested,
    /// No such message is parked: never was, handled meanwhile, or discarded.
    NotParked,
    /// It waits behind this message of its key; ask for that one.
    BehindHead {
        /// The first parked message of the key.
        head: i64,
    },
}

/// What discarding a message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Discard {
    /// It will never be handled. If it was the first of its key, its followers will be.
    Discarded,
    /// No such message is parked: never was, handled meanwhile, or discarded.
    NotParked,
}

/// How many match.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn count(pool: &PgPool, filter: &Filter) -> Result<i64, Error> {
    table::count(pool, filter).await
}

/// A page of what is parked, by number: at most `limit` messages after the number `after`, 0 for the
/// first page.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn list(
    pool: &PgPool,
    filter: &Filter,
    after: i64,
    limit: i64,
) -> Result<Vec<Parked>, Error> {
    table::list(pool, filter, after, limit).await
}

/// One message with its headers, and with its payload if `with_payload`; `None` when it is not parked.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn show(pool: &PgPool, id: i64, with_payload: bool) -> Result<Option<Shown>, Error> {
    let page = table::list(pool, &Filter::default(), id - 1, 1).await?;
    let Some(parked) = page.into_iter().find(|parked| parked.id == id) else {
        return Ok(None);
    };
    let Some(content) = table::content(pool, id, with_payload).await? else {
        return Ok(None);
    };
    let headers = content.headers.into_iter().map(|(name, value)| Header {
        name,
        value: value.map(Payload::from),
    });
    Ok(Some(Shown {
        parked,
        head: content.head,
        headers: headers.collect(),
        bytes: content.bytes,
        payload: content.payload.map(Payload::from),
    }))
}

/// Asks for a message to be handled again. Asking twice is asking once.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn request_replay(
    pool: &PgPool,
    id: i64,
    by: impl Into<Author>,
) -> Result<Replay, Error> {
    let by = by.into();
    let mut tx = begin(pool).await?;
    let asked = table::request(&mut tx, &Filter::default(), Some(id), &by.to_string()).await?;
    if asked.iter().any(|asked| asked.is_new) {
        audit::record(&mut tx, &by, "parked.replay", &subject(id), json!({})).await?;
    }
    tx.commit().await?;
    if !asked.is_empty() {
        tracing::info!(id, %by, "replay of a parked message requested");
        return Ok(Replay::Requested);
    }
    let Some(place) = table::place(pool, id).await? else {
        return Ok(Replay::NotParked);
    };
    let head = table::head(pool, &place).await?;
    Ok(head.map_or(Replay::NotParked, |head| Replay::BehindHead { head }))
}

/// Asks for all that match and are not behind another; their followers come after them. Returns how
/// many are asked for.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn request_replay_all(
    pool: &PgPool,
    filter: &Filter,
    by: impl Into<Author>,
) -> Result<u64, Error> {
    let by = by.into();
    let mut tx = begin(pool).await?;
    let asked = table::request(&mut tx, filter, None, &by.to_string()).await?;
    let new: Vec<i64> = asked
        .iter()
        .filter(|asked| asked.is_new)
        .map(|asked| asked.id)
        .collect();
    if let (Some(first), Some(last)) = (new.iter().min(), new.iter().max()) {
        let details = json!({
            "side": "inbox", "class": filter.class, "topic": filter.topic, "consumer": filter.consumer,
            "messages": new.len(), "first": first, "last": last,
        });
        audit::record(&mut tx, &by, "parked.replay", "parked", details).await?;
    }
    tx.commit().await?;
    let requested = asked.len() as u64;
    tracing::info!(requested, %by, "replay of parked messages requested");
    Ok(requested)
}

/// Gives a message up. One that is just being handled again is waited for.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn discard(pool: &PgPool, id: i64, by: impl Into<Author>) -> Result<Discard, Error> {
    let by = by.into();
    let Some(place) = table::place(pool, id).await? else {
        return Ok(Discard::NotParked);
    };
    let mut tx = begin(pool).await?;
    table::lock(&mut tx, &place).await?;
    if !table::remove(&mut tx, id).await? {
        tx.rollback().await?;
        return Ok(Discard::NotParked);
    }
    table::release(&mut tx, &place, &by.to_string()).await?;
    let details = json!({
        "message_id": place.message_id, "topic": place.topic, "consumer": place.consumer,
    });
    audit::record(&mut tx, &by, "parked.discard", &subject(id), details).await?;
    tx.commit().await?;
    tracing::warn!(id, %by, consumer = place.consumer, message_id = %place.message_id,
        "discarded a parked message");
    Ok(Discard::Discarded)
}

/// Gives up all that match, each in a transaction of its own. Returns how many.
///
/// # Errors
///
/// [`Error::Database`]; those discarded before it stay discarded.
pub async fn discard_all(
    pool: &PgPool,
    filter: &Filter,
    by: impl Into<Author>,
) -> Result<u64, Error> {
    let by = by.into();
    let mut ids = Vec::new();
    loop {
        let page = table::list(pool, filter, ids.last().copied().unwrap_or(0), 1_000).await?;
        if page.is_empty() {
            break;
        }
        ids.extend(page.iter().map(|parked| parked.id));
    }
    let mut discarded = 0;
    // The last of a key first: a head that went before its followers would have them handled.
    for id in ids.into_iter().rev() {
        discarded += u64::from(discard(pool, id, &by).await? == Discard::Discarded);
    }
    Ok(discarded)
}

/// As people name it.
fn subject(id: i64) -> String {
    format!("parked/inbox-{id}")
}

/// JSON has no bytes.
fn serialize_key<S: Serializer>(key: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Key<'a> {
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_hex: Option<String>,
    }
    let bytes = key.as_deref();
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let other = bytes.filter(|_| text.is_none());
    Key {
        key: text,
        key_hex: other.map(printable::hex),
    }
    .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_no_text_is_told_in_hex() {
        #[derive(Serialize)]
        struct Keyed(#[serde(serialize_with = "serialize_key")] Option<Vec<u8>>);
        let json =
            |key: Option<&[u8]>| serde_json::to_string(&Keyed(key.map(<[u8]>::to_vec))).unwrap();
        assert_eq!(json(Some(b"k")), r#"{"key":"k"}"#);
        assert_eq!(json(Some(&[0, 255])), r#"{"key":null,"key_hex":"00ff"}"#);
        assert_eq!(json(None), r#"{"key":null}"#);
    }
}
