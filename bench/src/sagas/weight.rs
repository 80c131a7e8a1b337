//! What a saga writes: bytes of WAL, and commits, of all databases together.

use std::sync::Arc;

use anyhow::Result;
use sqlx::PgPool;

use crate::{
    sagas::{
        load::{self, Until},
        stage::{Act, Stage},
    },
    wal,
};

/// Sagas that are weighed.
const WEIGHED: usize = 2_000;

/// Of one saga.
pub(crate) struct Weight {
    /// Without full-page images.
    pub(crate) bytes: f64,
    /// Transactions that wrote something; none where the server cannot tell.
    pub(crate) commits: Option<f64>,
}

pub(crate) async fn of(stage: &Arc<Stage>, act: Act, in_flight: usize) -> Result<Weight> {
    let (pool, before) = (stage.pool(), stage.effects().await?);
    let inspects = inspect(pool).await?;
    let counts = count_statements(pool).await?;
    let mut commits = None;
    let work = async {
        let from = position(pool).await?;
        load::closed(stage, act, in_flight, Until::Started(WEIGHED)).await?;
        stage.verify(act, WEIGHED, before).await?;
        if inspects {
            commits = Some(count_commits(pool, &from).await? / WEIGHED as f64);
        }
        if counts {
            print_statements(pool).await?;
        }
        anyhow::Ok(())
    };
    let bytes = wal::each(pool, i64::try_from(WEIGHED)?, work).await?;
    Ok(Weight { bytes, commits })
}

/// Whether the server has the extension that reads its WAL.
async fn inspect(pool: &PgPool) -> Result<bool> {
    let available: bool = sqlx::query_scalar(
        "select exists (select from pg_available_extensions where name = 'pg_walinspect')",
    )
    .fetch_one(pool)
    .await?;
    if available {
        sqlx::raw_sql("create extension if not exists pg_walinspect")
            .execute(pool)
            .await?;
    }
    Ok(available)
}

/// Whether the server counts statements (`--postgres shared_preload_libraries=pg_stat_statements`);
/// then it begins anew.
async fn count_statements(pool: &PgPool) -> Result<bool> {
    let loaded: bool = sqlx::query_scalar(
        "select current_setting('shared_preload_libraries') like '%pg_stat_statements%'",
    )
    .fetch_one(pool)
    .await?;
    if loaded {
        sqlx::raw_sql(
            "create extension if not exists pg_stat_statements; select pg_stat_statements_reset()",
        )
        .execute(pool)
        .await?;
    }
    Ok(loaded)
}

/// Says which statements took the server's time, for whoever wants less of it.
async fn print_statements(pool: &PgPool) -> Result<()> {
    let statements: Vec<(String, f64, f64, f64)> = sqlx::query_as(
        r"select left(regexp_replace(query, '\s+', ' ', 'g'), 100), sum(calls)::float8,
                 sum(total_exec_time) * 1e3, sum(wal_bytes)::float8
          from pg_stat_statements group by 1 order by 3 desc limit 25",
    )
    .fetch_all(pool)
    .await?;
    for (statement, calls, micros, bytes) in statements {
        let [calls, micros, bytes] = [calls, micros, bytes].map(|all| all / WEIGHED as f64);
        eprintln!("  {calls:.2} of a saga, {micros:.0} µs, {bytes:.0} B: {statement}");
    }
    Ok(())
}

/// Where the WAL ends.
pub(crate) async fn position(pool: &PgPool) -> Result<String> {
    Ok(
        sqlx::query_scalar("select pg_current_wal_flush_lsn()::text")
            .fetch_one(pool)
            .await?,
    )
}

/// Also says what the WAL consists of, for whoever wants less of it.
async fn count_commits(pool: &PgPool, from: &str) -> Result<f64> {
    let records: Vec<(String, f64, f64)> = sqlx::query_as(
        r#"select "resource_manager/record_type", count::float8, combined_size::float8
           from pg_get_wal_stats($1::pg_lsn, pg_current_wal_flush_lsn(), true)
           where count > 0 order by combined_size desc"#,
    )
    .bind(from)
    .fetch_all(pool)
    .await?;
    for (record, count, bytes) in records.iter().take(12) {
        let (count, bytes) = (count / WEIGHED as f64, bytes / WEIGHED as f64);
        eprintln!("  {record}: {count:.2} of a saga, {bytes:.0} B");
    }
    let commits = records
        .iter()
        .filter(|(record, ..)| record == "Transaction/COMMIT");
    Ok(commits.map(|(_, count, _)| count).sum())
}
