//! B6: a relay that comes back to a large backlog. The relay is a process of its own.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::PgPool;

use crate::{
    relay_process,
    report::{Report, Target},
    settings::Arguments,
    world::{World, fill, is_drained},
};

const PATIENCE: Duration = Duration::from_secs(1_800);
const SAMPLE: Duration = Duration::from_millis(20);

/// Where the relay was, and when.
struct Sample {
    at: f64,
    seq: f64,
}

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let rows = arguments.backlog();
    let (database, pool) = world.database("backlog").await?;
    let topic = world.topic("backlog").await?;
    let filling = Instant::now();
    fill(&pool, &topic, rows).await?;
    let millions = rows as f64 / 1e6;
    let name = format!("B6 backlog of {millions} million");
    report.add(
        &format!("{name}: filled before, not measured"),
        "row/s",
        rows as f64 / filling.elapsed().as_secs_f64(),
    );
    report.add(
        &format!("{name}: size of the log"),
        "MB",
        size(&pool).await?,
    );

    let mut relay = relay_process::program(world, &database, arguments)?;
    relay.start()?;
    let started = Instant::now();
    let mut samples = Vec::new();
    while !is_drained(&pool).await? {
        ensure!(
            relay.is_running() && started.elapsed() < PATIENCE,
            "the relay did not drain the backlog:\n{}",
            relay.log_tail()
        );
        let seq: i64 = sqlx::query_scalar("select last_seq from outbox.relay")
            .fetch_one(&pool)
            .await?;
        samples.push(Sample {
            at: started.elapsed().as_secs_f64(),
            seq: seq as f64,
        });
        tokio::time::sleep(SAMPLE).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    samples.push(Sample {
        at: seconds,
        seq: rows as f64,
    });
    let (_, peak) = relay_process::memory(&relay)?;
    let processor = relay_process::processor(&relay)?;
    // The first tenth begins with the first sign of life: starting a process is another matter.
    let begun = samples
        .iter()
        .position(|sample| sample.seq > 0.0)
        .unwrap_or(0);
    let samples = &samples[begun..];
    let from = samples.first().map_or(0.0, |sample| sample.seq);
    let tenth = rows as f64 / 10.0;
    let first = rate(samples, from, from + tenth);
    let last = rate(samples, rows as f64 - tenth, rows as f64);
    report.add(&format!("{name}: drained"), "msg/s", rows as f64 / seconds);
    report.add(&format!("{name}: first tenth"), "msg/s", first);
    report.add(&format!("{name}: last tenth"), "msg/s", last);
    report.aim(
        &format!("{name}: last tenth against the first"),
        "%",
        Target::AtLeast(90.0),
        last / first * 100.0,
    );
    report.aim(
        &format!("{name}: relay's memory at its most"),
        "MB",
        Target::AtMost(80.0),
        peak,
    );
    report.add(
        &format!("{name}: relay's processor time for 10,000 messages"),
        "ms",
        processor * 1e3 / (rows as f64 / 1e4),
    );
    report.aim(
        &format!("{name}: dead tuples in the log afterwards"),
        "rows",
        Target::AtMost(0.0),
        dead_tuples(&pool).await?,
    );
    relay.terminate(Duration::from_secs(10)).await?;
    world.discard(database, pool).await
}

/// Rows per second between two numbers, by the samples nearest to them.
fn rate(samples: &[Sample], from: f64, to: f64) -> f64 {
    let at = |seq: f64| {
        let after = samples.partition_point(|sample| sample.seq < seq);
        let after = after.min(samples.len() - 1);
        let (one, two) = (&samples[after.saturating_sub(1)], &samples[after]);
        if two.seq <= one.seq {
            return two.at;
        }
        let share = ((seq - one.seq) / (two.seq - one.seq)).clamp(0.0, 1.0);
        one.at + share * (two.at - one.at)
    };
    (to - from) / (at(to) - at(from))
}

/// The log's tables and indexes, in MB.
async fn size(pool: &PgPool) -> Result<f64> {
    Ok(sqlx::query_scalar(
        "select sum(pg_total_relation_size(relid))::float8 / 1e6
         from pg_partition_tree('outbox.log') where isleaf",
    )
    .fetch_one(pool)
    .await?)
}

async fn dead_tuples(pool: &PgPool) -> Result<f64> {
    // Counted by each session when it has been idle for a second; the filling's is.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    Ok(sqlx::query_scalar(
        "select sum(pg_stat_get_dead_tuples(relid))::float8
         from pg_partition_tree('outbox.log') where isleaf",
    )
    .fetch_one(pool)
    .await?)
}
