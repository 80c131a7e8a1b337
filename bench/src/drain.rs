//! B2: how fast a relay drains a backlog, beside what librdkafka alone makes of the same records.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use outbox::{
    Relay,
    broker::{Outgoing, SendError, Tuning},
    outgoing,
};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Arguments, report::Report, world::World};

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    for _ in 0..arguments.runs {
        let alone = librdkafka(world, arguments.rows).await?;
        let relay = drain(world, arguments.rows).await?;
        report.add("B2 librdkafka alone, the same records", "msg/s", alone);
        report.add("B2 relay drain of a backlog, 300 B", "msg/s", relay);
        report.add(
            "B2 relay against librdkafka alone",
            "%",
            relay / alone * 100.0,
        );
    }
    Ok(())
}

async fn drain(world: &World, rows: i64) -> Result<f64> {
    let (database, pool) = world.database("drain").await?;
    let topic = world.topic("drain").await?;
    fill(&pool, &topic, rows).await?;
    let relay = Relay::new(
        database.options()?,
        Arc::clone(&world.broker),
        outgoing::Config::default(),
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let started = Instant::now();
    let task = tokio::spawn(async move { relay.run(token).await });
    while !drained(&pool).await? {
        if task.is_finished() || started.elapsed() > Duration::from_secs(600) {
            bail!("the relay did not drain the backlog");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    shutdown.cancel();
    task.await??;
    Ok(rate)
}

/// In transactions of a hundred messages, as a busy service leaves them.
async fn fill(pool: &PgPool, topic: &str, rows: i64) -> Result<()> {
    sqlx::raw_sql(
        "create procedure fill(topic text, rows bigint) language plpgsql as $$
         begin
             for batch in 1 .. rows / 100 loop
                 insert into outbox.log (message_id, topic, key, kind, payload)
                 select gen_random_uuid(), topic, 'key-' || (batch * 100 + i) % 10000,
                        'bench.placed.v1', decode(repeat('78', 300), 'hex')
                 from generate_series(1, 100) as i;
                 commit;
             end loop;
         end $$",
    )
    .execute(pool)
    .await?;
    sqlx::query("call fill($1, $2)")
        .bind(topic)
        .bind(rows)
        .execute(pool)
        .await?;
    Ok(())
}

async fn drained(pool: &PgPool) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "select pg_visible_in_snapshot(
                    (select xid from outbox.log order by seq desc limit 1), settled)
         from outbox.relay",
    )
    .fetch_one(pool)
    .await?)
}

/// The same client, settings, headers and bytes, without a database.
async fn librdkafka(world: &World, rows: i64) -> Result<f64> {
    let topic = world.topic("alone").await?;
    let tuning = outgoing::Config::default().tuning;
    let tuning = Tuning {
        queue_kib: 256 << 10,
        ..tuning
    };
    let (sender, mut deliveries) = mpsc::unbounded_channel();
    let producer = world.broker.producer(&tuning, sender)?;
    let payload = vec![b'x'; 300];
    let started = Instant::now();
    let sending = tokio::task::spawn_blocking(move || {
        for n in 0..rows {
            let key = format!("key-{}", n % 10_000);
            let id = uuid::Uuid::now_v7().to_string();
            let headers = [
                ("ce_specversion", "1.0"),
                ("ce_id", id.as_str()),
                ("ce_source", "/outbox"),
                ("ce_type", "bench.placed.v1"),
                ("ce_time", "2026-01-02T03:04:05.678901Z"),
                ("ce_subject", key.as_str()),
                ("content-type", "application/json"),
            ];
            let record = Outgoing {
                topic: &topic,
                key: &key,
                payload: Some(&payload),
                headers: &headers,
            };
            while let Err(error) = producer.send(usize::try_from(n)?, record) {
                match error {
                    SendError::Full => std::thread::sleep(Duration::from_millis(1)),
                    SendError::Failed(failure) => bail!("{}", failure.reason),
                }
            }
        }
        anyhow::Ok(producer)
    });
    for _ in 0..rows {
        match deliveries.recv().await {
            Some(delivery) => {
                if let Err(failure) = delivery.result {
                    bail!("{}", failure.reason);
                }
            }
            None => bail!("the producer ended"),
        }
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    drop(sending.await??);
    Ok(rate)
}
