//! B3: from the return of the commit to the consumer, with an open loop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use outbox::{Message, Relay, outgoing};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{Arguments, report::Report, world::World};

pub(crate) async fn measure(
    world: &World,
    rate: u64,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    for _ in 0..arguments.runs {
        let times = run(world, rate, arguments.seconds).await?;
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let milliseconds = times.value_at_quantile(quantile) as f64 / 1e3;
            report.add(
                &format!("B3 commit to consumer at {rate}/s, {name}"),
                "ms",
                milliseconds,
            );
        }
    }
    Ok(())
}

async fn run(world: &World, rate: u64, seconds: u64) -> Result<Histogram<u64>> {
    let (database, pool) = world.database("latency").await?;
    let topic = world.topic("latency").await?;
    let shutdown = CancellationToken::new();
    let relay = Relay::new(
        database.options()?,
        Arc::clone(&world.broker),
        outgoing::Config::default(),
    );
    let token = shutdown.clone();
    let relay = tokio::spawn(async move { relay.run(token).await });

    // A warm-up second is sent and not counted.
    let warm_up = rate;
    let total = warm_up + rate * seconds;
    let epoch = Instant::now();
    let (sender, arrivals) = std::sync::mpsc::channel::<(u64, u64)>();
    let subscription = world
        .broker
        .subscribe("latency", std::slice::from_ref(&topic))?;
    let reading = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + Duration::from_secs(seconds + 60);
        let mut left = total;
        while left > 0 && Instant::now() < deadline {
            if let Some(record) = subscription.poll(Duration::from_millis(100))? {
                let now = u64::try_from(epoch.elapsed().as_micros())?;
                let n: u64 = String::from_utf8(record.key.unwrap_or_default())?.parse()?;
                sender.send((n, now))?;
                left -= 1;
            }
        }
        anyhow::Ok(left)
    });

    let mut ticks = tokio::time::interval(Duration::from_nanos(1_000_000_000 / rate));
    // An open loop: what came late is sent at once, not skipped.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..total {
        ticks.tick().await;
        let message = Message::raw(&topic, n.to_string(), "bench.placed.v1", vec![b'x'; 300]);
        let pool = pool.clone();
        writers.spawn(async move {
            let mut tx = pool.begin().await?;
            outbox::enqueue(&mut tx, &message).await?;
            tx.commit().await?;
            anyhow::Ok((n, u64::try_from(epoch.elapsed().as_micros())?))
        });
    }
    let mut committed = vec![0; usize::try_from(total)?];
    while let Some(writer) = writers.join_next().await {
        let (n, at) = writer??;
        committed[usize::try_from(n)?] = at;
    }
    let missing = reading.await??;
    if missing > 0 {
        bail!("{missing} messages did not arrive");
    }
    let mut times = Histogram::<u64>::new(3)?;
    for (n, at) in arrivals {
        if n >= warm_up {
            // A message may arrive before its writer hears of its own commit.
            times.record(at.saturating_sub(committed[usize::try_from(n)?]))?;
        }
    }
    shutdown.cancel();
    relay.await??;
    Ok(times)
}
