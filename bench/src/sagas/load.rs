//! Sagas in the number wanted: always so many in flight, or so many a second whatever becomes of
//! them. All times are the server's, from its record of when each transaction was committed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::sagas::stage::{Act, Stage};

/// A saga that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a closed loop starts no more.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    After(Duration),
    Started(usize),
}

/// Keeps so many in flight; returns how many there were.
pub(crate) async fn closed(
    stage: &Arc<Stage>,
    act: Act,
    in_flight: usize,
    until: Until,
) -> Result<usize> {
    let (begun, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut slots = JoinSet::new();
    for _ in 0..in_flight {
        let (stage, next) = (Arc::clone(stage), Arc::clone(&next));
        slots.spawn(async move {
            let mut started = 0;
            loop {
                if let Until::After(length) = until
                    && begun.elapsed() >= length
                {
                    return anyhow::Ok(started);
                }
                let n = next.fetch_add(1, Relaxed);
                if let Until::Started(all) = until
                    && n >= all
                {
                    return Ok(started);
                }
                let saga = Uuid::now_v7();
                let ended = stage.endings().of(saga);
                stage.begin(saga, act, n).await?;
                started += 1;
                let ended = tokio::time::timeout(PATIENCE, ended).await;
                ended.with_context(|| format!("saga {saga} did not end in {PATIENCE:?}"))??;
            }
        });
    }
    let mut started = 0;
    while let Some(slot) = slots.join_next().await {
        started += slot??;
    }
    Ok(started)
}

/// Starts so many a second.
pub(crate) async fn open(stage: &Arc<Stage>, act: Act, rate: u64, sagas: usize) -> Result<()> {
    let begin = tokio::time::Instant::now();
    let mut starts = JoinSet::new();
    for n in 0..sagas {
        let due = begin + Duration::from_nanos(n as u64 * 1_000_000_000 / rate);
        tokio::time::sleep_until(due).await;
        let stage = Arc::clone(stage);
        starts.spawn(async move { stage.begin(Uuid::now_v7(), act, n).await });
    }
    while let Some(start) = starts.join_next().await {
        start??;
    }
    Ok(())
}

/// The server's clock, in seconds.
pub(crate) async fn clock(pool: &PgPool) -> Result<f64> {
    Ok(
        sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8")
            .fetch_one(pool)
            .await?,
    )
}

/// Sagas whose end was committed in that time, per second.
pub(crate) async fn rate(pool: &PgPool, act: Act, from: f64, length: Duration) -> Result<f64> {
    let seconds = length.as_secs_f64();
    let ended: i64 = sqlx::query_scalar(
        "select count(*) from saga.event join saga.instance on id = saga_id
         where kind in ('completed', 'compensated') and business_key like $1 || '-%'
           and extract(epoch from pg_xact_commit_timestamp(event.xmin)) between $2 and $2 + $3",
    )
    .bind(act.name)
    .bind(from)
    .bind(seconds)
    .fetch_one(pool)
    .await?;
    Ok(ended as f64 / seconds)
}

/// From the commit that starts a saga to the commit that ends it, in µs, for all but the first.
pub(crate) async fn lives(pool: &PgPool, act: Act, but: usize) -> Result<Histogram<u64>> {
    let micros: Vec<i64> = sqlx::query_scalar(
        "select (extract(epoch from pg_xact_commit_timestamp(last.xmin)
                              - pg_xact_commit_timestamp(first.xmin)) * 1e6)::bigint
         from saga.instance
              join saga.event as first on first.saga_id = id and first.kind = 'started'
              join saga.event as last on last.saga_id = id
                   and last.kind in ('completed', 'compensated')
         where business_key like $1 || '-%'
         order by business_key offset $2",
    )
    .bind(act.name)
    .bind(i64::try_from(but)?)
    .fetch_all(pool)
    .await?;
    let mut lives = Histogram::new(3)?;
    for life in micros {
        lives.record(u64::try_from(life)?)?;
    }
    Ok(lives)
}
