//! `make bench`: what outbox and sagas cost and how fast they are, on this machine, in one run.
//!
//! PostgreSQL has fsync on, Kafka is the real one, both on the same machine as the load. Ratios are
//! taken inside one run, because machines are shared and noisy; every figure is the median of the
//! runs with the lowest and highest beside it. `docs/benchmarks.md` says what each one means.

mod machine;
mod report;
mod settings;
mod world;

// What the measurements are made with.
mod brokers;
mod open_loop;
mod relay_process;
mod wal;

// The measurements, in the order of their numbers.
mod backlog;
mod consumer;
mod drain;
mod enqueue;
mod footprint;
mod latency;
mod long_transaction;
mod sagas;
mod take_over;

use anyhow::Result;
use clap::Parser;

use crate::{
    report::Report,
    settings::{Arguments, What},
    world::World,
};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if sagas::run_if_asked(&arguments).await? {
        return Ok(());
    }
    // Before anything is measured: a compiler beside it would spoil the figures.
    if arguments.wants_any(&[What::Backlog, What::TakeOver, What::Footprint]) {
        relay_process::build()?;
    }
    let mut world = World::start(&arguments).await?;
    let mut report = Report::new(machine::describe(&world).await?);
    if arguments.wants(What::Enqueue) {
        enqueue::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::Drain) {
        drain::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::Latency) {
        latency::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::Consumer) {
        consumer::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::Saga) {
        sagas::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::Backlog) {
        backlog::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::LongTransaction) {
        long_transaction::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::TakeOver) {
        take_over::measure(&world, &arguments, &mut report).await?;
    }
    if arguments.wants(What::Footprint) {
        footprint::measure(&world, &arguments, &mut report).await?;
    }
    report.print(&arguments)?;
    world.stop().await
}
