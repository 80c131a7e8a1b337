//! B9: what a relay needs: memory, processor time, and time to start. It is a process of its own.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::{
    latency::WARM_UP,
    open_loop::{Arrivals, Load, Stamps},
    relay_process,
    report::{Report, Target},
    settings::Arguments,
    world::World,
};

const IDLE: Duration = Duration::from_secs(3);

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    for _ in 0..arguments.runs {
        run(world, arguments, report).await?;
    }
    Ok(())
}

async fn run(world: &World, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let (database, pool) = world.database("footprint").await?;
    let mut relay = relay_process::program(world, &database, arguments)?;
    relay.start()?;
    let started = relay_process::leading(&relay, &pool).await?;
    report.add(
        "B9 start of the process → it leads",
        "ms",
        started.as_secs_f64() * 1e3,
    );

    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = relay_process::processor(&relay)?;
    tokio::time::sleep(IDLE).await;
    let idle = relay_process::processor(&relay)? - before;
    let (resident, _) = relay_process::memory(&relay)?;
    report.add(
        "B9 idle: processor",
        "% of a core",
        idle / IDLE.as_secs_f64() * 100.0,
    );
    report.add("B9 idle: memory", "MB", resident);

    for &rate in &arguments.rates {
        let topic = world.topic("footprint").await?;
        let messages = usize::try_from(rate * (WARM_UP + arguments.length()).as_secs())?;
        let stamps = Arc::new(Stamps::new(messages));
        let deadline = WARM_UP + arguments.length() + Duration::from_secs(60);
        let arrivals = Arrivals::of(
            &*world.broker,
            &topic,
            messages,
            deadline,
            Arc::clone(&stamps),
        )
        .await?;
        let before = relay_process::processor(&relay)?;
        let load = Load {
            rate,
            messages,
            writers: arguments.writers,
            begin: stamps.epoch.elapsed() + Duration::from_millis(300),
        };
        let stop = CancellationToken::new();
        load.write(database.options()?, &topic, stamps, stop)
            .await?;
        arrivals.all().await?;
        let used = relay_process::processor(&relay)? - before;
        report.add(
            &format!("B9 at {rate}/s: processor time for 10,000 messages"),
            "ms",
            used * 1e3 / (messages as f64 / 1e4),
        );
    }
    let (_, peak) = relay_process::memory(&relay)?;
    report.aim("B9 memory at its most", "MB", Target::AtMost(80.0), peak);
    relay.terminate(Duration::from_secs(10)).await?;
    world.discard(database, pool).await
}
