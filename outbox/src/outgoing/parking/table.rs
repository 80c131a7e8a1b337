//! The statements on `outbox.parked` and `outbox.blocked_key`: no other file of this room has any.
//!
//! One lock order: rows of `blocked_key` first, by topic and digest of the key, then rows of `parked`.

use sqlx::{PgConnection, PgTransaction, types::Json};

use crate::{
    Error,
    message::Headers,
    outgoing::{parking::BlockedKey, parking::Queue, table::Logged},
};

/// Payload bytes that are tried at once of one queue.
const BATCH_BYTES: i64 = 1 << 20;

// ---- into parked ----

/// Keeps full copies of messages that are not even tried. Those parked already stay as they are.
pub(crate) async fn park(
    tx: &mut PgTransaction<'_>,
    seqs: &[i64],
    class: &str,
    reason: &str,
) -> Result<(), Error> {
    sqlx::query!(
        r#"insert into outbox.parked (seq, message_id, topic, key, kind, payload, traceparent,
                                      headers, created_at, class, reason)
           select seq, message_id, topic, key, kind, payload, traceparent, headers, created_at,
                  $2, $3
           from outbox.log
           where seq = any($1)
           on conflict on constraint parked_pkey do nothing"#,
        seqs,
        class,
        reason,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Keeps a full copy of a message that was refused alone. `given` is the highest number that had
/// been given to the broker's client by then.
pub(crate) async fn park_poison(
    tx: &mut PgTransaction<'_>,
    seq: i64,
    given: i64,
    reason: &str,
) -> Result<(), Error> {
    sqlx::query!(
        r#"insert into outbox.parked (seq, message_id, topic, key, kind, payload, traceparent,
                                      headers, created_at, class, reason, attempts, overtaken_by)
           select seq, message_id, topic, key, kind, payload, traceparent, headers, created_at,
                  'poison', $3, 1,
                  (select max(later.seq) from outbox.log as later
                   where later.seq > log.seq and later.seq <= $2
                     and later.topic = log.topic and later.key = log.key)
           from outbox.log
           where seq = $1
           on conflict on constraint parked_pkey do nothing"#,
        seq,
        given,
        reason,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Blocks the key of a parked message, if the policy of its topic says so: what is held of the
/// same key waits behind it too. Returns the key if it is blocked now. A message without a key has
/// no order.
pub(crate) async fn block(
    tx: &mut PgTransaction<'_>,
    seq: i64,
) -> Result<Option<BlockedKey>, Error> {
    let blocked = sqlx::query_as!(
        BlockedKey,
        r#"insert into outbox.blocked_key (topic, key, head)
           select parked.topic, parked.key, parked.seq
           from outbox.parked left join outbox.topic on topic.name = parked.topic
           where parked.seq = $1 and parked.key <> ''
             and coalesce(topic.on_poison, 'block-key') = 'block-key'
           on conflict on constraint blocked_key_pkey
               do update set head = coalesce(blocked_key.head, excluded.head)
           returning topic, key"#,
        seq,
    )
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(BlockedKey { topic, key }) = &blocked {
        sqlx::query!(
            "update outbox.parked set class = 'blocked'
             where topic = $1 and key_digest = outbox.key_digest($2) and class = 'held'",
            topic,
            key,
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(blocked)
}

/// Locks the rows of those keys that are still blocked, and returns these.
pub(crate) async fn lock(
    tx: &mut PgTransaction<'_>,
    keys: &[BlockedKey],
) -> Result<Vec<BlockedKey>, Error> {
    let topics: Vec<_> = keys.iter().map(|key| key.topic.clone()).collect();
    let keys: Vec<_> = keys.iter().map(|key| key.key.clone()).collect();
    Ok(sqlx::query_as!(
        BlockedKey,
        r#"select topic, key from outbox.blocked_key
           where (topic, key_digest) in (select of.topic, outbox.key_digest(of.key)
                                         from unnest($1::text[], $2::text[]) as of (topic, key))
           order by topic, key_digest
           for update"#,
        &topics,
        &keys,
    )
    .fetch_all(&mut **tx)
    .await?)
}

// ---- within parked ----

/// A parked message was tried alone once more and refused for its own sake.
pub(crate) async fn refuse(
    tx: &mut PgTransaction<'_>,
    seq: i64,
    reason: &str,
) -> Result<(), Error> {
    lock_keys_of(tx, &[seq]).await?;
    sqlx::query!(
        "update outbox.parked
         set class = 'poison', reason = $2, attempts = attempts + 1, replay_at = null, replay_by = null
         where seq = $1",
        seq,
        reason,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

// ---- out of parked ----

/// What a removal did.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// Messages that were still parked.
    pub(crate) messages: usize,
    /// Keys whose head is gone.
    pub(crate) released: Vec<BlockedKey>,
    /// Keys that are blocked no longer.
    pub(crate) opened: Vec<BlockedKey>,
}

/// Forgets parked messages, because they were acknowledged or discarded. A key whose head goes is
/// released: what waits behind it is sent in order. A key whose last message goes is opened.
pub(crate) async fn remove(tx: &mut PgTransaction<'_>, seqs: &[i64]) -> Result<Removed, Error> {
    lock_keys_of(tx, seqs).await?;
    let gone = sqlx::query_as!(
        BlockedKey,
        "delete from outbox.parked where seq = any($1) returning topic, key",
        seqs,
    )
    .fetch_all(&mut **tx)
    .await?;
    // Also where a key was blocked since we looked for its row: a held message that the leader
    // found to be poison meanwhile.
    let released = sqlx::query_as!(
        BlockedKey,
        "update outbox.blocked_key set head = null where head = any($1) returning topic, key",
        seqs
    )
    .fetch_all(&mut **tx)
    .await?;
    let messages = gone.len();
    let (topics, keys): (Vec<_>, Vec<_>) = gone.into_iter().map(|k| (k.topic, k.key)).unzip();
    let opened = sqlx::query_as!(
        BlockedKey,
        r#"delete from outbox.blocked_key
           where (topic, key_digest) in (select of.topic, outbox.key_digest(of.key)
                                         from unnest($1::text[], $2::text[]) as of (topic, key))
             and head is null
             and not exists (select from outbox.parked
                             where parked.topic = blocked_key.topic
                               and parked.key_digest = blocked_key.key_digest
                               and class = 'blocked')
           returning topic, key"#,
        &topics,
        &keys,
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(Removed {
        messages,
        released,
        opened,
    })
}

/// How many messages of these keys wait.
pub(crate) async fn waiting(tx: &mut PgTransaction<'_>, keys: &[BlockedKey]) -> Result<i64, Error> {
    let (topics, keys): (Vec<_>, Vec<_>) = keys
        .iter()
        .map(|k| (k.topic.clone(), k.key.clone()))
        .unzip();
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from outbox.parked
           where (topic, key_digest) in (select of.topic, outbox.key_digest(of.key)
                                         from unnest($1::text[], $2::text[]) as of (topic, key))
             and class = 'blocked'"#,
        &topics,
        &keys,
    )
    .fetch_one(&mut **tx)
    .await?)
}

/// Locks the blocked keys of parked messages.
async fn lock_keys_of(tx: &mut PgTransaction<'_>, seqs: &[i64]) -> Result<Vec<BlockedKey>, Error> {
    Ok(sqlx::query_as!(
        BlockedKey,
        r#"select topic, key from outbox.blocked_key
           where (topic, key_digest) in (select topic, key_digest from outbox.parked where seq = any($1))
           order by topic, key_digest
           for update"#,
        seqs,
    )
    .fetch_all(&mut **tx)
    .await?)
}

// ---- what the leader asks ----

/// Every blocked key.
pub(crate) async fn blocked_keys(connection: &mut PgConnection) -> Result<Vec<BlockedKey>, Error> {
    Ok(
        sqlx::query_as!(BlockedKey, "select topic, key from outbox.blocked_key")
            .fetch_all(connection)
            .await?,
    )
}

/// What is to be tried: topics with held messages, keys whose head is gone, and single messages
/// that an operator asked for. Bounded; the rest comes when these are done.
pub(crate) async fn queues(connection: &mut PgConnection) -> Result<Vec<Queue>, Error> {
    let rows = sqlx::query!(
        r#"select topic as "topic!", null::text as key, null::bigint as seq
           from (select distinct topic from outbox.parked where class = 'held') as held
           union all
           select topic, key, null from
               (select topic, key from outbox.blocked_key where head is null limit 100) as released
           union all
           select topic, null, seq from
               (select topic, seq from outbox.parked
                where replay_at is not null and class = 'poison' order by seq limit 100) as asked"#
    )
    .fetch_all(connection)
    .await?;
    let queue = |topic, key, seq| match (key, seq) {
        (Some(key), _) => Queue::Key { topic, key },
        (None, Some(seq)) => Queue::One { topic, seq },
        (None, None) => Queue::Topic(topic),
    };
    let queues = rows.into_iter();
    Ok(queues
        .map(|row| queue(row.topic, row.key, row.seq))
        .collect())
}

/// The oldest messages of a queue, at most so many and so many bytes, but at least one.
pub(crate) async fn next_of(
    connection: &mut PgConnection,
    queue: &Queue,
    limit: i64,
) -> Result<Vec<Logged>, Error> {
    let rows = match queue {
        Queue::Topic(topic) => {
            sqlx::query_as!(
                Logged,
                r#"select seq, message_id, topic, key, kind, payload, traceparent,
                          headers as "headers: Json<Headers>", created_at
                   from (select *, sum(octet_length(payload)) over (order by topic, seq) as bytes
                         from outbox.parked
                         where class = 'held' and topic = $1
                         order by topic, seq
                         limit $2) as next
                   where coalesce(bytes, 0) - coalesce(octet_length(payload), 0) <= $3
                   order by seq"#,
                topic,
                limit,
                BATCH_BYTES,
            )
            .fetch_all(connection)
            .await?
        }
        Queue::Key { topic, key } => {
            sqlx::query_as!(
                Logged,
                r#"select seq, message_id, topic, key, kind, payload, traceparent,
                          headers as "headers: Json<Headers>", created_at
                   from (select *, sum(octet_length(payload)) over (order by seq) as bytes
                         from outbox.parked
                         where class = 'blocked' and topic = $1
                           and key_digest = outbox.key_digest($2)
                         order by seq
                         limit $3) as next
                   where coalesce(bytes, 0) - coalesce(octet_length(payload), 0) <= $4
                   order by seq"#,
                topic,
                key,
                limit,
                BATCH_BYTES,
            )
            .fetch_all(connection)
            .await?
        }
        Queue::One { seq, .. } => {
            sqlx::query_as!(
                Logged,
                r#"select seq, message_id, topic, key, kind, payload, traceparent,
                          headers as "headers: Json<Headers>", created_at
                   from outbox.parked
                   where class = 'poison' and seq = $1 and replay_at is not null"#,
                seq,
            )
            .fetch_all(connection)
            .await?
        }
    };
    Ok(rows)
}
