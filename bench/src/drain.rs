//! B2: how fast a relay drains a backlog, beside what librdkafka alone makes of the same records.
//!
//! The relay runs inside this process; the same rows are drained three times, into Kafka, into the
//! embedded broker and into nothing, from a cursor set back to the beginning each time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use outbox::{
    Relay,
    broker::{Broker, Embedded, Outgoing, SendError, Topic, Tuning},
    outgoing,
};
use sqlx::PgPool;
use testbed::Database;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    brokers::Nothing,
    report::{Report, Target},
    settings::Arguments,
    world::{KIND, LOOK, World, fill, is_drained, payloads},
};

const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let (database, pool) = world.database("drain").await?;
    // Its name is in the rows, so it is the same for all of them.
    let topic = world.topic("drain").await?;
    fill(&pool, &topic, arguments.rows).await?;
    let config = arguments.relay();
    // A fresh virtual machine has not compiled what it needs.
    produce(&*world.broker, &topic, arguments.rows / 2, &config.tuning).await?;
    for _ in 0..arguments.runs {
        let alone = produce(&*world.broker, &topic, arguments.rows, &config.tuning).await?;
        let relay = drain(&database, &pool, Arc::clone(&world.broker), &config).await?;
        report.add("B2 librdkafka alone, the same records", "msg/s", alone);
        report.add("B2 relay drain into Kafka", "msg/s", relay);
        report.aim(
            "B2 relay against librdkafka alone",
            "%",
            Target::AtLeast(50.0),
            relay / alone * 100.0,
        );
        let embedded = Embedded::start()?;
        embedded.ensure_topics(&[Topic::new(&topic, 4)]).await?;
        let embedded = drain(&database, &pool, Arc::new(embedded), &config).await?;
        report.add("B2 relay drain into the embedded broker", "msg/s", embedded);
        let nothing = drain(&database, &pool, Arc::new(Nothing), &config).await?;
        report.add("B2 relay drain into nothing", "msg/s", nothing);
    }
    world.discard(database, pool).await
}

/// Rows per second, from the start of a relay until everything in the log is acknowledged.
pub(crate) async fn drain(
    database: &Database,
    pool: &PgPool,
    broker: Arc<dyn Broker>,
    config: &outgoing::Config,
) -> Result<f64> {
    let rows: i64 = sqlx::query_scalar(
        "with reset as (
             update outbox.relay
             set settled = '1:1:', settled_floor = 0, target = '1:1:', target_floor = 0, last_seq = 0
         )
         select count(*) from outbox.log",
    )
    .fetch_one(pool)
    .await?;
    let relay = Relay::new(database.options()?, broker, config.clone());
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let started = Instant::now();
    let task = tokio::spawn(async move { relay.run(token).await });
    while !is_drained(pool).await? {
        ensure!(
            !task.is_finished() && started.elapsed() < PATIENCE,
            "the relay did not drain the backlog"
        );
        tokio::time::sleep(LOOK).await;
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    shutdown.cancel();
    task.await??;
    Ok(rate)
}

/// Records per second of the same client, with the same settings, headers and bytes, without a
/// database.
pub(crate) async fn produce(
    broker: &dyn Broker,
    topic: &str,
    rows: i64,
    tuning: &Tuning,
) -> Result<f64> {
    let (sender, mut deliveries) = mpsc::unbounded_channel();
    let producer = broker.producer(tuning, sender)?;
    let topic = topic.to_owned();
    let payloads = payloads();
    let started = Instant::now();
    let sending = tokio::task::spawn_blocking(move || {
        for n in 0..usize::try_from(rows)? {
            let key = format!("key-{}", n % 10_000);
            let id = uuid::Uuid::now_v7().to_string();
            let headers = [
                ("ce_specversion", "1.0"),
                ("ce_id", id.as_str()),
                ("ce_source", "/outbox"),
                ("ce_type", KIND),
                ("ce_time", "2026-01-02T03:04:05.678901Z"),
                ("ce_subject", key.as_str()),
                ("content-type", "application/json"),
            ];
            let record = Outgoing {
                topic: &topic,
                key: &key,
                payload: Some(&payloads[n % payloads.len()]),
                headers: &headers,
            };
            while let Err(error) = producer.send(n, record) {
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
