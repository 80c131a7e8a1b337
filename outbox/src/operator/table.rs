//! The operator's statements. Those of the doctor have a file of their own.
//!
//! `xid8` and `pg_snapshot` travel as text: the driver has no type for them.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error,
    message::Headers,
    operator::{
        lag::TopicLag,
        parked::{Class, Item, Parked, Request, Selection},
        payload::Payload,
        replay,
        status::{InboxParked, Lease, PARTITION, ParkedCount, Partition, Pause},
        tail::{Filter, WINDOW},
    },
    outgoing::{
        cursor::{Cursor, Cut},
        snapshot::{ParseError, Snapshot},
    },
};

/// The isolation of every transaction that writes: each statement sees what others have committed.
pub(super) const BEGIN: &str = "begin isolation level read committed";

// ---- looking ----

/// Pins plans for the rest of the transaction, as the relay's session does: the log is read by its
/// two indexes, in index order. No look takes longer than a minute.
pub(super) async fn pin_plans(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!(
        "select count(set_config(name, value, true))
         from (values ('plan_cache_mode', 'force_custom_plan'), ('enable_seqscan', 'off'),
                      ('enable_bitmapscan', 'off'), ('enable_sort', 'off'), ('jit', 'off'),
                      ('statement_timeout', '60s')) as pinned (name, value)"
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// The relay's row, without the cursor.
pub(super) struct Relay {
    pub(super) lease: Option<Lease>,
    pub(super) epoch: i64,
    pub(super) paused: Option<Pause>,
    pub(super) cursor_age_seconds: f64,
}

pub(super) async fn relay(connection: &mut PgConnection) -> Result<Relay, Error> {
    let row = sqlx::query!(
        r#"select case when lease_until > clock_timestamp() then owner end as owner,
                  case when lease_until > clock_timestamp()
                       then extract(epoch from lease_until - clock_timestamp())::float8 end as seconds_left,
                  epoch, paused_at, paused_by,
                  extract(epoch from clock_timestamp() - written_at)::float8 as "age!"
           from outbox.relay"#
    )
    .fetch_one(connection)
    .await?;
    let lease = row.owner.zip(row.seconds_left);
    let pause = row.paused_at.zip(row.paused_by);
    Ok(Relay {
        lease: lease.map(|(owner, seconds_left)| Lease {
            owner,
            seconds_left,
        }),
        epoch: row.epoch,
        paused: pause.map(|(since, by)| Pause { since, by }),
        cursor_age_seconds: row.age,
    })
}

/// The cursor as it is written down.
pub(super) async fn cursor(connection: &mut PgConnection) -> Result<Cursor, Error> {
    let row = sqlx::query!(
        r#"select settled::text as "settled!", settled_floor, target::text as "target!", target_floor,
                  last_seq
           from outbox.relay"#
    )
    .fetch_one(connection)
    .await?;
    Ok(Cursor {
        settled: Cut {
            snapshot: parse(&row.settled)?,
            floor: row.settled_floor,
        },
        target: Cut {
            snapshot: parse(&row.target)?,
            floor: row.target_floor,
        },
        last_seq: row.last_seq,
    })
}

pub(super) async fn snapshot(connection: &mut PgConnection) -> Result<Snapshot, Error> {
    let text = sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#)
        .fetch_one(connection)
        .await?;
    parse(&text)
}

/// Where the rows are that the cursor has not passed: see [`unsettled`](super::look::unsettled).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsettled {
    /// Transactions from here on, with numbers above, except `but_not`.
    pub(super) began_at: u64,
    pub(super) above: i64,
    pub(super) but_not: Vec<u64>,
    /// Transactions from here on, with numbers above and up to.
    pub(super) began_later_at: u64,
    pub(super) later_above: i64,
    pub(super) later_to: i64,
    /// Single transactions, each with the number above which its rows count.
    pub(super) late: Vec<(u64, i64)>,
}

/// Counts rows by topic, most first. Of each of the three sources at most `limit` are read.
pub(super) async fn count(
    connection: &mut PgConnection,
    unsettled: &Unsettled,
    limit: i64,
) -> Result<Vec<TopicLag>, Error> {
    let (xids, afters) = columns(&unsettled.late);
    Ok(sqlx::query_as!(
        TopicLag,
        r#"select topic as "topic!", count(*) as "messages!",
                  extract(epoch from clock_timestamp() - min(created_at))::float8 as "oldest_seconds!"
           from (
               (select topic, created_at
                from outbox.log
                where seq > $1 and xid >= $2::text::xid8 and xid <> all($3::text[]::xid8[])
                order by seq
                limit $9)
               union all
               (select topic, created_at
                from outbox.log
                where seq > $4 and seq <= $5 and xid >= $6::text::xid8
                order by seq
                limit $9)
               union all
               (select l.topic, l.created_at
                from unnest($7::text[], $8::bigint[]) as late (xid, after)
                cross join lateral (
                    select topic, created_at
                    from outbox.log
                    where log.xid >= late.xid::xid8 and log.xid <= late.xid::xid8
                      and log.seq > late.after
                    order by log.xid, log.seq
                    limit $9
                ) as l
                limit $9)
           ) as unsettled
           group by topic
           order by count(*) desc, topic"#,
        unsettled.above,
        unsettled.began_at.to_string(),
        &texts(&unsettled.but_not),
        unsettled.later_above,
        unsettled.later_to,
        unsettled.began_later_at.to_string(),
        &xids,
        &afters,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// A row of the log, as an operator sees it.
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) xid: u64,
    pub(super) message_id: Uuid,
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) kind: String,
    pub(super) bytes: Option<i64>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) age_seconds: f64,
    pub(super) parked: Option<Class>,
}

