//! The statements of a rebase. Those that name what is set aside are unchecked: that table exists in the transaction only.
//!
//! `pg_snapshot` travels as text: the driver has no type for it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    Error,
    operator::rebase::{Accepted, TopicPlan},
};

/// The rows that may not have been acknowledged, and are not parked: why these, says the module. One text, so that a
/// plan counts what a rebase does.
const UNACKNOWLEDGED: &str = "
    select log.* from outbox.log cross join outbox.relay
    where (not (pg_visible_in_snapshot(log.xid, relay.settled)
                or (pg_visible_in_snapshot(log.xid, relay.target) and log.seq <= relay.last_seq))
           or log.seq > relay.target_floor
           or log.created_at > relay.written_at)
      and not exists (select from outbox.parked
                      where parked.seq = log.seq and parked.message_id = log.message_id)";

// ---- looking ----

/// Who asks.
pub(super) struct User {
    pub(super) name: String,
    /// The role that owns the log.
    pub(super) owner: String,
    /// Whether the user is a member of it.
    pub(super) owns: bool,
    /// Whether the user may make temporary tables.
    pub(super) may_set_aside: bool,
}

pub(super) async fn user(connection: &mut PgConnection) -> Result<User, Error> {
    Ok(sqlx::query_as!(
        User,
        r#"select current_user::text as "name!", pg_get_userbyid(relowner)::text as "owner!",
                  pg_has_role(relowner, 'usage') as "owns!",
                  has_database_privilege(current_database(), 'temporary') as "may_set_aside!"
           from pg_class where oid = 'outbox.log'::regclass"#
    )
    .fetch_one(connection)
    .await?)
}

/// The relay's row, held against this cluster.
pub(super) struct Found {
    /// Whether the cursor was written in this cluster.
    pub(super) same: bool,
    /// Whether this cluster has come as far as the cursor.
    pub(super) behind: bool,
    pub(super) owner: Option<String>,
    /// How long the lease still lasts; `None` when it has expired.
    pub(super) lease_seconds: Option<f64>,
    pub(super) written_at: DateTime<Utc>,
}

pub(super) async fn find(connection: &mut PgConnection) -> Result<Found, Error> {
    Ok(sqlx::query_as!(
        Found,
        r#"select relay.system_identifier = cluster.system_identifier as "same!",
                  pg_snapshot_xmax(relay.target) <= pg_snapshot_xmax(pg_current_snapshot())
                      as "behind!",
                  owner,
                  case when outbox.lease_is_held(lease_until, lease_length)
                       then extract(epoch from lease_until - clock_timestamp())::float8
                  end as lease_seconds,
                  written_at
           from outbox.relay as relay, pg_control_system() as cluster"#
    )
    .fetch_one(connection)
    .await?)
}

/// Whether a message has a transaction id that this cluster has not reached.
pub(super) async fn log_is_ahead(connection: &mut PgConnection) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from outbox.log
                          where xid >= pg_snapshot_xmax(pg_current_snapshot())) as "ahead!""#
    )
    .fetch_one(connection)
    .await?)
}

pub(super) async fn unacknowledged_by_topic(
    connection: &mut PgConnection,
) -> Result<Vec<TopicPlan>, Error> {
    by_topic(connection, &format!("({UNACKNOWLEDGED}) as unacknowledged")).await
}

async fn by_topic(connection: &mut PgConnection, rows: &str) -> Result<Vec<TopicPlan>, Error> {
    let sql = format!(
        "select topic, count(*), min(seq), max(seq), outbox.readable_time(min(created_at)),
                outbox.readable_time(max(created_at))
         from {rows} group by topic order by topic"
    );
    type Row = (String, i64, i64, i64, DateTime<Utc>, DateTime<Utc>);
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(connection)
        .await?;
    let plan = |(topic, messages, first_seq, last_seq, first_at, last_at)| TopicPlan {
        topic,
        messages,
        first_seq,
        last_seq,
        first_at,
        last_at,
    };
    Ok(rows.into_iter().map(plan).collect())
}

/// How many rows there are.
pub(super) struct Held {
    pub(super) log: i64,
    pub(super) parked: i64,
}

pub(super) async fn count(connection: &mut PgConnection) -> Result<Held, Error> {
    Ok(sqlx::query_as!(
        Held,
        r#"select (select count(*) from outbox.log) as "log!",
                  (select count(*) from outbox.parked) as "parked!""#
    )
    .fetch_one(connection)
    .await?)
}

pub(super) struct Numbers {
    /// The last that the sequence has given out.
    pub(super) given: i64,
    /// The highest that is in use, or was when the cursor was written.
    pub(super) highest: i64,
}

impl Numbers {
    /// A dump without the sequence lets it begin again below what exists.
    pub(super) fn are_given_twice(&self) -> bool {
        self.given < self.highest
    }
}

pub(super) async fn numbers(connection: &mut PgConnection) -> Result<Numbers, Error> {
    Ok(sqlx::query_as!(
        Numbers,
        r#"select case when is_called then last_value else last_value - 1 end as "given!",
                  greatest((select max(seq) from outbox.log), (select max(seq) from outbox.parked),
                           (select greatest(last_seq, target_floor) from outbox.relay)) as "highest!"
           from outbox.log_seq"#
    )
    .fetch_one(connection)
    .await?)
}

