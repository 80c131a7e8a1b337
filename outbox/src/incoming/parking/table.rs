//! The statements on `outbox.inbox_parked` and `outbox.inbox_blocked`: no other file has any.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::{
    Error,
    broker::Record,
    incoming::parking::{
        Sickness,
        parked::{Class, Filter, Parked, Request},
    },
    printable::hex,
};

/// Locks those of the keys that are blocked, in one order, and returns them. Another transaction
/// that holds one is waited for; a key that it opened is not returned.
pub(crate) async fn lock_blocked(
    tx: &mut PgTransaction<'_>,
    consumer: &str,
    topic: &str,
    keys: &[&[u8]],
) -> Result<Vec<Vec<u8>>, Error> {
    Ok(sqlx::query_scalar!(
        "select key from outbox.inbox_blocked
         where consumer = $1 and topic = $2
           and key_digest = any (array(select sha256(asked.key) from unnest($3::bytea[]) as asked (key)))
         order by key_digest
         for update",
        consumer,
        topic,
        keys as &[&[u8]],
    )
    .fetch_all(&mut **tx)
    .await?)
}

/// Blocks the key, or locks it where it is blocked already. Returns whether it is new.
pub(crate) async fn block(
    tx: &mut PgTransaction<'_>,
    consumer: &str,
    topic: &str,
    key: &[u8],
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"insert into outbox.inbox_blocked (consumer, topic, key)
           values ($1, $2, $3)
           on conflict on constraint inbox_blocked_pkey
           do update set blocked_at = inbox_blocked.blocked_at
           returning xmax = 0 as "new!""#,
        consumer,
        topic,
        key,
    )
    .fetch_one(&mut **tx)
    .await?)
}

/// Keeps a full copy of a message. `payload` stands for the record's. A message that is parked
/// already, and came again because the inbox has forgotten it, stays as it is.
pub(crate) async fn park(
    tx: &mut PgTransaction<'_>,
    consumer: &str,
    id: Uuid,
    record: &Record,
    payload: Option<&[u8]>,
    sickness: &Sickness,
) -> Result<(), Error> {
    sqlx::query!(
        r#"insert into outbox.inbox_parked (consumer, message_id, topic, partition, "offset", key,
                                            payload, headers, class, reason, attempts)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
           on conflict on constraint inbox_parked_once do nothing"#,
        consumer,
        id,
        record.topic,
        record.partition,
        record.offset,
        record.key,
        payload,
        to_json(&record.headers),
        sickness.class.as_str(),
        sickness.reason,
        sickness.attempts,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A parked message by what its key's lock needs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) id: i64,
    pub(crate) consumer: String,
    pub(crate) message_id: Uuid,
    pub(crate) topic: String,
    pub(crate) key: Option<Vec<u8>>,
}

/// The oldest message that an operator, or the removal of its head, asks to be handled again, unless
/// somebody is at it already.
pub(crate) async fn next_request(pool: &PgPool, consumer: &str) -> Result<Option<Place>, Error> {
    Ok(sqlx::query_as!(
        Place,
        "select id, consumer, message_id, topic, key from outbox.inbox_parked
         where consumer = $1 and replay_at is not null
         order by id
         limit 1
         for update skip locked",
        consumer,
    )
    .fetch_optional(pool)
    .await?)
}

/// Where the message is parked; `None` when it is not.
pub(crate) async fn place(pool: &PgPool, id: i64) -> Result<Option<Place>, Error> {
    Ok(sqlx::query_as!(
        Place,
        "select id, consumer, message_id, topic, key from outbox.inbox_parked where id = $1",
        id,
    )
    .fetch_optional(pool)
    .await?)
}

/// Takes the lock of the message's key. Where there is none, the parked row is its own lock.
pub(crate) async fn lock(tx: &mut PgTransaction<'_>, place: &Place) -> Result<(), Error> {
    if let Some(key) = place.key.as_deref() {
        lock_blocked(tx, &place.consumer, &place.topic, &[key]).await?;
    }
    Ok(())
}

/// A message taken out of parking.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) record: Record,
    /// Who asked for it.
    pub(crate) by: String,
}

