//! What the doctor asks the database. Nothing here writes.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::Error;

/// Fails where there is no schema `outbox`, or no right to look at it.
pub(super) async fn exists(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("select epoch from outbox.relay")
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// By the database's clock.
pub(super) async fn now(connection: &mut PgConnection) -> Result<DateTime<Utc>, Error> {
    Ok(sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
        .fetch_one(connection)
        .await?)
}

// ---- the schema ----

/// Versions of migrations that succeeded. Unchecked: the history is made by the migrator, not by a
/// migration.
pub(super) async fn migrations(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar(
        "select version from outbox._sqlx_migrations where success order by version",
    )
    .fetch_all(connection)
    .await?)
}

pub(super) struct Sequence {
    pub(super) cache: i64,
    pub(super) increment: i64,
    pub(super) cycles: bool,
    /// The last number given out.
    pub(super) last: i64,
    /// The highest in the log.
    pub(super) newest: Option<i64>,
}

pub(super) async fn sequence(connection: &mut PgConnection) -> Result<Sequence, Error> {
    Ok(sqlx::query_as!(
        Sequence,
        r#"select s.seqcache as cache, s.seqincrement as increment, s.seqcycle as cycles,
                  case when state.is_called then state.last_value else 0 end as "last!",
                  (select seq from outbox.log order by seq desc limit 1) as newest
           from pg_sequence as s, outbox.log_seq as state
           where s.seqrelid = 'outbox.log_seq'::regclass"#
    )
    .fetch_one(connection)
    .await?)
}

pub(super) struct Column {
    pub(super) name: String,
    pub(super) default: Option<String>,
}

/// The log's columns in their order.
pub(super) async fn columns(connection: &mut PgConnection) -> Result<Vec<Column>, Error> {
    Ok(sqlx::query_as!(
        Column,
        r#"select a.attname::text as "name!", pg_get_expr(d.adbin, d.adrelid) as default
           from pg_attribute as a
           left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
           where a.attrelid = 'outbox.log'::regclass and a.attnum > 0 and not a.attisdropped
           order by a.attnum"#
    )
    .fetch_all(connection)
    .await?)
}

/// Something that runs when the log is written or read.
pub(super) struct Hook {
    /// `trigger`, `rule` or `row security`.
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) table: String,
}

pub(super) async fn hooks(connection: &mut PgConnection) -> Result<Vec<Hook>, Error> {
    Ok(sqlx::query_as!(
        Hook,
        r#"with family as (
               select oid, 'outbox.' || relname as name, relrowsecurity from pg_class
               where oid = 'outbox.log'::regclass
                  or oid in (select inhrelid from pg_inherits
                             where inhparent = 'outbox.log'::regclass)
           )
           select 'trigger' as "kind!", t.tgname::text as "name!", f.name as "table!"
           from pg_trigger as t join family as f on f.oid = t.tgrelid
           where not t.tgisinternal and t.tgparentid = 0
           union all
           select 'rule', r.rulename::text, f.name
           from pg_rewrite as r join family as f on f.oid = r.ev_class
           union all
           select 'row security', '', name from family where relrowsecurity
           order by 1, 2, 3"#
    )
    .fetch_all(connection)
    .await?)
}

pub(super) struct Storage {
    pub(super) partitions: Vec<String>,
    pub(super) unlogged: Vec<String>,
    pub(super) invalid_indexes: Vec<String>,
}

pub(super) async fn storage(connection: &mut PgConnection) -> Result<Storage, Error> {
    Ok(sqlx::query_as!(
        Storage,
        r#"with partition as (
               select c.oid, c.relname::text as name, c.relpersistence
               from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
               where i.inhparent = 'outbox.log'::regclass
           )
           select coalesce((select array_agg(name order by name) from partition), '{}')
                      as "partitions!",
                  coalesce((select array_agg(name order by name) from partition
                            where relpersistence <> 'p'), '{}') as "unlogged!",
                  coalesce((select array_agg(c.relname::text order by c.relname)
                            from pg_index as x
                            join partition as p on p.oid = x.indrelid
                            join pg_class as c on c.oid = x.indexrelid
                            where not x.indisvalid), '{}') as "invalid_indexes!""#
    )
    .fetch_one(connection)
    .await?)
}