// ---- the transaction ----

/// Waits for locks only so long, for statements as long as they take; and a commit is on disk before it is
/// acknowledged.
pub(super) async fn settle_in(
    connection: &mut PgConnection,
    patience: Duration,
) -> Result<(), Error> {
    // Zero would be for ever.
    let patience = format!("{}ms", patience.as_millis().max(1));
    sqlx::query!(
        "select count(set_config(name, value, true))
         from (values ('lock_timeout', $1), ('statement_timeout', '0'),
                      ('synchronous_commit', 'on')) as setting (name, value)
         where name <> 'synchronous_commit' or current_setting(name) = 'off'",
        patience,
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// What is visible now; `None` if the transaction has an id already, which the snapshot might count as ended.
pub(super) async fn snapshot_before_own_id(
    connection: &mut PgConnection,
) -> Result<Option<String>, Error> {
    Ok(sqlx::query_scalar!(
        "select pg_current_snapshot()::text where pg_current_xact_id_if_assigned() is null"
    )
    .fetch_optional(connection)
    .await?
    .flatten())
}

pub(super) async fn lock_relay(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("select epoch from outbox.relay for update")
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Keeps everybody from the log and its partitions.
pub(super) async fn lock_log(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("lock table outbox.log in access exclusive mode")
        .execute(connection)
        .await?;
    Ok(())
}

/// Copies what is to be sent again into a table of this transaction.
pub(super) async fn set_aside(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("create temporary table set_aside (like outbox.log) on commit drop")
        .execute(&mut *connection)
        .await?;
    let sql = format!("insert into pg_temp.set_aside {UNACKNOWLEDGED}");
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Parks what no relay can send and the log does not take any more, instead of appending it.
pub(super) async fn park_flawed(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query(
        "with flawed as (
             delete from pg_temp.set_aside where not outbox.are_headers(headers) returning *
         )
         insert into outbox.parked (seq, message_id, topic, key, kind, payload, traceparent, headers,
                                    created_at, class, reason)
         select seq, message_id, topic, key, kind, payload, traceparent, headers,
                outbox.readable_time(created_at), 'poison', 'its headers are not an object of strings'
         from flawed
         on conflict on constraint parked_pkey do nothing",
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn set_aside_by_topic(
    connection: &mut PgConnection,
) -> Result<Vec<TopicPlan>, Error> {
    by_topic(connection, "pg_temp.set_aside").await
}

pub(super) async fn empty_log(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("truncate outbox.log")
        .execute(connection)
        .await?;
    Ok(())
}

/// The next number will be above `highest`.
pub(super) async fn advance_sequence(
    connection: &mut PgConnection,
    highest: i64,
) -> Result<(), Error> {
    sqlx::query!("select setval('outbox.log_seq', $1)", highest)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Appends what was set aside under this transaction's id and new numbers, in the order of the old ones. If those were
/// given out twice they tell no order between what was restored and what came after; then the times of the
/// inserts do.
pub(super) async fn append(connection: &mut PgConnection, by_time: bool) -> Result<(), Error> {
    sqlx::query(
        "insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers,
                                 created_at)
         select message_id, topic, key, kind, payload, traceparent, headers,
                outbox.readable_time(created_at)
         from pg_temp.set_aside
         order by case when $1 then created_at end, seq, created_at",
    )
    .bind(by_time)
    .execute(connection)
    .await?;
    Ok(())
}

/// The lowest and highest number of the log.
pub(super) async fn first_and_last(
    connection: &mut PgConnection,
) -> Result<Option<(i64, i64)>, Error> {
    let row = sqlx::query!("select min(seq) as first, max(seq) as last from outbox.log")
        .fetch_one(connection)
        .await?;
    Ok(row.first.zip(row.last))
}

/// What a write of the cursor tells.
pub(super) struct Written {
    pub(super) epoch: i64,
    pub(super) paused: bool,
}

/// Writes a cursor between ticks, as this cluster's and nobody's.
pub(super) async fn write_cursor(
    connection: &mut PgConnection,
    snapshot: &str,
    floor: i64,
) -> Result<Written, Error> {
    Ok(sqlx::query_as!(
        Written,
        r#"update outbox.relay
           set epoch = epoch + 1, owner = null, lease_until = '-infinity',
               settled = $1::text::pg_snapshot, settled_floor = $2,
               target = $1::text::pg_snapshot, target_floor = $2, last_seq = 0, target_ceiling = null,
               system_identifier = cluster.system_identifier, written_at = clock_timestamp()
           from pg_control_system() as cluster
           returning epoch, paused_at is not null as "paused!""#,
        snapshot,
        floor,
    )
    .fetch_one(connection)
    .await?)
}

/// Makes the cursor this cluster's, and nobody's.
pub(super) async fn write_identifier(connection: &mut PgConnection) -> Result<Accepted, Error> {
    Ok(sqlx::query_as!(
        Accepted,
        r#"update outbox.relay
           set epoch = epoch + 1, owner = null, lease_until = '-infinity',
               system_identifier = cluster.system_identifier
           from pg_control_system() as cluster
           returning relay.system_identifier, epoch"#
    )
    .fetch_one(connection)
    .await?)
}
