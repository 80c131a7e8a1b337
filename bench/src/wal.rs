//! How much WAL something writes, without full-page images.
//!
//! Those depend on when the last checkpoint was, not on what is written; so they are switched off
//! for the time of the measurement, and what is left is the same every time.

use anyhow::Result;
use sqlx::PgPool;

/// Runs `work`, which does something `times` times, and returns the bytes of each time.
pub(crate) async fn each(
    pool: &PgPool,
    times: i64,
    work: impl Future<Output = Result<()>>,
) -> Result<f64> {
    full_page_writes(pool, "off").await?;
    let before = position(pool).await?;
    let done = work.await;
    let after = position(pool).await?;
    full_page_writes(pool, "on").await?;
    done?;
    Ok((after - before) / times as f64)
}

async fn position(pool: &PgPool) -> Result<f64> {
    Ok(
        sqlx::query_scalar("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8")
            .fetch_one(pool)
            .await?,
    )
}

async fn full_page_writes(pool: &PgPool, value: &'static str) -> Result<()> {
    let statement = match value {
        "on" => "alter system reset full_page_writes",
        _ => "alter system set full_page_writes = off",
    };
    sqlx::raw_sql(statement).execute(pool).await?;
    // The checkpointer is the process that makes it so.
    sqlx::raw_sql("select pg_reload_conf(); checkpoint")
        .execute(pool)
        .await?;
    testbed::wait_for(
        std::time::Duration::from_secs(10),
        "full_page_writes to change",
        async || {
            let now: String = sqlx::query_scalar("select current_setting('full_page_writes')")
                .fetch_one(pool)
                .await?;
            Ok((now == value).then_some(()))
        },
    )
    .await
}
