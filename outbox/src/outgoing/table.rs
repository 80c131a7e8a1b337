//! The statements on `outbox.log`, `outbox.relay` and `outbox.parked`: no other file has any.
//!
//! `xid8` and `pg_snapshot` travel as text: the driver has no type for them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgExecutor, PgTransaction, postgres::PgConnectOptions,
    types::Json,
};
use uuid::Uuid;

use crate::{
    Error, crash,
    message::{Headers, Message},
    outgoing::{
        cursor::{Cursor, Cut},
        lease::Lease,
        ring::Tick,
        snapshot::{ParseError, Snapshot},
    },
};

/// A row of the log.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) seq: i64,
    pub(crate) message_id: Uuid,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) traceparent: Option<String>,
    pub(crate) headers: Option<Json<Headers>>,
    pub(crate) created_at: DateTime<Utc>,
}

impl Logged {
    /// A rough size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, Vec::len) + self.key.len() + 256
    }
}

// ---- writers ----

/// Inserts one row. `durable` switches `synchronous_commit` on for this transaction where it is
/// off; as a row source its volatile expression is always evaluated.
pub(crate) async fn append(
    tx: &mut PgTransaction<'_>,
    message: &Message,
    traceparent: Option<&str>,
) -> Result<(), Error> {
    let headers = headers(message);
    sqlx::query!(
        r#"insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers)
           select $1, $2, $3, $4, $5, $6, $7
           from (select case when current_setting('synchronous_commit') = 'off'
                             then set_config('synchronous_commit', 'on', true) end) as durable"#,
        message.id,
        message.topic,
        message.key,
        message.kind,
        message.payload,
        traceparent,
        headers,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Inserts many rows in the order given.
pub(crate) async fn append_all(
    tx: &mut PgTransaction<'_>,
    messages: &[Message],
    traceparents: &[Option<String>],
) -> Result<(), Error> {
    let ids: Vec<_> = messages.iter().map(|m| m.id).collect();
    let topics: Vec<_> = messages.iter().map(|m| m.topic.clone()).collect();
    let keys: Vec<_> = messages.iter().map(|m| m.key.clone()).collect();
    let kinds: Vec<_> = messages.iter().map(|m| m.kind.clone()).collect();
    let payloads: Vec<_> = messages.iter().map(|m| m.payload.clone()).collect();
    let headers: Vec<_> = messages.iter().map(headers).collect();
    sqlx::query!(
        r#"insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers)
           select m.message_id, m.topic, m.key, m.kind, m.payload, m.traceparent, m.headers
           from (select case when current_setting('synchronous_commit') = 'off'
                             then set_config('synchronous_commit', 'on', true) end) as durable,
                unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[],
                       $7::jsonb[])
                with ordinality
                as m (message_id, topic, key, kind, payload, traceparent, headers, place)
           order by m.place"#,
        &ids,
        &topics,
        &keys,
        &kinds,
        payloads as Vec<Option<Vec<u8>>>,
        traceparents as &[Option<String>],
        headers as Vec<Option<serde_json::Value>>,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The headers as the row has them; null instead of an empty object. `traceparent` has a column.
fn headers(message: &Message) -> Option<serde_json::Value> {
    let object: serde_json::Map<_, _> = message
        .headers
        .iter()
        .filter(|(name, _)| name.as_str() != crate::telemetry::TRACEPARENT)
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    (!object.is_empty()).then_some(serde_json::Value::Object(object))
}

pub(crate) async fn lock_key(tx: &mut PgTransaction<'_>, key: &str) -> Result<(), Error> {
    // The first half keeps our locks apart from the application's own advisory locks.
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtext('outbox.lock_key'), hashtext($1))",
        key
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

// ---- the relay's session ----

/// Opens the one session a leader's memory belongs to.
///
/// Plans are pinned by settings rather than left to statistics, which are stale or absent on a
/// table that grows this fast: the log is read by its two indexes, in index order, or not at all.
pub(crate) async fn connect(
    options: &PgConnectOptions,
    lease: Duration,
) -> Result<PgConnection, Error> {
    let patience = lease.max(Duration::from_secs(1)).as_millis();
    let options = options
        .clone()
        .application_name("outbox relay")
        .options([
            ("plan_cache_mode", "force_custom_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_sort", "off"),
            ("jit", "off"),
            // A cursor write that a crash undoes costs duplicates, never messages.
            ("synchronous_commit", "off"),
        ])
        // A stopped process must not sit on the relay's row for longer than its lease.
        .options([(
            "idle_in_transaction_session_timeout",
            format!("{patience}ms"),
        )])
        .options([("tcp_user_timeout", "10s"), ("statement_timeout", "15s")]);
    Ok(PgConnection::connect_with(&options).await?)
}

/// What is visible now.
pub(crate) async fn snapshot(connection: &mut PgConnection) -> Result<Snapshot, Error> {
    let text = sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#)
        .fetch_one(connection)
        .await?;
    parse(&text)
}

/// Rows of the transactions that began in a tick, by the index on `xid`, whose order is asked for so
/// that no other index will do.
pub(crate) async fn began_in(
    connection: &mut PgConnection,
    tick: &Tick,
    after: i64,
    limit: i64,
) -> Result<Vec<Logged>, Error> {
    Ok(sqlx::query_as!(
        Logged,
        r#"select seq, message_id, topic, key, kind, payload, traceparent,
                  headers as "headers: Json<Headers>", created_at
           from outbox.log
           where xid >= $1::text::xid8 and xid < $2::text::xid8
             and pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
             and seq > $4
           order by xid, seq
           limit $5"#,
        tick.settled.snapshot.xmax().to_string(),
        tick.target.snapshot.xmax().to_string(),
        tick.target.snapshot.to_string(),
        after,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// The same rows in the order of `seq`, by the index on that, for a tick that is larger than a page.
/// From the tick's floor there is little else above.
pub(crate) async fn began_in_by_seq(
    connection: &mut PgConnection,
    tick: &Tick,
    after: i64,
    limit: i64,
) -> Result<Vec<Logged>, Error> {
    Ok(sqlx::query_as!(
        Logged,
        r#"select seq, message_id, topic, key, kind, payload, traceparent,
                  headers as "headers: Json<Headers>", created_at
           from outbox.log
           where xid >= $1::text::xid8 and xid < $2::text::xid8
             and pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
             and seq > $4
           order by seq
           limit $5"#,
        tick.settled.snapshot.xmax().to_string(),
        tick.target.snapshot.xmax().to_string(),
        tick.target.snapshot.to_string(),
        after,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// Rows of single transactions, in the order of `seq`.
///
/// The range of one id and the order by both columns leave the planner no index but the one on
/// both; with `xid = …` it filtered the whole log by the one on `seq` (tried).
pub(crate) async fn of_transactions(
    connection: &mut PgConnection,
    xids: &[u64],
    after: i64,
    limit: i64,
) -> Result<Vec<Logged>, Error> {
    let xids: Vec<_> = xids.iter().map(u64::to_string).collect();
    Ok(sqlx::query_as!(
        Logged,
        r#"select l.seq, l.message_id, l.topic, l.key, l.kind, l.payload, l.traceparent,
                  l.headers as "headers: Json<Headers>", l.created_at
           from unnest($1::text[]) as late (xid)
           cross join lateral (
               select * from outbox.log
               where log.xid >= late.xid::xid8 and log.xid <= late.xid::xid8 and log.seq > $2
               order by log.xid, log.seq
               limit $3
           ) as l
           order by l.seq
           limit $3"#,
        &xids,
        after,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

// ---- the relay's row ----

/// Takes the lease if it is free and returns it with the cursor to go on from.
///
/// The third part is the floor: see [`advance`].
pub(crate) async fn acquire(
    connection: &mut PgConnection,
    owner: &str,
    lease: Duration,
) -> Result<Option<(Lease, Cursor, i64)>, Error> {
    let row = sqlx::query!(
        r#"update outbox.relay
           set epoch = epoch + 1, owner = $1,
               lease_until = clock_timestamp() + make_interval(secs => $2)
           from (select last_value from outbox.log_seq offset 0) as sequence
           where lease_until < clock_timestamp()
           returning sequence.last_value - 1 as "floor!", epoch, settled::text as "settled!", settled_floor,
                     target::text as "target!", target_floor, last_seq"#,
        owner,
        lease.as_secs_f64(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let lease = Lease::new(row.epoch, owner);
    let cursor = Cursor {
        settled: Cut {
            snapshot: parse(&row.settled)?,
            floor: row.settled_floor,
        },
        target: Cut {
            snapshot: parse(&row.target)?,
            floor: row.target_floor,
        },
        last_seq: row.last_seq,
    };
    Ok(Some((lease, cursor, row.floor)))
}

/// Whether the stored cursor can be this cluster's: `(same identifier, snapshots not ahead)`.
pub(crate) async fn cursor_is_native(connection: &mut PgConnection) -> Result<(bool, bool), Error> {
    let row = sqlx::query!(
        r#"select relay.system_identifier = cluster.system_identifier as "same!",
                  pg_snapshot_xmax(relay.target) <= pg_snapshot_xmax(pg_current_snapshot())
                      as "behind!"
           from outbox.relay as relay, pg_control_system() as cluster"#
    )
    .fetch_one(connection)
    .await?;
    Ok((row.same, row.behind))
}

/// Renews the lease and writes the cursor down. [`Error::Fenced`] when the lease is another's.
///
/// Returns a floor for every snapshot taken after this is committed (see [`Cut::floor`]): the
/// sequence is read while the row is looked for, before its update gives the transaction an id; so
/// nothing may be written before this in its transaction. (One below the last value, because a
/// sequence never used has a last value that it has not given out.)
pub(crate) async fn advance(
    executor: impl PgExecutor<'_>,
    lease: &Lease,
    length: Duration,
    cursor: &Cursor,
) -> Result<i64, Error> {
    let floor = sqlx::query_scalar!(
        r#"update outbox.relay
           set lease_until = clock_timestamp() + make_interval(secs => $3),
               settled = $4::text::pg_snapshot, settled_floor = $5,
               target = $6::text::pg_snapshot, target_floor = $7, last_seq = $8,
               written_at = clock_timestamp()
           from (select last_value from outbox.log_seq offset 0) as sequence
           where epoch = $1 and owner = $2
           returning sequence.last_value - 1 as "floor!""#,
        lease.epoch(),
        lease.owner(),
        length.as_secs_f64(),
        cursor.settled.snapshot.to_string(),
        cursor.settled.floor,
        cursor.target.snapshot.to_string(),
        cursor.target.floor,
        cursor.last_seq,
    )
    .fetch_optional(executor)
    .await?;
    floor.ok_or(Error::Fenced)
}

/// Gives the lease back, so that a standby need not wait for it to expire.
pub(crate) async fn release(connection: &mut PgConnection, lease: &Lease) -> Result<(), Error> {
    sqlx::query!(
        "update outbox.relay set lease_until = '-infinity' where epoch = $1 and owner = $2",
        lease.epoch(),
        lease.owner(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Who holds the lease, if anyone: the owner and how long it still lasts, in seconds.
pub(crate) async fn holder(executor: impl PgExecutor<'_>) -> Result<Option<(String, f64)>, Error> {
    let row = sqlx::query!(
        r#"select owner as "owner!",
                  extract(epoch from lease_until - clock_timestamp())::float8 as "seconds!"
           from outbox.relay
           where lease_until > clock_timestamp() and owner is not null"#
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(|row| (row.owner, row.seconds)))
}

// ---- parking ----

/// Keeps full copies of messages the broker refused. Those parked already stay as they are.
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

/// The topics that have messages waiting for them to heal.
pub(crate) async fn held_topics(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(
        sqlx::query_scalar!("select distinct topic from outbox.parked where class = 'held'")
            .fetch_all(connection)
            .await?,
    )
}

/// Messages waiting for a topic, oldest first.
pub(crate) async fn held(
    connection: &mut PgConnection,
    topic: &str,
    limit: i64,
) -> Result<Vec<Logged>, Error> {
    Ok(sqlx::query_as!(
        Logged,
        r#"select seq, message_id, topic, key, kind, payload, traceparent,
                  headers as "headers: Json<Headers>", created_at
           from outbox.parked
           where class = 'held' and topic = $1
           order by topic, seq
           limit $2"#,
        topic,
        limit,
    )
    .fetch_all(connection)
    .await?)
}

/// Forgets parked messages that were acknowledged after all.
pub(crate) async fn unpark(tx: &mut PgTransaction<'_>, seqs: &[i64]) -> Result<(), Error> {
    sqlx::query!("delete from outbox.parked where seq = any($1)", seqs)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A held message that turned out to be refused for its own sake.
pub(crate) async fn condemn(
    tx: &mut PgTransaction<'_>,
    seq: i64,
    reason: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "update outbox.parked set class = 'poison', reason = $2 where seq = $1",
        seq,
        reason,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

// ---- the ring of partitions ----

/// Numbers per partition, as in the migration.
const PARTITION_BITS: u32 = 20;

/// Empties the partition that the writers enter next, if it holds anything and nothing in it is
/// still needed. Returns whether it did.
///
/// The lock first, then the check: the other way round lost a row that came between. Without
/// waiting for the lock: a waiting request would queue every poll and insert behind it.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn empty_partition_ahead(connection: &mut PgConnection) -> Result<bool, Error> {
    let last = sqlx::query_scalar!("select last_value from outbox.log_seq")
        .fetch_one(&mut *connection)
        .await?;
    let ahead = ((last >> PARTITION_BITS) + 1) & 3;
    let table = format!("outbox.log_{ahead}");
    let any = format!("select exists (select from {table})");
    if !sqlx::query_scalar::<_, bool>(AssertSqlSafe(any))
        .fetch_one(&mut *connection)
        .await?
    {
        return Ok(false);
    }
    let mut tx = connection
        .begin_with("begin isolation level read committed")
        .await?;
    let lock = format!("lock table {table} in access exclusive mode nowait");
    match sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await {
        Ok(_) => {}
        // lock_not_available: somebody reads or writes it. Next time.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
            tx.rollback().await?;
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    // The stored cursor, whoever leads: it never goes back.
    let settled = sqlx::query_scalar!(r#"select settled::text as "settled!" from outbox.relay"#)
        .fetch_one(&mut *tx)
        .await?;
    let settled = parse(&settled)?;
    // Two probes of the index with plain bounds; a subquery over the relay's row read every row.
    let needed = format!(
        "select exists (select from {table} where xid >= $1::text::xid8)
             or exists (select from {table} where xid = any($2::text[]::xid8[]))"
    );
    let open: Vec<_> = settled.in_progress().iter().map(u64::to_string).collect();
    let needed: bool = sqlx::query_scalar(AssertSqlSafe(needed))
        .bind(settled.xmax().to_string())
        .bind(open)
        .fetch_one(&mut *tx)
        .await?;
    if needed {
        tx.rollback().await?;
        return Ok(false);
    }
    for statement in [format!("truncate {table}"), format!("analyze {table}")] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *tx)
            .await?;
    }
    crash::point("before_truncate");
    tx.commit().await?;
    crash::point("after_truncate");
    Ok(true)
}

fn parse(text: &str) -> Result<Snapshot, Error> {
    // Only the server writes these; another text means another server.
    text.parse()
        .map_err(|error: ParseError| Error::ForeignCursor(error.to_string()))
}
