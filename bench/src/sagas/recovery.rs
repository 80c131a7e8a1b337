//! A thousand sagas in flight, the coordinator (with the relay of its database) killed with -9 and
//! started again at once: until all of them have ended.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use uuid::Uuid;

use crate::{
    sagas::{
        coordinator,
        stage::{Act, Stage},
    },
    settings::Arguments,
    world::{LOOK, World},
};

/// Started; a few may have ended before the kill.
const SAGAS: usize = 1_200;
/// Must be in flight when the coordinator is killed.
const IN_FLIGHT: i64 = 1_000;
const READY: Duration = Duration::from_secs(60);
const ACT: Act = Act {
    name: "recovery",
    refused: false,
};

/// Seconds from the kill.
pub(crate) struct Recovery {
    pub(crate) in_flight: i64,
    /// To the first turn that the new process takes.
    pub(crate) first: f64,
    pub(crate) all: f64,
}

pub(crate) async fn run(world: &World, arguments: &Arguments) -> Result<Recovery> {
    let stage = Stage::without_coordinator(world, arguments).await?;
    let mut process = coordinator::program(world, &stage)?;
    process.start()?;
    testbed::wait_for(READY, "the coordinator", async || {
        let log = process.log_tail();
        ensure!(process.is_running(), "the coordinator ended:\n{log}");
        Ok(coordinator::is_ready(&process).then_some(()))
    })
    .await?;
    let before = stage.effects().await?;
    // All at once, so that none ends while the others are still being started.
    let mut tx = stage.pool().begin().await?;
    for n in 0..SAGAS {
        stage.begin_in(&mut tx, Uuid::now_v7(), ACT, n).await?;
    }
    tx.commit().await?;
    // A third of the way.
    while steps(&stage).await? < i64::try_from(SAGAS)? {
        tokio::time::sleep(LOOK).await;
    }
    process.kill()?;
    let killed = Instant::now();
    process.start()?;
    let (in_flight, done) = (stage.in_flight().await?, steps(&stage).await?);
    ensure!(
        in_flight >= IN_FLIGHT,
        "only {in_flight} sagas were in flight when the coordinator was killed"
    );
    testbed::wait_for(READY, "the first turn of the new coordinator", async || {
        Ok((steps(&stage).await? > done).then_some(()))
    })
    .await?;
    let first = killed.elapsed();
    testbed::wait_for(READY, "the end of all sagas", async || {
        Ok((stage.in_flight().await? == 0).then_some(()))
    })
    .await?;
    let all = killed.elapsed();
    stage.verify(ACT, SAGAS, before).await?;
    process.kill()?;
    stage.stop(world).await?;
    Ok(Recovery {
        in_flight,
        first: first.as_secs_f64(),
        all: all.as_secs_f64(),
    })
}

/// Steps that took effect, as the coordinator knows.
async fn steps(stage: &Stage) -> Result<i64> {
    Ok(
        sqlx::query_scalar("select count(*) from saga.event where kind = 'action_succeeded'")
            .fetch_one(stage.pool())
            .await?,
    )
}