/// As the driver returns it.
struct RawRow {
    seq: i64,
    xid: String,
    message_id: Uuid,
    topic: String,
    key: String,
    kind: String,
    bytes: Option<i64>,
    payload: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
    age_seconds: f64,
    parked: Option<String>,
}

impl TryFrom<RawRow> for Row {
    type Error = Error;

    fn try_from(raw: RawRow) -> Result<Self, Error> {
        Ok(Self {
            seq: raw.seq,
            xid: raw.xid.parse().map_err(decode)?,
            message_id: raw.message_id,
            topic: raw.topic,
            key: raw.key,
            kind: raw.kind,
            bytes: raw.bytes,
            payload: raw.payload,
            created_at: raw.created_at,
            age_seconds: raw.age_seconds,
            parked: raw
                .parked
                .map(|class| class.parse())
                .transpose()
                .map_err(decode)?,
        })
    }
}

/// The newest rows, newest first.
pub(super) async fn newest(
    connection: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let newest = newest_seq(connection).await?.unwrap_or(0);
    let rows = sqlx::query_as!(
        RawRow,
        r#"select l.seq as "seq!", l.xid::text as "xid!", l.message_id as "message_id!",
                  l.topic as "topic!", l.key as "key!", l.kind as "kind!",
                  octet_length(l.payload)::bigint as bytes,
                  case when $5 then l.payload end as payload, l.created_at as "created_at!",
                  extract(epoch from clock_timestamp() - l.created_at)::float8 as "age_seconds!",
                  (select class from outbox.parked where parked.seq = l.seq) as parked
           from (select * from outbox.log
                 where seq > $1
                   and ($2::text is null or topic = $2)
                   and ($3::text is null or key = $3)
                   and ($4::text is null or kind = $4)
                 order by seq desc
                 limit $6) as l"#,
        newest - WINDOW,
        filter.topic,
        filter.key,
        filter.kind,
        filter.payload,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::try_from).collect()
}

/// Rows of the transactions that began at `began_at` or later, and of those in `late`.
pub(super) async fn began_or_late(
    connection: &mut PgConnection,
    filter: &Filter,
    began_at: u64,
    late: &[(u64, i64)],
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let (xids, afters) = columns(late);
    let rows = sqlx::query_as!(
        RawRow,
        r#"select l.seq as "seq!", l.xid::text as "xid!", l.message_id as "message_id!",
                  l.topic as "topic!", l.key as "key!", l.kind as "kind!",
                  octet_length(l.payload)::bigint as bytes,
                  case when $7 then l.payload end as payload, l.created_at as "created_at!",
                  extract(epoch from clock_timestamp() - l.created_at)::float8 as "age_seconds!",
                  (select class from outbox.parked where parked.seq = l.seq) as parked
           from (
               (select * from outbox.log where xid >= $1::text::xid8 order by xid, seq limit $8)
               union all
               (select l.*
                from unnest($2::text[], $3::bigint[]) as late (xid, after)
                cross join lateral (
                    select * from outbox.log
                    where log.xid >= late.xid::xid8 and log.xid <= late.xid::xid8
                      and log.seq > late.after
                    order by log.xid, log.seq
                    limit $8
                ) as l)
           ) as l
           where ($4::text is null or topic = $4)
             and ($5::text is null or key = $5)
             and ($6::text is null or kind = $6)
           limit $8"#,
        began_at.to_string(),
        &xids,
        &afters,
        filter.topic,
        filter.key,
        filter.kind,
        filter.payload,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Row::try_from).collect()
}

