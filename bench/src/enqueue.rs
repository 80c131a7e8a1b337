//! B1: what enqueueing adds to a transaction that inserts a domain row.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use outbox::Message;
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{Arguments, report::Report, world::World};

const CLIENTS: usize = 16;

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let (_, pool) = world.database("enqueue").await?;
    let length = Duration::from_secs(arguments.seconds);
    load(&pool, Duration::from_secs(1), true).await?;
    for _ in 0..arguments.runs {
        let (plain, plain_times) = load(&pool, length, false).await?;
        let (both, both_times) = load(&pool, length, true).await?;
        report.add("B1 domain insert, 16 clients", "tx/s", plain);
        report.add(
            "B1 domain insert, p99",
            "ms",
            plain_times.value_at_quantile(0.99) as f64 / 1e3,
        );
        report.add("B1 domain insert + enqueue", "tx/s", both);
        report.add(
            "B1 domain insert + enqueue, p99",
            "ms",
            both_times.value_at_quantile(0.99) as f64 / 1e3,
        );
        report.add(
            "B1 time added to a transaction",
            "%",
            (plain / both - 1.0) * 100.0,
        );
    }
    Ok(())
}

/// Transactions per second of all clients, and their times in µs.
async fn load(pool: &PgPool, length: Duration, enqueue: bool) -> Result<(f64, Histogram<u64>)> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let pool = pool.clone();
        clients.spawn(async move {
            let mut times = Histogram::<u64>::new(3)?;
            while started.elapsed() < length {
                let begun = Instant::now();
                transaction(&pool, enqueue).await?;
                times.record(u64::try_from(begun.elapsed().as_micros())?)?;
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Histogram::<u64>::new(3)?;
    while let Some(client) = clients.join_next().await {
        times.add(client??)?;
    }
    Ok((times.len() as f64 / started.elapsed().as_secs_f64(), times))
}

async fn transaction(pool: &PgPool, enqueue: bool) -> Result<()> {
    let id = Uuid::now_v7();
    let mut tx = pool.begin().await?;
    sqlx::query(
        "insert into domain (id, customer, total, status) values ($1, $2, 1250, 'pending')",
    )
    .bind(id)
    .bind(Uuid::now_v7())
    .execute(&mut *tx)
    .await?;
    if enqueue {
        let message = Message::raw("bench", id.to_string(), "bench.placed.v1", vec![b'x'; 300]);
        outbox::enqueue(&mut tx, &message).await?;
    }
    tx.commit().await?;
    Ok(())
}
