//! The relay's statements on `outbox.log` and `outbox.relay`.
//!
//! `xid8` and `pg_snapshot` travel as text: the driver has no type for them.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgExecutor, PgTransaction, postgres::PgConnectOptions,
};

use crate::{
    Error, crash,
    outgoing::{
        cursor::{Cursor, Cut},
        lease::Lease,
        logged::{Fetched, Logged, cut},
        ring::Tick,
        snapshot::{ParseError, Snapshot},
        unsent::Sent,
    },
};

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
pub(crate) async fn snapshot(connection: &mut PgConnection) -> Result<Now, Error> {
    let row = sqlx::query!(
        r#"select pg_current_snapshot()::text as "snapshot!", last_value, pg_backend_pid() as "backend!"
           from outbox.log_seq"#
    )
    .fetch_one(connection)
    .await?;
    Ok(Now {
        snapshot: parse(&row.snapshot)?,
        ceiling: row.last_value,
        backend: row.backend,
    })
}

/// A moment of the database, as one of its sessions sees it.
#[derive(Debug)]
pub(crate) struct Now {
    pub(crate) snapshot: Snapshot,
    /// No transaction visible in the snapshot has drawn a higher number: the sequence is read after the
    /// snapshot is taken.
    pub(crate) ceiling: i64,
    /// The server's process that answered.
    pub(crate) backend: i32,
}

/// Rows read, and whether there may be more of them.
pub(crate) type Rows = (Vec<Logged>, bool);

/// How much is read at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) rows: i64,
    /// Of payloads. A row that is larger comes alone.
    pub(crate) bytes: i64,
}

impl Bounds {
    fn rows(&self, fetched: Vec<Fetched>) -> Rows {
        let all = i64::try_from(fetched.len()).unwrap_or(i64::MAX);
        let (rows, full) = cut(fetched);
        (rows, full || all >= self.rows)
    }
}

/// Rows of the transactions that began in a tick, by the index on `xid`, whose order is asked for so
/// that no other index will do.
///
/// As in the statements below, a payload beyond the bounds is left where it is: its length is known
/// without it.
pub(crate) async fn began_in(
    connection: &mut PgConnection,
    tick: &Tick,
    after: i64,
    bounds: Bounds,
) -> Result<Rows, Error> {
    let fetched = sqlx::query_as!(
        Fetched,
        r#"select seq, message_id, topic, key, kind, case when fits then payload end as payload,
                  traceparent, headers as "headers: _", created_at as "created_at: _",
                  fits as "fits!"
           from (select *, coalesce(sum(octet_length(payload)) over (
                               order by xid, seq rows between unbounded preceding and 1 preceding), 0)
                               < $6 as fits
                 from (select * from outbox.log
                       where xid >= $1::text::xid8 and xid < $2::text::xid8
                         and pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
                         and seq > $4
                       order by xid, seq
                       limit $5) as next) as next"#,
        tick.settled.snapshot.xmax().to_string(),
        tick.target.snapshot.xmax().to_string(),
        tick.target.snapshot.to_string(),
        after,
        bounds.rows,
        bounds.bytes,
    )
    .fetch_all(connection)
    .await?;
    Ok(bounds.rows(fetched))
}

/// The same rows in the order of `seq`, by the index on that, for a tick that is larger than a page.
/// From the tick's floor there is little else above, and above its ceiling nothing of it.
pub(crate) async fn began_in_by_seq(
    connection: &mut PgConnection,
    tick: &Tick,
    after: i64,
    bounds: Bounds,
) -> Result<Rows, Error> {
    let fetched = sqlx::query_as!(
        Fetched,
        r#"select seq, message_id, topic, key, kind, case when fits then payload end as payload,
                  traceparent, headers as "headers: _", created_at as "created_at: _",
                  fits as "fits!"
           from (select *, coalesce(sum(octet_length(payload)) over (
                               order by seq rows between unbounded preceding and 1 preceding), 0)
                               < $7 as fits
                 from (select * from outbox.log
                       where xid >= $1::text::xid8 and xid < $2::text::xid8
                         and pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
                         and seq > $4 and seq <= $5
                       order by seq
                       limit $6) as next) as next"#,
        tick.settled.snapshot.xmax().to_string(),
        tick.target.snapshot.xmax().to_string(),
        tick.target.snapshot.to_string(),
        after,
        tick.ceiling,
        bounds.rows,
        bounds.bytes,
    )
    .fetch_all(connection)
    .await?;
    Ok(bounds.rows(fetched))
}

