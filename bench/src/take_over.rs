//! B8: from kill -9 of the leader to the first message that its successor carries. Both relays are
//! processes of their own.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use testbed::Process;
use tokio_util::sync::CancellationToken;

use crate::{
    open_loop::{Arrivals, Load, Stamps},
    relay_process,
    report::{Report, Target},
    settings::Arguments,
    world::World,
};

const RATE: u64 = 200;
/// Written before the kill, so that the leader is busy when it dies; not a multiple of anything in
/// the relay, so that the kills meet it in different places.
const BEFORE: Duration = Duration::from_millis(1_730);
const AFTER: Duration = Duration::from_secs(4);

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    for n in 0..arguments.runs {
        let wait = BEFORE + Duration::from_millis(97) * u32::try_from(n)?;
        let seconds = run(world, arguments, wait).await?;
        report.aim(
            "B8 kill -9 of the leader → first message of its successor",
            "s",
            Target::AtMost(2.0),
            seconds,
        );
    }
    Ok(())
}

async fn run(world: &World, arguments: &Arguments, wait: Duration) -> Result<f64> {
    let (database, pool) = world.database("take_over").await?;
    let topic = world.topic("take_over").await?;
    let mut leader = relay_process::program(world, &database, arguments)?;
    leader.start()?;
    relay_process::leading(&leader, &pool).await?;
    let mut standby = relay_process::program(world, &database, arguments)?;
    standby.start()?;
    ready(&standby, &pool).await?;

    let messages = usize::try_from(RATE * (wait + AFTER).as_secs())?;
    let stamps = Arc::new(Stamps::new(messages));
    let deadline = wait + AFTER + Duration::from_secs(30);
    let arrivals = Arrivals::of(
        &*world.broker,
        &topic,
        messages,
        deadline,
        Arc::clone(&stamps),
    )
    .await?;
    let load = Load {
        rate: RATE,
        messages,
        writers: 4,
        begin: stamps.epoch.elapsed() + Duration::from_millis(300),
    };
    let options = database.options()?;
    let (noting, name) = (Arc::clone(&stamps), topic.clone());
    let writing = tokio::spawn(async move {
        load.write(options, &name, noting, CancellationToken::new())
            .await
    });
    tokio::time::sleep(wait).await;
    ensure!(
        relay_process::leader(&pool).await? == leader.pid(),
        "the lease changed hands before the kill"
    );
    let killed = u64::try_from(stamps.epoch.elapsed().as_micros())?;
    leader.kill()?;
    writing.await??;
    arrivals.all().await?;
    // What was committed after the kill, nobody but the successor can have carried.
    let first = (0..messages)
        .filter(|&n| stamps.committed.of(n).is_some_and(|at| at > killed + 5_000))
        .filter_map(|n| stamps.consumed.of(n))
        .min()
        .context("nothing was written after the kill")?;
    standby.terminate(Duration::from_secs(10)).await?;
    world.discard(database, pool).await?;
    Ok(first.saturating_sub(killed) as f64 / 1e6)
}

/// Waits until a second relay has its session, from which it tries to take the lease.
async fn ready(standby: &Process, pool: &sqlx::PgPool) -> Result<()> {
    testbed::wait_for(Duration::from_secs(30), "a standby", async || {
        ensure!(
            standby.is_running(),
            "the standby ended:\n{}",
            standby.log_tail()
        );
        let sessions: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where application_name = 'outbox relay' and datname = current_database()",
        )
        .fetch_one(pool)
        .await?;
        Ok((sessions == 2).then_some(()))
    })
    .await
}
