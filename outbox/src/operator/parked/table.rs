//! The statements of [`parked`](crate::operator::parked).

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error,
    message::Headers,
    operator::parked::{Class, Item, Parked, Request, Selection},
    printable::Payload,
};

pub(in crate::operator) async fn count(pool: &PgPool, selection: &Selection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from outbox.parked
           where ($1::text is null or class = $1)
             and ($2::text is null or topic = $2)
             and ($3::text is null or key = $3)"#,
        selection.class.map(Class::as_str),
        selection.topic,
        selection.key,
    )
    .fetch_one(pool)
    .await?)
}

/// As the driver returns it.
struct RawItem {
    seq: i64,
    class: String,
    topic: String,
    key: String,
    kind: String,
    message_id: Uuid,
    parked_at: DateTime<Utc>,
    parked_seconds: f64,
    attempts: i32,
    reason: String,
    replay_at: Option<DateTime<Utc>>,
    replay_by: Option<String>,
}

impl From<RawItem> for Item {
    fn from(raw: RawItem) -> Self {
        Self {
            seq: raw.seq,
            class: Class::of_row(&raw.class),
            topic: raw.topic,
            key: raw.key,
            kind: raw.kind,
            message_id: raw.message_id,
            parked_at: raw.parked_at,
            parked_seconds: raw.parked_seconds,
            attempts: raw.attempts,
            reason: raw.reason,
            replay: Request::of(raw.replay_at, raw.replay_by),
        }
    }
}

/// What a row's headers say. A writer that does not use enqueue may have put anything there: what is no
/// text is shown as the JSON it is.
fn shown(headers: Option<String>) -> Headers {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let Some(headers) = headers else {
        return Headers::new();
    };
    match serde_json::from_str(&headers) {
        Ok(Value::Object(headers)) => {
            let headers = headers.into_iter();
            headers.map(|(name, value)| (name, text(value))).collect()
        }
        // A number may be larger than any that a program reads.
        Ok(_) | Err(_) => Headers::from([(String::new(), headers)]),
    }
}

pub(in crate::operator) async fn list(
    pool: &PgPool,
    selection: &Selection,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Item>, Error> {
    let rows = sqlx::query_as!(
        RawItem,
        r#"select seq, class, topic, key, kind, message_id, parked_at, attempts, reason, replay_at,
                  replay_by,
                  extract(epoch from clock_timestamp() - parked_at)::float8 as "parked_seconds!"
           from outbox.parked
           where ($1::text is null or class = $1)
             and ($2::text is null or topic = $2)
             and ($3::text is null or key = $3)
             and ($4::bigint is null or seq > $4)
           order by seq
           limit $5"#,
        selection.class.map(Class::as_str),
        selection.topic,
        selection.key,
        after,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Item::from).collect())
}

