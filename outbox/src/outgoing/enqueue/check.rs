//! What the broker would refuse later, when the business has long been committed. Pure.
//!
//! The function `outbox.enqueue` in migrations/outbox/0003_enqueue.sql says the same in SQL, in the
//! same order and words; a test takes the same messages through both.

use crate::{Error, message::Message};

/// Longest topic name Kafka accepts, in characters.
pub const MAX_TOPIC: usize = 249;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest kind, in bytes.
pub const MAX_KIND: usize = 255;
/// Most headers of one message.
pub const MAX_HEADERS: usize = 64;
/// Largest sum of header names and values, in bytes.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// What every record has beside its key, payload, kind and own headers, rounded up. A batch of one
/// record has 61 bytes of its own (which the broker counts) and the record at most 36 (librdkafka
/// counts these, all of them); the CloudEvents attributes, `content-type` and `traceparent` have 292
/// with their lengths, and the relay's `source` up to 255.
const ENVELOPE: usize = 1024;
/// The lengths of a header's name and value, at most.
const HEADER: usize = 10;

/// The record's size as the broker's `max.message.bytes` counts it for a batch of this record alone
/// and not compressed: never less than it is on the wire.
pub(super) fn record_bytes(message: &Message) -> usize {
    // The key goes twice: as the record's key and as `ce_subject`.
    ENVELOPE
        + 2 * message.key.len()
        + message.kind.len()
        + message.payload.as_ref().map_or(0, Vec::len)
        + header_bytes(message)
        + HEADER * message.headers.len()
}

/// Of the caller's own headers, without their lengths.
fn header_bytes(message: &Message) -> usize {
    let headers = message.headers.iter();
    headers.map(|(name, value)| name.len() + value.len()).sum()
}

/// Everything but the size, whose limit only the database knows.
pub(super) fn check(message: &Message) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Refused(reason));
    if let Some(flaw) = topic_flaw(&message.topic) {
        return refuse(flaw);
    }
    if message.kind.is_empty() || message.kind.len() > MAX_KIND {
        return refuse(format!("a kind has 1 to {MAX_KIND} bytes"));
    }
    if message.key.len() > MAX_KEY {
        return refuse(format!("a key has at most {MAX_KEY} bytes"));
    }
    if message.headers.len() > MAX_HEADERS {
        return refuse(format!("a message has at most {MAX_HEADERS} headers"));
    }
    let bytes = header_bytes(message);
    if bytes > MAX_HEADER_BYTES {
        return refuse(format!(
            "headers have at most {MAX_HEADER_BYTES} bytes together, these have {bytes}"
        ));
    }
    let reserved = |name: &String| name.is_empty() || name.starts_with("ce_");
    if message.headers.keys().any(reserved) {
        return refuse("a header's name is not empty and does not begin with ce_".to_owned());
    }
    // PostgreSQL's text cannot hold NUL, and the statement's own error would not say which field.
    let texts = [&message.key, &message.kind].into_iter();
    let headers = message
        .headers
        .iter()
        .flat_map(|(name, value)| [name, value]);
    if texts.chain(headers).any(|text| text.contains('\0')) {
        return refuse("a key, kind or header contains a NUL character".to_owned());
    }
    Ok(())
}

/// Why no topic can have this name.
pub(crate) fn topic_flaw(topic: &str) -> Option<String> {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    let named = !topic.is_empty()
        && topic.len() <= MAX_TOPIC
        && !matches!(topic, "." | "..")
        && topic.bytes().all(legal);
    (!named).then(|| {
        format!("a topic name has 1 to {MAX_TOPIC} letters, digits, dots, dashes or underscores")
    })
}

/// What is said of a record that its topic would not take.
pub(super) fn too_large(topic: &str, bytes: i64, limit: i64) -> Error {
    Error::Refused(format!(
        "the record has {bytes} bytes with key, headers and envelope, topic {topic} takes at most \
         {limit} (its max.message.bytes, as noted in outbox.topic)"
    ))
}