/// Removes a message that is asked for. `None` when it is gone, not asked for any more, or in
/// another consumer's hands.
pub(crate) async fn take(tx: &mut PgTransaction<'_>, id: i64) -> Result<Option<Taken>, Error> {
    let row = sqlx::query!(
        r#"delete from outbox.inbox_parked
           where id = (select id from outbox.inbox_parked
                       where id = $1 and replay_at is not null
                       for update skip locked)
           returning topic, partition, "offset", key, payload, headers, replay_by"#,
        id,
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| Taken {
        record: Record {
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            timestamp_ms: 0,
            key: row.key,
            payload: row.payload,
            headers: from_json(&row.headers),
        },
        by: row.replay_by.unwrap_or_default(),
    }))
}

/// Removes a message for good. Returns whether it was there.
pub(crate) async fn remove(tx: &mut PgTransaction<'_>, id: i64) -> Result<bool, Error> {
    let removed = sqlx::query!("delete from outbox.inbox_parked where id = $1", id)
        .execute(&mut **tx)
        .await?;
    Ok(removed.rows_affected() > 0)
}

/// After a message was removed: if a follower is now the first of its key, it is asked for; if none
/// is left, the key is open. Under the key's lock.
pub(crate) async fn release(
    tx: &mut PgTransaction<'_>,
    place: &Place,
    by: &str,
) -> Result<(), Error> {
    let Some(key) = place.key.as_deref() else {
        return Ok(());
    };
    let first = sqlx::query!(
        "select id, class from outbox.inbox_parked
         where consumer = $1 and topic = $2 and key_digest = sha256($3)
         order by id
         limit 1",
        place.consumer,
        place.topic,
        key,
    )
    .fetch_optional(&mut **tx)
    .await?;
    match first {
        None => {
            sqlx::query!(
                "delete from outbox.inbox_blocked
                 where consumer = $1 and topic = $2 and key_digest = sha256($3)",
                place.consumer,
                place.topic,
                key,
            )
            .execute(&mut **tx)
            .await?;
        }
        Some(first) if first.class == "blocked" => {
            sqlx::query!(
                "update outbox.inbox_parked set replay_at = now(), replay_by = $2
                 where id = $1 and replay_at is null",
                first.id,
                by,
            )
            .execute(&mut **tx)
            .await?;
        }
        // A head of its own: it waits for its own operator.
        Some(_) => {}
    }
    Ok(())
}

/// Notes that a message failed again; it is not asked for any more. Under the key's lock.
pub(crate) async fn put_back(
    tx: &mut PgTransaction<'_>,
    id: i64,
    sickness: &Sickness,
) -> Result<(), Error> {
    sqlx::query!(
        "update outbox.inbox_parked
         set class = $2, reason = $3, attempts = attempts + $4, replay_at = null, replay_by = null
         where id = $1 and replay_at is not null",
        id,
        sickness.class.as_str(),
        sickness.reason,
        sickness.attempts,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A message that is asked for.
pub(crate) struct Asked {
    pub(crate) id: i64,
    /// Nobody had asked for it before.
    pub(crate) is_new: bool,
}

/// Asks for those of the messages that are not behind another of their key. Returns what is asked
/// for now, that which was before included.
pub(crate) async fn request(
    tx: &mut PgTransaction<'_>,
    filter: &Filter,
    only: Option<i64>,
    by: &str,
) -> Result<Vec<Asked>, Error> {
    Ok(sqlx::query_as!(
        Asked,
        r#"update outbox.inbox_parked as parked
           set replay_at = coalesce(parked.replay_at, now()),
               replay_by = coalesce(parked.replay_by, $6)
           from (select id, replay_at is null as is_new from outbox.inbox_parked as candidate
                 where ($1::text is null or consumer = $1)
                   and ($2::text is null or topic = $2)
                   and ($3::bytea is null or key = $3)
                   and ($4::text is null or class = $4)
                   and ($5::bigint is null or id = $5)
                   and (class <> 'blocked' or not exists (
                           select from outbox.inbox_parked as earlier
                           where earlier.consumer = candidate.consumer
                             and earlier.topic = candidate.topic
                             and earlier.key_digest = candidate.key_digest and earlier.id < candidate.id))
                 order by id
                 for update) as asked
           where parked.id = asked.id
           returning parked.id, asked.is_new as "is_new!""#,
        filter.consumer.as_deref(),
        filter.topic.as_deref(),
        filter.key.as_deref(),
        filter.class.map(|class| class.as_str()),
        only,
        by,
    )
    .fetch_all(&mut **tx)
    .await?)
}

/// The first parked message of the key.
pub(crate) async fn head(pool: &PgPool, place: &Place) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar!(
        "select id from outbox.inbox_parked
         where consumer = $1 and topic = $2 and key_digest = sha256($3)
         order by id
         limit 1",
        place.consumer,
        place.topic,
        place.key.as_deref(),
    )
    .fetch_optional(pool)
    .await?)
}

