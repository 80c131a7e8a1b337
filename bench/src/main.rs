//! `make bench`: what the outbox costs and how fast it is, on this machine, in one run.
//!
//! PostgreSQL has fsync on, Kafka is the real one, both on the same machine as the load. Ratios are
//! taken inside one run, because machines are shared and noisy; every figure is the median of the
//! runs with the lowest and highest beside it.

mod drain;
mod enqueue;
mod latency;
mod report;
mod world;

use anyhow::Result;
use clap::Parser;

/// Measures the pipe.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows to drain in each run.
    #[arg(long, default_value_t = 200_000)]
    rows: i64,
    /// Runs of each measurement.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of each timed measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Measure only this.
    #[arg(long)]
    only: Option<What>,
    /// Print one JSON object after the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Enqueue,
    Drain,
    Latency,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut world = world::World::start().await?;
    let mut report = report::Report::new();
    let wanted = |what| arguments.only.is_none_or(|only| only == what);
    if wanted(What::Enqueue) {
        enqueue::measure(&world, &arguments, &mut report).await?;
    }
    if wanted(What::Drain) {
        drain::measure(&world, &arguments, &mut report).await?;
    }
    if wanted(What::Latency) {
        for rate in [600, 2_000] {
            latency::measure(&world, rate, &arguments, &mut report).await?;
        }
    }
    report.print(&arguments, &world)?;
    world.stop().await
}
