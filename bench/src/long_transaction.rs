//! B7: a transaction that has written a message stays open. Throughput and latency of everybody
//! else's, with it and without, in turns.

use std::sync::Arc;

use anyhow::Result;

use crate::{
    drain::drain,
    latency::{self, milliseconds},
    report::{Report, Target},
    settings::Arguments,
    world::{World, fill},
};

const RATE: u64 = 600;
const ROWS: i64 = 300_000;

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    for _ in 0..arguments.runs {
        let without = throughput(world, arguments, false).await?;
        let with = throughput(world, arguments, true).await?;
        report.add("B7 drain without a long transaction", "msg/s", without);
        report.add("B7 drain with one", "msg/s", with);
        report.aim(
            "B7 drain with against without",
            "%",
            Target::AtLeast(90.0),
            with / without * 100.0,
        );
    }
    for _ in 0..arguments.runs {
        let without = latency::run(world, RATE, arguments, false).await?;
        let with = latency::run(world, RATE, arguments, true).await?;
        for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
            let without = milliseconds(&without.commit_to_consumer, share);
            let with = milliseconds(&with.commit_to_consumer, share);
            let name = format!("B7 at {RATE}/s: commit → consumer, {quantile}");
            report.add(&format!("{name}, without"), "ms", without);
            report.add(&format!("{name}, with"), "ms", with);
            report.add(
                &format!("{name}, with against without"),
                "%",
                with / without * 100.0,
            );
        }
    }
    Ok(())
}

async fn throughput(world: &World, arguments: &Arguments, held: bool) -> Result<f64> {
    let (database, pool) = world.database("long").await?;
    let topic = world.topic("long").await?;
    let mut open = pool.begin().await?;
    if held {
        let message = outbox::Message::raw(&topic, "held", "bench.held.v1", vec![]);
        outbox::enqueue(&mut open, &message).await?;
    }
    fill(&pool, &topic, ROWS).await?;
    let rate = drain(
        &database,
        &pool,
        Arc::clone(&world.broker),
        &arguments.relay(),
    )
    .await?;
    open.rollback().await?;
    world.discard(database, pool).await?;
    Ok(rate)
}