/// How many messages are selected.
pub(crate) async fn count(pool: &PgPool, filter: &Filter) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from outbox.inbox_parked
           where ($1::text is null or consumer = $1)
             and ($2::text is null or topic = $2)
             and ($3::bytea is null or key = $3)
             and ($4::text is null or class = $4)"#,
        filter.consumer.as_deref(),
        filter.topic.as_deref(),
        filter.key.as_deref(),
        filter.class.map(|class| class.as_str()),
    )
    .fetch_one(pool)
    .await?)
}

/// A page of parked messages in the order of parking, from after `after`.
pub(crate) async fn list(
    pool: &PgPool,
    filter: &Filter,
    after: i64,
    limit: i64,
) -> Result<Vec<Parked>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, consumer, message_id, topic, partition, "offset", key, class, reason,
                  attempts, parked_at, replay_at, replay_by,
                  extract(epoch from clock_timestamp() - parked_at)::float8 as "parked_seconds!"
           from outbox.inbox_parked
           where ($1::text is null or consumer = $1)
             and ($2::text is null or topic = $2)
             and ($3::bytea is null or key = $3)
             and ($4::text is null or class = $4)
             and id > $5
           order by id
           limit $6"#,
        filter.consumer.as_deref(),
        filter.topic.as_deref(),
        filter.key.as_deref(),
        filter.class.map(|class| class.as_str()),
        after,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Row::read).collect())
}

/// What a parked message says, and what it waits for.
pub(crate) struct Content {
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) bytes: Option<i32>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) head: Option<i64>,
}

/// The content of a parked message; its payload only if that is wanted.
pub(crate) async fn content(
    pool: &PgPool,
    id: i64,
    with_payload: bool,
) -> Result<Option<Content>, Error> {
    let row = sqlx::query!(
        r#"select case when $2 then payload end as payload, octet_length(payload) as bytes, headers,
                  case when class = 'blocked' then
                      (select min(earlier.id) from outbox.inbox_parked as earlier
                       where earlier.consumer = parked.consumer and earlier.topic = parked.topic
                         and earlier.key_digest = parked.key_digest and earlier.id < parked.id) end as head
           from outbox.inbox_parked as parked
           where id = $1"#,
        id,
        with_payload,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Content {
        payload: row.payload,
        bytes: row.bytes,
        headers: from_json(&row.headers),
        head: row.head,
    }))
}

struct Row {
    id: i64,
    consumer: String,
    message_id: Uuid,
    topic: String,
    partition: i32,
    offset: i64,
    key: Option<Vec<u8>>,
    class: String,
    reason: String,
    attempts: i32,
    parked_seconds: f64,
    parked_at: DateTime<Utc>,
    replay_at: Option<DateTime<Utc>>,
    replay_by: Option<String>,
}

impl Row {
    fn read(self) -> Parked {
        Parked {
            id: self.id,
            consumer: self.consumer,
            message_id: self.message_id,
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
            key: self.key,
            class: Class::of_row(&self.class),
            reason: self.reason,
            attempts: self.attempts,
            parked_at: self.parked_at,
            parked_seconds: self.parked_seconds,
            replay: Request::of(self.replay_at, self.replay_by),
        }
    }
}

/// `[[name, value as hex or null], …]`.
fn to_json(headers: &[(String, Option<Vec<u8>>)]) -> Value {
    let pair = |(name, value): &(String, Option<Vec<u8>>)| {
        // JSON in PostgreSQL cannot hold NUL either.
        json!([name.replace('\0', "\u{fffd}"), value.as_deref().map(hex)])
    };
    Value::Array(headers.iter().map(pair).collect())
}

fn from_json(headers: &Value) -> Vec<(String, Option<Vec<u8>>)> {
    let pair = |pair: &Value| {
        let name = pair.get(0)?.as_str()?.to_owned();
        Some((name, pair.get(1)?.as_str().and_then(unhex)))
    };
    let pairs = headers.as_array().map(Vec::as_slice).unwrap_or_default();
    pairs.iter().filter_map(pair).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let headers = vec![
            ("a".to_owned(), Some(vec![0, 255, 16])),
            ("a".to_owned(), Some(Vec::new())),
            ("b".to_owned(), None),
        ];
        assert_eq!(from_json(&to_json(&headers)), headers);
    }
}