/// Rows of single transactions, in the order of `seq`.
///
/// The range of one id and the order by both columns leave the planner no index but the one on
/// both; with `xid = …` it filtered the whole log by the one on `seq` (tried).
pub(crate) async fn of_transactions(
    connection: &mut PgConnection,
    xids: &[u64],
    after: i64,
    bounds: Bounds,
) -> Result<Rows, Error> {
    let xids: Vec<_> = xids.iter().map(u64::to_string).collect();
    let fetched = sqlx::query_as!(
        Fetched,
        r#"select seq as "seq!", message_id as "message_id!", topic as "topic!", key as "key!",
                  kind as "kind!", case when fits then payload end as payload, traceparent,
                  headers as "headers: _", created_at as "created_at!: _", fits as "fits!"
           from (select *, coalesce(sum(octet_length(payload)) over (
                               order by seq rows between unbounded preceding and 1 preceding), 0)
                               < $4 as fits
                 from (select l.*
                       from unnest($1::text[]) as late (xid)
                       cross join lateral (
                           select * from outbox.log
                           where log.xid >= late.xid::xid8 and log.xid <= late.xid::xid8
                             and log.seq > $2
                           order by log.xid, log.seq
                           limit $3
                       ) as l
                       order by l.seq
                       limit $3) as next) as next"#,
        &xids,
        after,
        bounds.rows,
        bounds.bytes,
    )
    .fetch_all(connection)
    .await?;
    Ok(bounds.rows(fetched))
}

/// Which messages the stored cursor has not passed, or that are held. See [`Sent`].
pub(super) async fn unsent(tx: &mut PgTransaction<'_>, asked: &[Sent]) -> Result<Vec<bool>, Error> {
    let xids: Vec<_> = asked.iter().map(|sent| sent.xid.clone()).collect();
    let topics: Vec<_> = asked.iter().map(|sent| sent.topic.clone()).collect();
    let keys: Vec<_> = asked.iter().map(|sent| sent.key.clone()).collect();
    Ok(sqlx::query_scalar!(
        r#"select outbox.unsent($1::text[], $2::text[], $3::text[]) as "unsent!""#,
        xids as Vec<Option<String>>,
        &topics,
        &keys
    )
    .fetch_all(&mut **tx)
    .await?)
}

// ---- the relay's row ----

/// What a write of the relay's row tells.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// A floor for every snapshot taken after the write is committed, see [`Cut::floor`]: the
    /// sequence is read while the row is looked for, before its update gives the transaction an id;
    /// so nothing may be written before it in its transaction. (One below the last value, because a
    /// sequence never used has a last value that it has not given out.)
    pub(crate) floor: i64,
    /// Whether an operator wants nothing to be sent.
    pub(crate) paused: bool,
    /// Where the row is now, for the next write. An old snapshot, anybody's in this server, keeps every
    /// version of the row from being removed; looking for the newest walks over all of them.
    pub(crate) place: String,
}