/// The last number given out, committed or not.
pub(super) async fn last_seq(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"select case when is_called then last_value else 0 end as "seq!" from outbox.log_seq"#
    )
    .fetch_one(connection)
    .await?)
}

/// The highest number in the log.
pub(super) async fn newest_seq(connection: &mut PgConnection) -> Result<Option<i64>, Error> {
    Ok(
        sqlx::query_scalar!("select seq from outbox.log order by seq desc limit 1")
            .fetch_optional(connection)
            .await?,
    )
}

/// The partitions in order, with who `seq` says is current.
pub(super) async fn partitions(
    connection: &mut PgConnection,
    seq: i64,
) -> Result<Vec<Partition>, Error> {
    let current = ((seq + 1) / PARTITION) & 3;
    Ok(sqlx::query_as!(
        Partition,
        r#"select c.relname::text as "name!", pg_total_relation_size(c.oid) as "bytes!",
                  pg_stat_get_live_tuples(c.oid) as "rows_estimate!",
                  c.relname = 'log_' || $1::bigint::text as "current!"
           from pg_inherits as i
           join pg_class as c on c.oid = i.inhrelid
           where i.inhparent = 'outbox.log'::regclass
           order by c.relname"#,
        current,
    )
    .fetch_all(connection)
    .await?)
}

pub(super) async fn parked_counts(
    connection: &mut PgConnection,
) -> Result<Vec<ParkedCount>, Error> {
    let rows = sqlx::query!(
        r#"select class, count(*) as "messages!",
                  extract(epoch from clock_timestamp() - min(parked_at))::float8 as "oldest!"
           from outbox.parked group by class order by class"#
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(ParkedCount {
                class: row.class.parse().map_err(decode)?,
                messages: row.messages,
                oldest_seconds: row.oldest,
            })
        })
        .collect()
}

