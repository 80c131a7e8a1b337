//! The drawer of the person on call: what it says is so, and what it asks for is safe beside a leader.

mod doctor;
mod looking;
mod parked;
mod rebasing;
mod replaying;

use sqlx::{AssertSqlSafe, PgPool};

/// Runs a statement.
pub(crate) async fn run(pool: &PgPool, sql: impl Into<String>) {
    let sql = sql.into();
    let done = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .execute(pool)
        .await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Waits until somebody in this database waits for a lock.
pub(crate) async fn somebody_waits(pool: &PgPool) {
    testbed::until(
        crate::world::SOON,
        "somebody waits for a lock",
        async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
            )
            .fetch_one(pool)
            .await
            .unwrap();
            (waiting > 0).then_some(())
        },
    )
    .await;
}
