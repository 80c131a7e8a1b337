//! A database whose clock the test owns, and whose sessions end where the test says.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use testbed::Database;

/// Whatever asks the time is answered by the clock's one row. A session ends itself after the writing
/// statement that has the planned number: what it wrote so far is rolled back, as in a crash.
const CLOCK: &str = "
create schema testclock;
create table testclock.clock (at timestamptz not null);
insert into testclock.clock values ('2031-05-01 12:00:00+00');
create function testclock.clock_timestamp() returns timestamptz language sql volatile
    as 'select at from testclock.clock';
create function testclock.now() returns timestamptz language sql volatile
    as 'select at from testclock.clock';
create function testclock.transaction_timestamp() returns timestamptz language sql volatile
    as 'select at from testclock.clock';
create function testclock.statement_timestamp() returns timestamptz language sql volatile
    as 'select at from testclock.clock';
create sequence testclock.statements;
create table testclock.crash (at bigint);
insert into testclock.crash values (null);
create function testclock.written() returns trigger language plpgsql as $$
begin
    if nextval('testclock.statements') = (select at from testclock.crash) then
        perform pg_terminate_backend(pg_backend_pid());
        perform pg_sleep(60);
    end if;
    return null;
end $$;
create table testclock.deed (
    number bigserial, saga_id uuid not null, step text not null, round integer not null,
    what text not null, at timestamptz not null default testclock.clock_timestamp());
";

/// The tables whose writes are counted.
const WRITTEN: [&str; 10] = [
    "saga.instance",
    "saga.event",
    "saga.anomaly",
    "saga.intervention",
    "saga.pending",
    "saga.barrier",
    "saga.lock",
    "saga.lock_claim",
    "outbox.log",
    "testclock.deed",
];

/// Two pools on one database: of those who are tried, and of whoever tries them.
pub(super) struct Clocked {
    pub(super) pool: PgPool,
    pub(super) outside: PgPool,
}

impl Clocked {
    pub(super) async fn fresh() -> Self {
        let database = Database::fresh("clocked").await;
        let options = database.options().unwrap();
        let own = options
            .clone()
            .options([("search_path", "testclock,pg_catalog,public")]);
        let own = own.options([("lock_timeout", "20s")]);
        let first = PgPoolOptions::new().max_connections(1);
        let first = first.connect_with(options).await.unwrap();
        sqlx::raw_sql(CLOCK).execute(&first).await.unwrap();
        first.close().await;
        let connect = |connections| {
            let pool = PgPoolOptions::new().max_connections(connections);
            pool.connect_with(own.clone())
        };
        let clocked = Self {
            pool: connect(4).await.unwrap(),
            outside: connect(2).await.unwrap(),
        };
        outbox::migrate(&clocked.outside).await.unwrap();
        saga::migrate(&clocked.outside).await.unwrap();
        for table in WRITTEN {
            let trigger = format!(
                "create trigger written after insert or update or delete on {table}
                 for each statement execute function testclock.written()"
            );
            sqlx::query(AssertSqlSafe(trigger))
                .execute(&clocked.outside)
                .await
                .unwrap();
        }
        clocked
    }

    pub(super) async fn now(&self) -> DateTime<Utc> {
        let now = sqlx::query_scalar("select clock_timestamp()");
        now.fetch_one(&self.outside).await.unwrap()
    }

    pub(super) async fn pass(&self, time: Duration) {
        sqlx::query("update testclock.clock set at = at + make_interval(secs => $1)")
            .bind(time.as_secs_f64())
            .execute(&self.outside)
            .await
            .unwrap();
    }

    /// The session that makes the write after so many others ends.
    pub(super) async fn crash_after(&self, statements: i64) {
        sqlx::query("update testclock.crash set at = nextval('testclock.statements') + $1")
            .bind(statements)
            .execute(&self.outside)
            .await
            .unwrap();
    }

    /// Nobody's session ends any more. Whether one did.
    pub(super) async fn crashed(&self) -> bool {
        let crashed = "with planned as (select at from testclock.crash),
                            cleared as (update testclock.crash set at = null)
                       select coalesce((select at from planned) <= (select last_value
                                        from testclock.statements), false)";
        let crashed = sqlx::query_scalar(crashed);
        crashed.fetch_one(&self.outside).await.unwrap()
    }
}
