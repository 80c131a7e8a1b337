//! The door in: a message becomes a row of the caller's own transaction.
//!
//! Promised: the message leaves if and only if that transaction commits. If the caller dies before
//! its commit, neither its rows nor the message exist. What the broker would refuse is refused
//! here, so that the transaction fails and not the message, later. The same for those who speak
//! SQL: the function `outbox.enqueue`.
//!
//! Order: messages of one key leave in the order in which their transactions locked that key. The
//! lock is the caller's: the `insert`, `update` or `select … for update` of the row that the
//! message is about. Where there is no such row, take [`lock_key`] first.

mod check;
mod table;

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    Error,
    message::Message,
    telemetry,
    trace::{Create, Creating},
};

pub(crate) use check::topic_flaw;
pub use check::{MAX_HEADER_BYTES, MAX_HEADERS, MAX_KEY, MAX_KIND, MAX_TOPIC};

/// Appends one message to the log, in the caller's transaction, and returns its id.
///
/// A `traceparent` header given by the caller is kept; otherwise that of a `create` span below the
/// current one is sent along, with its `tracestate`. Where the transaction runs with `synchronous_commit = off` it is switched on,
/// because a message could otherwise be published and its transaction then be lost in a crash.
///
/// # Errors
///
/// [`Error::Refused`] when the message breaks a limit, the size its topic takes among them (nothing
/// was written; roll back), [`Error::Database`] when the insert fails.
pub async fn enqueue(tx: &mut PgTransaction<'_>, message: &Message) -> Result<Uuid, Error> {
    let mut row = [Row::of(message, &Creating::new())?];
    let appended = table::append(tx, &row[0]).await;
    appended_or_refused(tx, &mut row, appended).await?;
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
    let creating = Creating::new();
    let rows = messages.iter().map(|message| Row::of(message, &creating));
    let mut rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    let appended = table::append_all(tx, &rows).await;
    appended_or_refused(tx, &mut rows, appended).await
}

/// Counts what was appended; what was not says so in its span.
async fn appended_or_refused(
    tx: &mut PgTransaction<'_>,
    rows: &mut [Row<'_>],
    appended: Result<bool, Error>,
) -> Result<(), Error> {
    let error = match appended {
        Ok(true) => {
            telemetry::enqueued(rows.len());
            return Ok(());
        }
        Ok(false) => refusal(tx, rows).await?,
        Err(error) => error,
    };
    rows.iter_mut().for_each(|row| row.create.failed(&error));
    Err(error)
}

/// Makes later writers of `key` wait until this transaction ends, so that messages follow the
/// order of the transactions. For writers that lock no row of their own. The SQL function
/// `outbox.lock_key` is the same lock.
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

/// A message that broke no limit but perhaps the size, as its row will have it.
struct Row<'a> {
    message: &'a Message,
    traceparent: Option<String>,
    /// A flat object; `None` when there are none, which is usual.
    headers: Option<Value>,
    bytes: i64,
    create: Create,
}

impl<'a> Row<'a> {
    fn of(message: &'a Message, creating: &Creating) -> Result<Self, Error> {
        check::check(message)?;
        let mut bytes = check::record_bytes(message);
        let mut headers: serde_json::Map<_, _> = message
            .headers
            .iter()
            .filter(|(name, _)| name.as_str() != telemetry::TRACEPARENT)
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        let given = message.headers.get(telemetry::TRACEPARENT).cloned();
        let (create, travels) = creating.begin(message);
        let traceparent = match travels {
            None => given,
            Some((traceparent, tracestate)) => {
                if !tracestate.is_empty() && !headers.contains_key(telemetry::TRACESTATE) {
                    bytes += telemetry::TRACESTATE.len() + tracestate.len();
                    headers.insert(telemetry::TRACESTATE.to_owned(), tracestate.into());
                }
                Some(traceparent)
            }
        };
        Ok(Self {
            message,
            traceparent,
            headers: (!headers.is_empty()).then_some(Value::Object(headers)),
            // A payload of more than an i64 does not fit into memory.
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            create,
        })
    }
}

/// The largest record of each topic.
fn largest<'a>(rows: &'a [Row<'_>]) -> BTreeMap<&'a str, i64> {
    let mut largest = BTreeMap::new();
    for row in rows {
        let bytes = largest.entry(row.message.topic.as_str()).or_insert(0);
        *bytes = row.bytes.max(*bytes);
    }
    largest
}

/// Asks for the limit that was broken, only now, to name it.
async fn refusal(tx: &mut PgTransaction<'_>, rows: &[Row<'_>]) -> Result<Error, Error> {
    let mut said = None;
    for (topic, bytes) in largest(rows) {
        let limit = table::limit(tx, topic).await?;
        said = Some(check::too_large(topic, bytes, limit));
        if bytes > limit {
            break;
        }
    }
    // Rows were refused, so there are some; a limit may have been raised since, which the next
    // attempt of the caller will find.
    Ok(said.unwrap_or_else(|| Error::Refused("no messages".to_owned())))
}
