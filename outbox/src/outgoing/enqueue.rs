//! The door in: a message becomes a row of the caller's own transaction.
//!
//! Promised: the message leaves if and only if that transaction commits. If the caller dies before
//! its commit, neither its rows nor the message exist.
//!
//! Order: messages of one key leave in the order in which their transactions locked that key. The
//! lock is the caller's: the `insert`, `update` or `select … for update` of the row that the
//! message is about. Where there is no such row, take [`lock_key`] first.

use opentelemetry::trace::TraceContextExt;
use sqlx::PgTransaction;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use crate::{Error, message::Message, outgoing::table, telemetry};

/// Longest topic name Kafka accepts, in characters.
pub const MAX_TOPIC: usize = 249;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest kind, in bytes.
pub const MAX_KIND: usize = 255;
/// Largest payload, in bytes: Kafka's default limit of 1 MiB for a batch, less room for headers.
pub const MAX_PAYLOAD: usize = 960 * 1024;
/// Most headers of one message.
pub const MAX_HEADERS: usize = 64;
/// Largest sum of header names and values, in bytes.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Appends one message to the log, in the caller's transaction.
///
/// A `traceparent` header given by the caller is kept; otherwise the current span's is used.
/// Where the transaction runs with `synchronous_commit = off` it is switched on, because a message
/// could otherwise be published and its transaction then be lost in a crash.
///
/// # Errors
///
/// [`Error::Refused`] when the message breaks a limit (nothing was written; roll back),
/// [`Error::Database`] when the insert fails.
pub async fn enqueue(tx: &mut PgTransaction<'_>, message: &Message) -> Result<Uuid, Error> {
    check(message)?;
    table::append(tx, message, traceparent(message).as_deref()).await?;
    metrics::counter!(telemetry::ENQUEUED).increment(1);
    Ok(message.id)
}

/// Appends many messages, in the order given, with one statement.
///
/// # Errors
///
/// As [`enqueue`]; then none is appended.
pub async fn enqueue_all(tx: &mut PgTransaction<'_>, messages: &[Message]) -> Result<(), Error> {
    match messages {
        [] => return Ok(()),
        [message] => return enqueue(tx, message).await.map(drop),
        _ => {}
    }
    for message in messages {
        check(message)?;
    }
    let traceparents: Vec<_> = messages.iter().map(traceparent).collect();
    table::append_all(tx, messages, &traceparents).await?;
    metrics::counter!(telemetry::ENQUEUED).increment(messages.len() as u64);
    Ok(())
}

/// Makes later writers of `key` wait until this transaction ends, so that messages follow the
/// order of the transactions. For writers that lock no row of their own.
///
/// An advisory lock is an entry in the server's lock table: not for thousands of keys in one
/// transaction.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn lock_key(tx: &mut PgTransaction<'_>, key: &str) -> Result<(), Error> {
    table::lock_key(tx, key).await
}

/// Refuses here what the broker would refuse later, when the business has long been committed.
fn check(message: &Message) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Refused(reason));
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if message.topic.is_empty()
        || message.topic.len() > MAX_TOPIC
        || matches!(message.topic.as_str(), "." | "..")
        || !message.topic.chars().all(legal)
    {
        return refuse(format!(
            "a topic name has 1 to {MAX_TOPIC} letters, digits, dots, dashes or underscores"
        ));
    }
    if message.kind.is_empty() || message.kind.len() > MAX_KIND {
        return refuse(format!("a kind has 1 to {MAX_KIND} bytes"));
    }
    if message.key.len() > MAX_KEY {
        return refuse(format!("a key has at most {MAX_KEY} bytes"));
    }
    let size = message.payload.as_ref().map_or(0, Vec::len);
    if size > MAX_PAYLOAD {
        return refuse(format!(
            "a payload has at most {MAX_PAYLOAD} bytes, this one has {size}"
        ));
    }
    if message.headers.len() > MAX_HEADERS {
        return refuse(format!("a message has at most {MAX_HEADERS} headers"));
    }
    let header_bytes: usize = message.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    if header_bytes > MAX_HEADER_BYTES {
        return refuse(format!(
            "headers have at most {MAX_HEADER_BYTES} bytes together, these have {header_bytes}"
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

/// The W3C form (<https://www.w3.org/TR/trace-context/#traceparent-header>) of the span that
/// enqueues; `None` where no tracing is set up.
fn traceparent(message: &Message) -> Option<String> {
    if let Some(given) = message.headers.get(telemetry::TRACEPARENT) {
        return Some(given.clone());
    }
    let context = tracing::Span::current().context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            span.trace_flags().to_u8()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(message: &Message) -> String {
        check(message).unwrap_err().to_string()
    }

    #[test]
    fn every_limit_is_named_by_its_refusal() {
        let good = Message::raw(
            "orders.events",
            "k",
            "order.placed.v1",
            vec![0; MAX_PAYLOAD],
        );
        check(&good).unwrap();

        let topics = ["", "..", "a b", "straße", &"x".repeat(MAX_TOPIC + 1)];
        for topic in topics {
            let message = Message::raw(topic, "k", "kind", vec![]);
            assert!(refusal(&message).contains("topic name"), "{topic}");
        }
        let message = Message::raw("t", "k", "", vec![]);
        assert!(refusal(&message).contains("kind"));
        let message = Message::raw("t", "k".repeat(MAX_KEY + 1), "kind", vec![]);
        assert!(refusal(&message).contains("key"));
        let message = Message::raw("t", "k", "kind", vec![0; MAX_PAYLOAD + 1]);
        assert!(refusal(&message).contains("payload"));
        let message = (0..=MAX_HEADERS).fold(Message::raw("t", "k", "kind", vec![]), |m, i| {
            m.with_header(format!("h{i}"), "v")
        });
        assert!(refusal(&message).contains("headers"));
        let message =
            Message::raw("t", "k", "kind", vec![]).with_header("h", "v".repeat(MAX_HEADER_BYTES));
        assert!(refusal(&message).contains("headers have"));
        let message = Message::raw("t", "k", "kind", vec![]).with_header("ce_id", "1");
        assert!(refusal(&message).contains("ce_"));
        let message = Message::raw("t", "k\0", "kind", vec![]);
        assert!(refusal(&message).contains("NUL"));
    }
}
