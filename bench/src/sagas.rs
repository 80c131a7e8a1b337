//! B5: sagas of three remote steps, with everything they need on this machine.
//!
//! One coordinator and three participants, each with a database of its own, an outbox and a relay,
//! as four services would have; in runtimes of their own inside this process, on one PostgreSQL
//! server and one broker. Each step is one SQL update behind the barrier. Whatever is measured is
//! checked afterwards: how each saga ended, and that each effect happened once.

// What is measured.
mod trip;

// Who takes part.
mod coordinator;
mod ended;
mod participant;
mod role;
mod stage;

// The measurements.
mod load;
mod processor;
mod recovery;
mod reducer;
mod weight;

use std::{sync::Arc, time::Duration};

use anyhow::Result;

pub(crate) use coordinator::run_if_asked;

use crate::{
    latency::{WARM_UP, milliseconds},
    report::{Report, Target},
    sagas::{
        load::Until,
        processor::Used,
        stage::{Act, Stage},
    },
    settings::{Arguments, SagaPart},
    world::World,
};

const REDUCER: Duration = Duration::from_secs(2);

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    for _ in 0..arguments.runs {
        if arguments.wants_part(SagaPart::Reducer) {
            let rate = reducer::rate(REDUCER)?;
            let name = "B5 decisions of the reducer, one thread";
            report.aim(name, "1/s", Target::AtLeast(1e6), rate);
        }
        let stage = Arc::new(Stage::start(world, arguments).await?);
        on(world, &stage, arguments, report).await?;
        if let Some(stage) = Arc::into_inner(stage) {
            stage.stop(world).await?;
        }
        if arguments.wants_part(SagaPart::Recovery) {
            let recovery = recovery::run(world, arguments).await?;
            let name = "B5 recovery: sagas in flight when the coordinator was killed";
            report.add(name, "sagas", recovery.in_flight as f64);
            let name = "B5 recovery: kill -9 → first turn";
            report.add(name, "s", recovery.first);
            let name = "B5 recovery: kill -9 → all have ended";
            report.aim(name, "s", Target::AtMost(5.0), recovery.all);
        }
    }
    Ok(())
}

/// What is measured on a stage that stays up.
async fn on(
    world: &World,
    stage: &Arc<Stage>,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    if arguments.wants_part(SagaPart::Latency) {
        latency(stage, arguments, report).await?;
    }
    if arguments.wants_part(SagaPart::Completed) {
        let act = Act {
            name: "completed",
            refused: false,
        };
        throughput(
            (world, stage),
            act,
            Target::AtLeast(800.0),
            arguments,
            report,
        )
        .await?;
    }
    if arguments.wants_part(SagaPart::Compensated) {
        let act = Act {
            name: "compensated",
            refused: true,
        };
        throughput(
            (world, stage),
            act,
            Target::AtLeast(500.0),
            arguments,
            report,
        )
        .await?;
    }
    if arguments.wants_part(SagaPart::Weight) {
        weigh(stage, arguments, report).await?;
    }
    Ok(())
}

async fn latency(stage: &Arc<Stage>, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let act = Act {
        name: "latency",
        refused: false,
    };
    let rate = arguments.saga_rate;
    // So many that the p99 is not the slowest two.
    let seconds = WARM_UP.as_secs() + 4 * arguments.seconds;
    let sagas = usize::try_from(rate * seconds)?;
    let before = stage.effects().await?;
    load::open(stage, act, rate, sagas).await?;
    stage.verify(act, sagas, before).await?;
    let warm_up = usize::try_from(rate * WARM_UP.as_secs())?;
    let lives = load::lives(stage.pool(), act, warm_up).await?;
    for (quantile, share, limit) in [("p50", 0.5, 30.0), ("p99", 0.99, 90.0)] {
        let name = format!("B5 at {rate}/s: start → completed, {quantile}");
        let target = Target::AtMost(limit);
        report.aim(&name, "ms", target, milliseconds(&lives, share));
    }
    Ok(())
}

async fn throughput(
    (world, stage): (&World, &Arc<Stage>),
    act: Act,
    target: Target,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let (pool, in_flight) = (stage.pool(), arguments.in_flight);
    let (before, begun) = (stage.effects().await?, load::clock(pool).await?);
    let until = Until::After(WARM_UP + arguments.length());
    let used = Used::now(world)?;
    let sagas = load::closed(stage, act, in_flight, until).await?;
    let used = Used::now(world)?.since(&used);
    stage.verify(act, sagas, before).await?;
    let from = begun + WARM_UP.as_secs_f64();
    let rate = load::rate(pool, act, from, arguments.length()).await?;
    let name = format!("B5 {}, {in_flight} in flight", act.name);
    report.aim(&name, "sagas/s", target, rate);
    let lives = load::lives(pool, act, 0).await?;
    for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
        let name = format!("{name}: start → end, {quantile}");
        report.add(&name, "ms", milliseconds(&lives, share));
    }
    let each = |seconds: f64| seconds * 1e3 / sagas as f64;
    let name = format!("B5 {}, processor time of a saga", act.name);
    report.add(&name, "ms", each(used.values().sum()));
    for (who, seconds) in used {
        report.add(&format!("{name}: {who}"), "ms", each(seconds));
    }
    Ok(())
}

async fn weigh(stage: &Arc<Stage>, arguments: &Arguments, report: &mut Report) -> Result<()> {
    for (act, target) in [("weighed", Some(Target::AtMost(12.0))), ("undone", None)] {
        let refused = target.is_none();
        let weight = weight::of(stage, Act { name: act, refused }, arguments.in_flight).await?;
        let what = match refused {
            false => "completed",
            true => "compensated",
        };
        let name = format!("B5 WAL of a saga {what}");
        match target {
            Some(target) => report.aim(&name, "KB", target, weight.bytes / 1e3),
            None => report.add(&name, "KB", weight.bytes / 1e3),
        }
        if let Some(commits) = weight.commits {
            report.add(&format!("B5 commits of a saga {what}"), "", commits);
        }
    }
    Ok(())
}