pub(in crate::operator) async fn show(
    pool: &PgPool,
    seq: i64,
    with_payload: bool,
) -> Result<Option<Parked>, Error> {
    let row = sqlx::query!(
        r#"select seq, class, topic, key, kind, message_id, parked_at, attempts, reason, replay_at,
                  replay_by, overtaken_by, traceparent, headers::text as headers,
                  outbox.readable_time(created_at) as "created_at!",
                  octet_length(payload)::bigint as bytes,
                  case when $2 then payload end as payload,
                  extract(epoch from clock_timestamp() - parked_at)::float8 as "parked_seconds!",
                  case when class = 'blocked' then
                      (select head from outbox.blocked_key
                       where blocked_key.topic = parked.topic
                         and blocked_key.key_digest = parked.key_digest) end as head
           from outbox.parked
           where seq = $1"#,
        seq,
        with_payload,
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let item = RawItem {
        seq: row.seq,
        class: row.class,
        topic: row.topic,
        key: row.key,
        kind: row.kind,
        message_id: row.message_id,
        parked_at: row.parked_at,
        parked_seconds: row.parked_seconds,
        attempts: row.attempts,
        reason: row.reason,
        replay_at: row.replay_at,
        replay_by: row.replay_by,
    };
    Ok(Some(Parked {
        item: item.into(),
        created_at: row.created_at,
        overtaken_by: row.overtaken_by,
        head: row.head,
        traceparent: row.traceparent,
        headers: shown(row.headers),
        bytes: row.bytes,
        payload: row.payload.map(Payload::from),
    }))
}

/// A parked row that somebody wants replayed.
pub(in crate::operator) struct Candidate {
    pub(in crate::operator) seq: i64,
    pub(in crate::operator) replay: Option<Request>,
    /// The refused message of its key, if it waits behind one.
    pub(in crate::operator) head: Option<i64>,
}

/// Locks parked rows, in the order of their numbers.
pub(in crate::operator) async fn lock_for_replay(
    connection: &mut PgConnection,
    seqs: &[i64],
) -> Result<Vec<Candidate>, Error> {
    let rows = sqlx::query!(
        r#"select seq, replay_at, replay_by,
                  case when class = 'blocked' then
                      (select head from outbox.blocked_key
                       where blocked_key.topic = parked.topic
                         and blocked_key.key_digest = parked.key_digest) end as head
           from outbox.parked
           where seq = any($1)
           order by seq
           for update of parked"#,
        seqs,
    )
    .fetch_all(connection)
    .await?;
    let candidates = rows.into_iter().map(|row| Candidate {
        seq: row.seq,
        replay: Request::of(row.replay_at, row.replay_by),
        head: row.head,
    });
    Ok(candidates.collect())
}

/// Locks the next rows that can be replayed and for which nobody has asked, in the order of their
/// numbers.
pub(in crate::operator) async fn lock_replayable(
    connection: &mut PgConnection,
    selection: &Selection,
    after: i64,
    limit: i64,
) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar!(
        "select seq from outbox.parked
         where class in ('poison', 'held') and replay_at is null and seq > $4
           and ($1::text is null or class = $1)
           and ($2::text is null or topic = $2)
           and ($3::text is null or key = $3)
         order by seq
         limit $5
         for update",
        selection.class.map(Class::as_str),
        selection.topic,
        selection.key,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// Notes the request on rows that are locked.
pub(in crate::operator) async fn ask_for(
    connection: &mut PgConnection,
    seqs: &[i64],
    by: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "update outbox.parked set replay_at = clock_timestamp(), replay_by = $2 where seq = any($1)",
        seqs,
        by,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Selected rows below a number, youngest first.
pub(in crate::operator) async fn youngest(
    pool: &PgPool,
    selection: &Selection,
    below: i64,
    limit: i64,
) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar!(
        "select seq from outbox.parked
         where seq < $4
           and ($1::text is null or class = $1)
           and ($2::text is null or topic = $2)
           and ($3::text is null or key = $3)
         order by seq desc
         limit $5",
        selection.class.map(Class::as_str),
        selection.topic,
        selection.key,
        below,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Those parked messages that the stored cursor has not passed: they are in the log, and a leader that
/// begins at the cursor reads them.
pub(in crate::operator) async fn ahead_of_cursor(
    pool: &PgPool,
    seqs: &[i64],
) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar!(
        "select log.seq from outbox.log, outbox.relay
         where log.seq = any($1) and exists (select from outbox.parked where parked.seq = log.seq)
           and not pg_visible_in_snapshot(log.xid, relay.settled)
           and not (pg_visible_in_snapshot(log.xid, relay.target) and log.seq <= relay.last_seq)",
        seqs,
    )
    .fetch_all(pool)
    .await?)
}

/// What a parked message is called.
pub(in crate::operator) struct Name {
    pub(in crate::operator) message_id: Uuid,
    pub(in crate::operator) topic: String,
    pub(in crate::operator) kind: String,
}

/// What a parked message is called, if there is one of this number.
pub(in crate::operator) async fn name(
    connection: &mut PgConnection,
    seq: i64,
) -> Result<Option<Name>, Error> {
    Ok(sqlx::query_as!(
        Name,
        "select message_id, topic, kind from outbox.parked where seq = $1",
        seq,
    )
    .fetch_optional(connection)
    .await?)
}
