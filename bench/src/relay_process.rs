//! The relay as people run it: a process of its own, and what the system says of it.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sqlx::PgPool;
use testbed::{Database, Process};

use crate::{
    settings::Arguments,
    world::{LOOK, World},
};

const LEADING: Duration = Duration::from_secs(30);
/// `_SC_CLK_TCK` on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Builds the program beside ours, if it is not there yet.
pub(crate) fn build() -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "outbox", "--bin", "relay"]);
    command.args(["--features", "relay-bin"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the relay was not built");
    Ok(())
}

/// A relay that is not started yet.
pub(crate) fn program(
    world: &World,
    database: &Database,
    arguments: &Arguments,
) -> Result<Process> {
    Ok(Process::new("relay")?
        .env("DATABASE_URL", &database.url)
        .env("KAFKA_BROKERS", world.bootstrap())
        .env("LISTEN", "127.0.0.1:0")
        .env("LOG_FORMAT", "json")
        .env("PROFILE", arguments.profile.to_string())
        .env("LINGER_MS", arguments.relay().tuning.linger_ms.to_string()))
}

/// Waits until this process holds the lease; how long that took.
pub(crate) async fn leading(relay: &Process, pool: &PgPool) -> Result<Duration> {
    let started = Instant::now();
    while leader(pool).await? != relay.pid() {
        ensure!(
            relay.is_running() && started.elapsed() < LEADING,
            "the relay does not lead:\n{}",
            relay.log_tail()
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok(started.elapsed())
}

/// The process that holds the lease; a relay's name for itself begins with its process id.
pub(crate) async fn leader(pool: &PgPool) -> Result<Option<u32>> {
    let holder = outbox::outgoing::lease(pool).await?;
    Ok(holder.and_then(|holder| holder.owner.split('-').next()?.parse().ok()))
}

/// Processor time so far, in seconds.
pub(crate) fn processor(relay: &Process) -> Result<f64> {
    let pid = relay.pid().context("the relay has ended")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(')').context("no such stat")?;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// Resident memory now and at its most, in MB.
pub(crate) fn memory(relay: &Process) -> Result<(f64, f64)> {
    let pid = relay.pid().context("the relay has ended")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    let both = of("VmRSS:").zip(of("VmHWM:"));
    both.context("the system tells no memory of the relay")
}