pub(super) async fn blocked_keys(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(
        sqlx::query_scalar!(r#"select count(*) as "count!" from outbox.blocked_key"#)
            .fetch_one(connection)
            .await?,
    )
}

pub(super) async fn inbox_parked_counts(
    connection: &mut PgConnection,
) -> Result<Vec<InboxParked>, Error> {
    Ok(sqlx::query_as!(
        InboxParked,
        r#"select consumer, count(*) as "messages!",
                  extract(epoch from clock_timestamp() - min(parked_at))::float8 as "oldest_seconds!"
           from outbox.inbox_parked group by consumer order by consumer"#
    )
    .fetch_all(connection)
    .await?)
}

// ---- the operator's hand ----

/// Sets the pause, unless there is one.
pub(super) async fn pause(executor: impl PgExecutor<'_>, by: &str) -> Result<Option<Pause>, Error> {
    Ok(sqlx::query_as!(
        Pause,
        r#"update outbox.relay set paused_at = clock_timestamp(), paused_by = $1
           where paused_at is null
           returning paused_at as "since!", paused_by as "by!""#,
        by,
    )
    .fetch_optional(executor)
    .await?)
}

pub(super) async fn paused(executor: impl PgExecutor<'_>) -> Result<Option<Pause>, Error> {
    Ok(sqlx::query_as!(
        Pause,
        r#"select paused_at as "since!", paused_by as "by!" from outbox.relay
           where paused_at is not null"#
    )
    .fetch_optional(executor)
    .await?)
}

/// Ends the pause and returns what it was.
pub(super) async fn resume(executor: impl PgExecutor<'_>) -> Result<Option<Pause>, Error> {
    Ok(sqlx::query_as!(
        Pause,
        r#"update outbox.relay as relay set paused_at = null, paused_by = null
           from (select paused_at, paused_by from outbox.relay
                 where paused_at is not null for update) as former
           returning former.paused_at as "since!", former.paused_by as "by!""#
    )
    .fetch_optional(executor)
    .await?)
}

// ---- parked ----

pub(super) async fn count_parked(pool: &PgPool, selection: &Selection) -> Result<i64, Error> {
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

impl TryFrom<RawItem> for Item {
    type Error = Error;

    fn try_from(raw: RawItem) -> Result<Self, Error> {
        Ok(Self {
            seq: raw.seq,
            class: raw.class.parse().map_err(decode)?,
            topic: raw.topic,
            key: raw.key,
            kind: raw.kind,
            message_id: raw.message_id,
            parked_at: raw.parked_at,
            parked_seconds: raw.parked_seconds,
            attempts: raw.attempts,
            reason: raw.reason,
            replay: request(raw.replay_at, raw.replay_by),
        })
    }
}

fn request(at: Option<DateTime<Utc>>, by: Option<String>) -> Option<Request> {
    at.zip(by).map(|(at, by)| Request { at, by })
}

pub(super) async fn list_parked(
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
    rows.into_iter().map(Item::try_from).collect()
}

pub(super) async fn show_parked(
    pool: &PgPool,
    seq: i64,
    with_payload: bool,
) -> Result<Option<Parked>, Error> {
    let row = sqlx::query!(
        r#"select seq, class, topic, key, kind, message_id, parked_at, attempts, reason, replay_at,
                  replay_by, created_at, overtaken_by, traceparent,
                  headers as "headers: Json<Headers>",
                  octet_length(payload)::bigint as bytes,
                  case when $2 then payload end as payload,
                  extract(epoch from clock_timestamp() - parked_at)::float8 as "parked_seconds!",
                  case when class = 'blocked' then
                      (select head from outbox.blocked_key
                       where blocked_key.topic = parked.topic and blocked_key.key = parked.key) end as head
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
        item: item.try_into()?,
        created_at: row.created_at,
        overtaken_by: row.overtaken_by,
        head: row.head,
        traceparent: row.traceparent,
        headers: row.headers.map(|headers| headers.0).unwrap_or_default(),
        bytes: row.bytes,
        payload: row.payload.map(Payload::from),
    }))
}

/// A parked row that somebody wants replayed.
pub(super) struct Candidate {
    pub(super) seq: i64,
    pub(super) replay: Option<Request>,
    /// The refused message of its key, if it waits behind one.
    pub(super) head: Option<i64>,
}

/// Locks parked rows, in the order of their numbers.
pub(super) async fn lock_for_replay(
    connection: &mut PgConnection,
    seqs: &[i64],
) -> Result<Vec<Candidate>, Error> {
    let rows = sqlx::query!(
        r#"select seq, replay_at, replay_by,
                  case when class = 'blocked' then
                      (select head from outbox.blocked_key
                       where blocked_key.topic = parked.topic and blocked_key.key = parked.key) end as head
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
        replay: request(row.replay_at, row.replay_by),
        head: row.head,
    });
    Ok(candidates.collect())
}

