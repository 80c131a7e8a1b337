//! The statements on `outbox.parked` and `outbox.blocked_key`: no other file of this room has any.
//!
//! One lock order: rows of `blocked_key` first, by topic and digest of the key, then rows of `parked`.

use sqlx::{PgConnection, PgTransaction};

use crate::{
    Error,
    outgoing::{
        logged::{Fetched, Logged, cut},
        parking::{BlockedKey, Queue},
    },
};

/// Payload bytes that are tried at once of one queue.
const BATCH_BYTES: i64 = 1 << 20;
/// Blocked keys that are read at once.
const KEYS: i64 = 10_000;
/// Topics that are looked at at once, and of each so many released keys and requests.
const TOPICS: i64 = 1_000;
const OF_A_TOPIC: i64 = 20;

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
           select seq, message_id, topic, key, kind, payload, traceparent, headers,
                  outbox.readable_time(created_at), $2, $3
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

/// Keeps full copies of messages that were refused alone, or of which no record can be made, each with
/// its reason. `given` is the highest number that had been given to the broker's client by then.
pub(crate) async fn park_poison(
    tx: &mut PgTransaction<'_>,
    seqs: &[i64],
    given: i64,
    reasons: &[String],
) -> Result<(), Error> {
    sqlx::query!(
        r#"insert into outbox.parked (seq, message_id, topic, key, kind, payload, traceparent,
                                      headers, created_at, class, reason, attempts, overtaken_by)
           select seq, message_id, topic, key, kind, payload, traceparent, headers,
                  outbox.readable_time(created_at), 'poison', refused.reason, 1,
                  (select max(later.seq) from outbox.log as later
                   where later.seq > log.seq and later.seq <= $2
                     and later.topic = log.topic and later.key = log.key)
           from unnest($1::bigint[], $3::text[]) as refused (number, reason)
           join outbox.log on log.seq = refused.number
           on conflict on constraint parked_pkey do nothing"#,
        seqs,
        given,
        reasons,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Blocks the keys of parked messages, where the policy of the topic says so: what is held of the
/// same key waits behind it too. Returns the keys that are blocked now. A message without a key has
/// no order.
pub(crate) async fn block(
    tx: &mut PgTransaction<'_>,
    seqs: &[i64],
) -> Result<Vec<BlockedKey>, Error> {
    let blocked = sqlx::query_as!(
        BlockedKey,
        r#"insert into outbox.blocked_key (topic, key, head)
           select parked.topic, parked.key, min(parked.seq)
           from outbox.parked left join outbox.topic on topic.name = parked.topic
           where parked.seq = any($1) and parked.key <> ''
             and coalesce(topic.on_poison, 'block-key') = 'block-key'
           group by parked.topic, parked.key
           order by parked.topic, outbox.key_digest(parked.key)
           on conflict on constraint blocked_key_pkey
               do update set head = coalesce(blocked_key.head, excluded.head)
           returning topic, key"#,
        seqs,
    )
    .fetch_all(&mut **tx)
    .await?;
    if blocked.is_empty() {
        return Ok(blocked);
    }
    let topics: Vec<_> = blocked.iter().map(|key| key.topic.clone()).collect();
    let keys: Vec<_> = blocked.iter().map(|key| key.key.clone()).collect();
    sqlx::query!(
        "update outbox.parked set class = 'blocked'
         where (topic, key_digest) in (select of.topic, outbox.key_digest(of.key)
                                       from unnest($1::text[], $2::text[]) as of (topic, key))
           and class = 'held'",
        &topics,
        &keys,
    )
    .execute(&mut **tx)
    .await?;
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

/// Blocked keys, in the order of topics and keys, after one.
pub(crate) async fn blocked_keys(
    connection: &mut PgConnection,
    after: Option<&BlockedKey>,
) -> Result<Vec<BlockedKey>, Error> {
    let (topic, key) = after.map_or(("", ""), |after| (&after.topic, &after.key));
    Ok(sqlx::query_as!(
        BlockedKey,
        "select topic, key from outbox.blocked_key where (topic, key) > ($1, $2)
         order by topic, key limit $3",
        topic,
        key,
        KEYS,
    )
    .fetch_all(connection)
    .await?)
}

/// What is to be tried: topics with held messages, keys whose head is gone, and single messages
/// that an operator asked for; of each topic some. The rest comes when these are done.
///
/// Each topic is found by a step through an index: it costs what there are topics, however many
/// messages they have.
pub(crate) async fn queues(connection: &mut PgConnection) -> Result<Vec<Queue>, Error> {
    let rows = sqlx::query!(
        r#"with recursive
           held (topic) as (
               (select topic from outbox.parked where class = 'held' order by topic, seq limit 1)
               union all
               (select (select parked.topic from outbox.parked
                        where class = 'held' and parked.topic > held.topic
                        order by parked.topic, seq limit 1)
                from held where held.topic is not null)
           ),
           released (topic) as (
               (select topic from outbox.blocked_key where head is null order by topic, key limit 1)
               union all
               (select (select blocked_key.topic from outbox.blocked_key
                        where head is null and blocked_key.topic > released.topic
                        order by blocked_key.topic, key limit 1)
                from released where released.topic is not null)
           ),
           asked (topic) as (
               (select topic from outbox.parked where replay_at is not null
                order by topic, seq limit 1)
               union all
               (select (select parked.topic from outbox.parked
                        where replay_at is not null and parked.topic > asked.topic
                        order by parked.topic, seq limit 1)
                from asked where asked.topic is not null)
           )
           select topic as "topic!", null::text as key, null::bigint as seq
           from (select topic from held where topic is not null limit $1) as held
           union all
           select topic, key, null
           from (select topic from released where topic is not null limit $1) as released
           cross join lateral (select key from outbox.blocked_key
                               where head is null and blocked_key.topic = released.topic
                               order by topic, key limit $2) as next
           union all
           select topic, null, seq
           from (select topic from asked where topic is not null limit $1) as asked
           cross join lateral (select seq from outbox.parked
                               where replay_at is not null and class = 'poison'
                                 and parked.topic = asked.topic
                               order by topic, seq limit $2) as next"#,
        TOPICS,
        OF_A_TOPIC,
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
    let fetched = match queue {
        Queue::Topic(topic) => {
            sqlx::query_as!(
                Fetched,
                r#"select seq, message_id, topic, key, kind,
                          case when fits then payload end as payload, traceparent,
                          headers as "headers: _", created_at as "created_at: _", fits as "fits!"
                   from (select *, coalesce(sum(octet_length(payload)) over (
                                order by topic, seq rows between unbounded preceding and 1 preceding), 0)
                                <= $3 as fits
                         from (select * from outbox.parked
                               where class = 'held' and topic = $1
                               order by topic, seq
                               limit $2) as next) as next"#,
                topic,
                limit,
                BATCH_BYTES,
            )
            .fetch_all(connection)
            .await?
        }
        Queue::Key { topic, key } => {
            sqlx::query_as!(
                Fetched,
                r#"select seq, message_id, topic, key, kind,
                          case when fits then payload end as payload, traceparent,
                          headers as "headers: _", created_at as "created_at: _", fits as "fits!"
                   from (select *, coalesce(sum(octet_length(payload)) over (
                                order by topic, key_digest, seq
                                rows between unbounded preceding and 1 preceding), 0)
                                <= $4 as fits
                         from (select * from outbox.parked
                               where class = 'blocked' and topic = $1
                                 and key_digest = outbox.key_digest($2)
                               order by topic, key_digest, seq
                               limit $3) as next) as next"#,
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
                Fetched,
                r#"select seq, message_id, topic, key, kind, payload, traceparent,
                          headers as "headers: _", created_at as "created_at: _", true as "fits!"
                   from outbox.parked
                   where class = 'poison' and seq = $1 and replay_at is not null"#,
                seq,
            )
            .fetch_all(connection)
            .await?
        }
    };
    Ok(cut(fetched).0)
}
