//! What the figures were measured on.

use std::{fs, io::Write as _, process::Command, time::Instant};

use anyhow::Result;

use crate::world::World;

const LOCK: &str = include_str!("../../Cargo.lock");
const KAFKA: &str = include_str!("../../testbed/kafka/pom.xml");
/// Writes to find the time of one.
const WRITES: usize = 200;

/// Names and values, for a person.
pub(crate) async fn describe(world: &World) -> Result<Vec<(&'static str, String)>> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let processor = field(&read("/proc/cpuinfo"), "model name", ":");
    let memory = field(&read("/proc/meminfo"), "MemTotal", ":");
    let load = read("/proc/loadavg");
    let load: Vec<_> = load.split(' ').take(3).collect();
    let cores = std::thread::available_parallelism()?;
    Ok(vec![
        (
            "machine",
            format!(
                "{processor}, {cores} cores, {memory} of memory, Linux {}; PostgreSQL, Kafka, relay and \
                 load all on it; a write of 8 KiB with fdatasync takes {} µs (median of {WRITES})",
                read("/proc/sys/kernel/osrelease").trim(),
                fdatasync()?,
            ),
        ),
        (
            "load when it began (1, 5, 15 minutes; other work on the machine)",
            load.join(" "),
        ),
        (
            "versions",
            format!(
                "Recompense {}, {}, Kafka {}, librdkafka {}",
                revision(),
                world.postgres_version().await?,
                between(
                    KAFKA,
                    "<artifactId>kafka_2.13</artifactId>",
                    "<version>",
                    "</version>"
                ),
                between(LOCK, "name = \"rdkafka-sys\"", "+", "\""),
            ),
        ),
        (
            "durability",
            "fsync and synchronous_commit on, Kafka acks=all, idempotent".to_owned(),
        ),
    ])
}

/// The value of the first line that begins with `name`.
fn field(text: &str, name: &str, separator: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(separator));
    value
        .map_or("unknown", |(_, value)| value.trim())
        .to_owned()
}

/// What stands between two marks, after a third.
fn between<'a>(text: &'a str, after: &str, begin: &str, end: &str) -> &'a str {
    let rest = text.split_once(after).map_or("", |(_, rest)| rest);
    let rest = rest.split_once(begin).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or("unknown", |(value, _)| value)
}

fn revision() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

/// How long a small write takes to reach the disk, in µs: the floor of every commit.
fn fdatasync() -> Result<u128> {
    let path = std::env::temp_dir().join(format!("recompense-bench-{}", std::process::id()));
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..WRITES {
        let started = Instant::now();
        file.write_all(&[0; 8192])?;
        file.sync_data()?;
        times.push(started.elapsed().as_micros());
    }
    drop(file);
    fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times[WRITES / 2])
}