/// Takes the lease if it is free and returns it with the cursor to go on from.
pub(crate) async fn acquire(
    connection: &mut PgConnection,
    owner: &str,
    lease: Duration,
) -> Result<Option<(Lease, Cursor, Written)>, Error> {
    let row = sqlx::query!(
        r#"update outbox.relay
           set epoch = epoch + 1, owner = $1,
               lease_until = clock_timestamp() + make_interval(secs => $2),
               lease_length = make_interval(secs => $2)
           from (select last_value from outbox.log_seq offset 0) as sequence
           where not outbox.lease_is_held(lease_until, lease_length)
           returning sequence.last_value - 1 as "floor!", paused_at is not null as "paused!", epoch,
                     settled::text as "settled!", settled_floor, target::text as "target!",
                     target_floor, last_seq, pg_backend_pid() as "backend!",
                     coalesce(target_ceiling, sequence.last_value) as "ceiling!",
                     relay.ctid::text as "place!""#,
        owner,
        lease.as_secs_f64(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let lease = Lease::new(row.epoch, owner, row.backend);
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
        ceiling: row.ceiling,
    };
    let written = Written {
        floor: row.floor,
        paused: row.paused,
        place: row.place,
    };
    Ok(Some((lease, cursor, written)))
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

/// Renews the lease and writes the cursor down. [`Error::Fenced`] when the lease is another's. `place`
/// is where the last write left the row; if somebody has written it since, it is looked for.
pub(crate) async fn advance(
    connection: &mut PgConnection,
    lease: &Lease,
    length: Duration,
    cursor: &Cursor,
    place: &str,
) -> Result<Written, Error> {
    for place in [Some(place), None] {
        let written = sqlx::query_as!(
            Written,
            r#"update outbox.relay
               set lease_until = clock_timestamp() + make_interval(secs => $3),
                   lease_length = make_interval(secs => $3),
                   settled = $4::text::pg_snapshot, settled_floor = $5,
                   target = $6::text::pg_snapshot, target_floor = $7, last_seq = $8,
                   target_ceiling = $11, written_at = clock_timestamp()
               from (select last_value from outbox.log_seq offset 0) as sequence
               where epoch = $1 and owner = $2 and pg_backend_pid() = $9
                 and ($10::text is null or relay.ctid = $10::text::tid)
               returning sequence.last_value - 1 as "floor!", paused_at is not null as "paused!",
                         relay.ctid::text as "place!""#,
            lease.epoch(),
            lease.owner(),
            length.as_secs_f64(),
            cursor.settled.snapshot.to_string(),
            cursor.settled.floor,
            cursor.target.snapshot.to_string(),
            cursor.target.floor,
            cursor.last_seq,
            lease.backend(),
            place,
            cursor.ceiling,
        )
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(written) = written {
            return Ok(written);
        }
    }
    let backend = sqlx::query_scalar!(r#"select pg_backend_pid() as "backend!""#);
    lease.check_backend(backend.fetch_one(connection).await?)?;
    Err(Error::Fenced)
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
           where outbox.lease_is_held(lease_until, lease_length) and owner is not null"#
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(|row| (row.owner, row.seconds)))
}

// ---- the ring of partitions ----

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
    let ahead = sqlx::query_scalar!(
        r#"select ((last_value >> outbox.partition_bits()) + 1) & 3 as "ahead!" from outbox.log_seq"#
    )
    .fetch_one(&mut *connection)
    .await?;
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
    let truncate = format!("truncate {table}");
    sqlx::query(AssertSqlSafe(truncate))
        .execute(&mut *tx)
        .await?;
    // Empty statistics; a function, because only the owner may analyze.
    sqlx::query("select outbox.analyze_log($1)")
        .bind(ahead as i32)
        .execute(&mut *tx)
        .await?;
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

// ---- the broker that acknowledged ----

/// The broker that the cursor's acknowledgements are from, as noted.
pub(crate) async fn broker(connection: &mut PgConnection) -> Result<Option<String>, Error> {
    Ok(sqlx::query_scalar!("select broker from outbox.relay")
        .fetch_one(connection)
        .await?)
}

/// Notes which broker acknowledges from now on.
pub(crate) async fn note_broker(
    connection: &mut PgConnection,
    lease: &Lease,
    broker: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "update outbox.relay set broker = $3 where epoch = $1 and owner = $2",
        lease.epoch(),
        lease.owner(),
        broker,
    )
    .execute(connection)
    .await?;
    Ok(())
}