/// Partitions of the log of which rows were updated or deleted, and how many.
pub(super) async fn edits(connection: &mut PgConnection) -> Result<Vec<(String, i64)>, Error> {
    let rows = sqlx::query!(
        r#"select s.relname::text as "name!", s.n_tup_upd + s.n_tup_del as "rows!"
           from pg_inherits as i join pg_stat_user_tables as s on s.relid = i.inhrelid
           where i.inhparent = 'outbox.log'::regclass and s.n_tup_upd + s.n_tup_del > 0
           order by 1"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.rows)).collect())
}

// ---- the service ----

pub(super) struct Origin {
    /// Whether the cursor was written in this cluster.
    pub(super) same: bool,
    /// Whether this cluster has come as far as the cursor.
    pub(super) behind: bool,
}

pub(super) async fn cursor_origin(connection: &mut PgConnection) -> Result<Origin, Error> {
    Ok(sqlx::query_as!(
        Origin,
        r#"select relay.system_identifier = cluster.system_identifier as "same!",
                  pg_snapshot_xmax(relay.target) <= pg_snapshot_xmax(pg_current_snapshot())
                      as "behind!"
           from outbox.relay as relay, pg_control_system() as cluster"#
    )
    .fetch_one(connection)
    .await?)
}

// ---- storage ----

/// The lowest and highest number of a partition.
pub(super) struct Span {
    pub(super) name: String,
    pub(super) first: i64,
    pub(super) last: i64,
}

/// Of the partitions that hold anything.
pub(super) async fn spans(connection: &mut PgConnection) -> Result<Vec<Span>, Error> {
    Ok(sqlx::query_as!(
        Span,
        r#"select name as "name!", first as "first!", last as "last!"
           from (values
               ('log_0', (select seq from outbox.log_0 order by seq limit 1),
                         (select seq from outbox.log_0 order by seq desc limit 1)),
               ('log_1', (select seq from outbox.log_1 order by seq limit 1),
                         (select seq from outbox.log_1 order by seq desc limit 1)),
               ('log_2', (select seq from outbox.log_2 order by seq limit 1),
                         (select seq from outbox.log_2 order by seq desc limit 1)),
               ('log_3', (select seq from outbox.log_3 order by seq limit 1),
                         (select seq from outbox.log_3 order by seq desc limit 1))
           ) as span (name, first, last)
           where first is not null"#
    )
    .fetch_all(connection)
    .await?)
}

/// Partitions with their dead rows, by the server's statistics.
pub(super) async fn dead_rows(connection: &mut PgConnection) -> Result<Vec<(String, i64)>, Error> {
    let rows = sqlx::query!(
        r#"select c.relname::text as "name!", pg_stat_get_dead_tuples(c.oid) as "rows!"
           from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
           where i.inhparent = 'outbox.log'::regclass
           order by 1"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.rows)).collect())
}

// ---- the horizon ----

/// The current user, if it may not see what others' sessions do.
pub(super) async fn blind_user(connection: &mut PgConnection) -> Result<Option<String>, Error> {
    let row = sqlx::query!(
        r#"select current_user::text as "name!",
                  pg_has_role(current_user, 'pg_read_all_stats', 'usage') as "sees!""#
    )
    .fetch_one(connection)
    .await?;
    Ok((!row.sees).then_some(row.name))
}

/// A session of this database.
pub(super) struct Session {
    pub(super) pid: i32,
    pub(super) user: Option<String>,
    pub(super) application: String,
    pub(super) state: Option<String>,
    pub(super) seconds: f64,
    /// Whether it has a transaction id.
    pub(super) writes: bool,
    /// Its current or last statement, values and all: not to be shown whole.
    pub(super) statement: String,
}

/// Sessions whose transaction holds back the horizon, with its age; the oldest first.
pub(super) async fn open_transactions(
    connection: &mut PgConnection,
) -> Result<Vec<Session>, Error> {
    Ok(sqlx::query_as!(
        Session,
        r#"select pid as "pid!", usename::text as user, coalesce(application_name, '') as "application!",
                  state, extract(epoch from clock_timestamp() - xact_start)::float8 as "seconds!",
                  backend_xid is not null as "writes!", coalesce(left(query, 200), '') as "statement!"
           from pg_stat_activity
           where datname = current_database() and pid <> pg_backend_pid()
             and backend_type = 'client backend' and xact_start is not null
             and (backend_xid is not null or backend_xmin is not null)
           order by xact_start
           limit 20"#
    )
    .fetch_all(connection)
    .await?)
}

/// Sessions that do nothing in a transaction, with the time they have been doing nothing.
pub(super) async fn idle_in_transaction(
    connection: &mut PgConnection,
) -> Result<Vec<Session>, Error> {
    Ok(sqlx::query_as!(
        Session,
        r#"select pid as "pid!", usename::text as user, coalesce(application_name, '') as "application!",
                  state, extract(epoch from clock_timestamp() - state_change)::float8 as "seconds!",
                  backend_xid is not null as "writes!", coalesce(left(query, 200), '') as "statement!"
           from pg_stat_activity
           where datname = current_database() and pid <> pg_backend_pid()
             and state like 'idle in transaction%'
           order by state_change
           limit 20"#
    )
    .fetch_all(connection)
    .await?)
}

pub(super) struct Prepared {
    pub(super) id: String,
    pub(super) owner: String,
    pub(super) seconds: f64,
}

pub(super) async fn prepared_transactions(
    connection: &mut PgConnection,
) -> Result<Vec<Prepared>, Error> {
    Ok(sqlx::query_as!(
        Prepared,
        r#"select gid as "id!", owner::text as "owner!",
                  extract(epoch from clock_timestamp() - prepared)::float8 as "seconds!"
           from pg_prepared_xacts
           where database = current_database()
           order by prepared
           limit 20"#
    )
    .fetch_all(connection)
    .await?)
}

pub(super) struct Slot {
    pub(super) name: String,
    pub(super) active: bool,
    pub(super) holds_rows: bool,
    pub(super) retained_bytes: Option<i64>,
}

/// Slots of this database, and those of the whole server.
pub(super) async fn slots(connection: &mut PgConnection) -> Result<Vec<Slot>, Error> {
    Ok(sqlx::query_as!(
        Slot,
        r#"select slot_name::text as "name!", active as "active!",
                  xmin is not null or catalog_xmin is not null as "holds_rows!",
                  case when not pg_is_in_recovery()
                       then pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint end
                      as retained_bytes
           from pg_replication_slots
           where database is null or database = current_database()
           order by slot_name"#
    )
    .fetch_all(connection)
    .await?)
}

pub(super) struct Standby {
    pub(super) name: String,
    /// Of its oldest snapshot, in transactions.
    pub(super) age: i64,
}

/// Standbys that report their oldest snapshot.
pub(super) async fn standbys(connection: &mut PgConnection) -> Result<Vec<Standby>, Error> {
    Ok(sqlx::query_as!(
        Standby,
        r#"select coalesce(nullif(application_name, ''), client_addr::text, 'without a name') as "name!",
                  age(backend_xmin)::bigint as "age!"
           from pg_stat_replication
           where backend_xmin is not null"#
    )
    .fetch_all(connection)
    .await?)
}

// ---- the server ----

pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
    /// `configuration file`, `database`, `user`, …
    pub(super) source: String,
    pub(super) database: String,
    pub(super) user: String,
}

pub(super) async fn settings(connection: &mut PgConnection) -> Result<Vec<Setting>, Error> {
    Ok(sqlx::query_as!(
        Setting,
        r#"select name as "name!", setting as "value!", source as "source!",
                  current_database()::text as "database!", current_user::text as "user!"
           from pg_settings
           where name in ('fsync', 'full_page_writes', 'synchronous_commit')
           order by name"#
    )
    .fetch_all(connection)
    .await?)
}

/// What the current user may do.
pub(super) struct Privileges {
    pub(super) name: String,
    pub(super) enqueue: bool,
    pub(super) relay: bool,
    pub(super) consume: bool,
    pub(super) look: bool,
    /// Whether everybody has some right on a table.
    pub(super) public: bool,
}

pub(super) async fn privileges(connection: &mut PgConnection) -> Result<Privileges, Error> {
    Ok(sqlx::query_as!(
        Privileges,
        r#"select current_user::text as "name!",
                  has_column_privilege('outbox.log', 'message_id', 'insert')
                      and has_sequence_privilege('outbox.log_seq', 'usage') as "enqueue!",
                  has_table_privilege('outbox.log', 'select')
                      and has_table_privilege('outbox.relay', 'update')
                      and has_table_privilege('outbox.parked', 'insert')
                      and has_table_privilege('outbox.parked', 'delete')
                      and has_table_privilege('outbox.blocked_key', 'delete') as "relay!",
                  has_table_privilege('outbox.inbox', 'insert')
                      and has_table_privilege('outbox.consumer', 'insert')
                      and has_table_privilege('outbox.inbox_parked', 'delete') as "consume!",
                  has_any_column_privilege('outbox.log', 'select')
                      and has_any_column_privilege('outbox.parked', 'select') as "look!",
                  exists (select from pg_class as c, aclexplode(c.relacl) as acl
                          where c.relnamespace = 'outbox'::regnamespace and acl.grantee = 0)
                      as "public!""#
    )
    .fetch_one(connection)
    .await?)
}

/// A group role of `outbox.make_roles`.
pub(super) struct Role {
    pub(super) name: String,
    pub(super) missing: Vec<String>,
    pub(super) excess: Vec<String>,
}

/// The roles by their names, as far as they may enter the schema.
pub(super) async fn roles(connection: &mut PgConnection) -> Result<Vec<Role>, Error> {
    Ok(sqlx::query_as!(
        Role,
        r#"with expected (kind, privilege, relation, wanted) as (values
               ('producer', 'insert',   'outbox.log',         true),
               ('producer', 'select',   'outbox.log',         false),
               ('producer', 'update',   'outbox.log',         false),
               ('producer', 'delete',   'outbox.log',         false),
               ('producer', 'truncate', 'outbox.log',         false),
               ('producer', 'update',   'outbox.relay',       false),
               ('producer', 'select',   'outbox.parked',      false),
               ('relay',    'select',   'outbox.log',         true),
               ('relay',    'truncate', 'outbox.log_0',       true),
               ('relay',    'truncate', 'outbox.log_1',       true),
               ('relay',    'truncate', 'outbox.log_2',       true),
               ('relay',    'truncate', 'outbox.log_3',       true),
               ('relay',    'update',   'outbox.relay',       true),
               ('relay',    'delete',   'outbox.parked',      true),
               ('relay',    'delete',   'outbox.blocked_key', true),
               ('relay',    'update',   'outbox.log',         false),
               ('relay',    'delete',   'outbox.log',         false),
               ('relay',    'insert',   'outbox.inbox',       false),
               ('consumer', 'insert',   'outbox.inbox',       true),
               ('consumer', 'select',   'outbox.consumer',    true),
               ('consumer', 'insert',   'outbox.consumer',    true),
               ('consumer', 'delete',   'outbox.inbox_parked', true),
               ('consumer', 'select',   'outbox.log',         false),
               ('consumer', 'update',   'outbox.log',         false),
               ('consumer', 'delete',   'outbox.log',         false),
               ('consumer', 'update',   'outbox.relay',       false),
               ('reader',   'insert',   'outbox.log',         false),
               ('reader',   'update',   'outbox.relay',       false),
               ('reader',   'delete',   'outbox.parked',      false),
               ('reader',   'delete',   'outbox.inbox_parked', false)
           ), judged as (
               select r.rolname::text as name, e.privilege || ' on ' || e.relation as right_, e.wanted,
                      case when e.kind = 'producer' and e.privilege = 'insert'
                                and e.relation = 'outbox.log'
                           then has_column_privilege(r.oid, e.relation, 'message_id', e.privilege)
                           else has_table_privilege(r.oid, e.relation, e.privilege) end as has
               from pg_roles as r
               join expected as e on r.rolname like '%\_' || e.kind
               where has_schema_privilege(r.oid, 'outbox', 'usage') and not r.rolsuper
               union all
               select r.rolname::text, 'usage on outbox.log_seq', true,
                      has_sequence_privilege(r.oid, 'outbox.log_seq', 'usage')
               from pg_roles as r
               where r.rolname like '%\_producer' and not r.rolsuper
                 and has_schema_privilege(r.oid, 'outbox', 'usage')
               union all
               select r.rolname::text, 'select on outbox.log (payload)', false,
                      has_column_privilege(r.oid, 'outbox.log', 'payload', 'select')
               from pg_roles as r
               where r.rolname like '%\_reader' and not r.rolsuper
                 and has_schema_privilege(r.oid, 'outbox', 'usage')
           )
           select name as "name!",
                  coalesce(array_agg(right_) filter (where wanted and not has), '{}') as "missing!",
                  coalesce(array_agg(right_) filter (where has and not wanted), '{}') as "excess!"
           from judged group by name order by name"#
    )
    .fetch_all(connection)
    .await?)
}

// ---- for the broker ----

pub(super) struct Topic {
    pub(super) name: String,
    /// Whether it has a row in outbox.topic.
    pub(super) declared: bool,
    /// What is known of its limit.
    pub(super) max_bytes: Option<i32>,
}

/// Topics that are declared, parked for, or among the newest 100,000 messages.
pub(super) async fn topics(connection: &mut PgConnection) -> Result<Vec<Topic>, Error> {
    Ok(sqlx::query_as!(
        Topic,
        r#"select used.name as "name!", topic.name is not null as "declared!", topic.max_bytes
           from (select name from outbox.topic
                 union select topic from outbox.parked
                 union select topic
                       from (select topic from outbox.log order by seq desc limit 100000) as newest
                ) as used
           left join outbox.topic on topic.name = used.name
           order by used.name"#
    )
    .fetch_all(connection)
    .await?)
}