/// Locks the next rows that can be replayed and for which nobody has asked, in the order of their
/// numbers.
pub(super) async fn lock_replayable(
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
pub(super) async fn ask_for(
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
pub(super) async fn youngest_parked(
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

// ---- replaying the log ----

/// The oldest row of the log.
pub(super) async fn oldest(connection: &mut PgConnection) -> Result<Option<replay::Holds>, Error> {
    Ok(sqlx::query_as!(
        replay::Holds,
        r#"select seq as "from_seq!", created_at as "from_time!" from outbox.log order by seq limit 1"#
    )
    .fetch_optional(connection)
    .await?)
}

/// The first row from a number on, and when it was enqueued.
pub(super) async fn next_from(
    connection: &mut PgConnection,
    from: i64,
    until: i64,
) -> Result<Option<(i64, DateTime<Utc>)>, Error> {
    let row = sqlx::query!(
        "select seq, created_at from outbox.log where seq >= $1 and seq <= $2 order by seq limit 1",
        from,
        until,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.seq, row.created_at)))
}

/// Takes the weakest lock on every partition, which forbids only to empty it; taken again, it shows that
/// the session is alive.
pub(super) async fn keep_partitions(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("lock table outbox.log in access share mode")
        .execute(connection)
        .await?;
    Ok(())
}

/// As `enqueue` does: what is published must not be lost in a crash.
pub(super) async fn be_durable(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!(
        "select set_config('synchronous_commit', 'on', true)
         where current_setting('synchronous_commit') = 'off'"
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// The next numbers to be replayed.
pub(super) async fn replayable(
    connection: &mut PgConnection,
    range: &replay::Range,
    selection: &replay::Selection,
    limit: i64,
) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar!(
        r#"select l.seq as "seq!" from outbox.log as l
           where l.seq > $1 and l.seq <= $2
             and ($3::timestamptz is null or l.created_at >= $3)
             and ($4::text is null or l.topic = $4)
             and ($5::text is null or l.key = $5)
             and ($6::text is null or l.kind = $6)
             and (pg_visible_in_snapshot(l.xid, $7::text::pg_snapshot)
                  or (l.seq <= $9 and pg_visible_in_snapshot(l.xid, $8::text::pg_snapshot)))
             and not exists (select from outbox.parked where parked.seq = l.seq)
             and not exists (
                 select from outbox.log as original
                 where original.seq = case when l.headers->>'replayed-from' ~ '^[0-9]{1,18}$'
                                           then (l.headers->>'replayed-from')::bigint end
                   and original.seq >= $10 and original.message_id = l.message_id)
           order by l.seq
           limit $11"#,
        range.after,
        range.until,
        range.since,
        selection.topic,
        selection.key,
        selection.kind,
        range.settled,
        range.target,
        range.last_seq,
        range.from,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// Counts the same by topic.
pub(super) async fn count_replayable(
    connection: &mut PgConnection,
    range: &replay::Range,
    selection: &replay::Selection,
) -> Result<Vec<replay::TopicPlan>, Error> {
    Ok(sqlx::query_as!(
        replay::TopicPlan,
        r#"select l.topic, count(*) as "messages!", min(l.created_at) as "first_at!",
                  max(l.created_at) as "last_at!"
           from outbox.log as l
           where l.seq > $1 and l.seq <= $2
             and ($3::timestamptz is null or l.created_at >= $3)
             and ($4::text is null or l.topic = $4)
             and ($5::text is null or l.key = $5)
             and ($6::text is null or l.kind = $6)
             and (pg_visible_in_snapshot(l.xid, $7::text::pg_snapshot)
                  or (l.seq <= $9 and pg_visible_in_snapshot(l.xid, $8::text::pg_snapshot)))
             and not exists (select from outbox.parked where parked.seq = l.seq)
             and not exists (
                 select from outbox.log as original
                 where original.seq = case when l.headers->>'replayed-from' ~ '^[0-9]{1,18}$'
                                           then (l.headers->>'replayed-from')::bigint end
                   and original.seq >= $10 and original.message_id = l.message_id)
           group by l.topic
           order by l.topic"#,
        range.after,
        range.until,
        range.since,
        selection.topic,
        selection.key,
        selection.kind,
        range.settled,
        range.target,
        range.last_seq,
        range.from,
    )
    .fetch_all(connection)
    .await?)
}

/// Appends copies of rows in the order of their numbers, with the ids given, or their own.
pub(super) async fn enqueue_again(
    connection: &mut PgConnection,
    seqs: &[i64],
    ids: &[Option<Uuid>],
    header: &str,
) -> Result<u64, Error> {
    let done = sqlx::query!(
        r#"insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers)
           select coalesce(copy.id, l.message_id), l.topic, l.key, l.kind, l.payload, l.traceparent,
                  coalesce(l.headers, '{}') || jsonb_build_object($3::text, l.seq::text)
           from unnest($1::bigint[], $2::uuid[]) as copy (seq, id)
           join outbox.log as l on l.seq = copy.seq
           order by l.seq"#,
        seqs,
        ids as &[Option<Uuid>],
        header,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

// ---- texts ----

fn columns(late: &[(u64, i64)]) -> (Vec<String>, Vec<i64>) {
    let (xids, afters) = late.iter().copied().unzip::<u64, i64, Vec<_>, Vec<_>>();
    (texts(&xids), afters)
}

fn texts(xids: &[u64]) -> Vec<String> {
    xids.iter().map(u64::to_string).collect()
}

fn parse(text: &str) -> Result<Snapshot, Error> {
    // Only the server writes these; another text means another server.
    text.parse()
        .map_err(|error: ParseError| Error::ForeignCursor(error.to_string()))
}

/// A word in a table that this version does not know.
fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Database(sqlx::Error::Decode(error.into()))
}
