//! Who used the processors, and for how long: on a machine that is shared, the one figure that says
//! what a saga costs whatever else is running.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

use crate::world::World;

/// `_SC_CLK_TCK` on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds so far, by who used them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Used(BTreeMap<&'static str, f64>);

impl Used {
    /// Until now.
    pub(crate) fn now(world: &World) -> Result<Self> {
        let mut used = BTreeMap::new();
        for task in fs::read_dir("/proc/self/task")? {
            // A thread may end while it is looked at.
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else {
                continue;
            };
            let (name, own, _, _) = parse(&stat)?;
            *used.entry(whose(name)).or_default() += own;
        }
        let (postgres, kafka) = world.pids().context("a server has ended")?;
        for process in fs::read_dir("/proc")? {
            let Ok(stat) = fs::read_to_string(process?.path().join("stat")) else {
                continue;
            };
            let (_, own, ended, parent) = parse(&stat)?;
            let pid = stat.split(' ').next().and_then(|pid| pid.parse().ok());
            if parent == postgres {
                *used.entry("PostgreSQL").or_default() += own;
            } else if pid == Some(postgres) {
                *used.entry("PostgreSQL").or_default() += own + ended;
            } else if pid == Some(kafka) {
                *used.entry("Kafka").or_default() += own;
            }
        }
        Ok(Self(used))
    }

    /// What was used since then.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<&'static str, f64> {
        let difference = |(&name, now): (&&'static str, &f64)| {
            (name, now - before.0.get(name).copied().unwrap_or(0.0))
        };
        self.0.iter().map(difference).collect()
    }
}

/// Seconds that the calling thread has used so far.
pub(crate) fn of_this_thread() -> Result<f64> {
    let stat = fs::read_to_string("/proc/thread-self/stat")?;
    Ok(parse(&stat)?.1)
}

/// By the names that threads of this process have.
fn whose(thread: &str) -> &'static str {
    match thread {
        "coordinator" => "coordinator and its relay",
        _ if thread.starts_with("participant") => "participants and their relays",
        _ if thread.starts_with("rdk:") => "Kafka's client",
        _ => "load",
    }
}

/// A task's name, its own time, that of its children that have ended, and its parent.
fn parse(stat: &str) -> Result<(&str, f64, f64, u32)> {
    // The name in parentheses may hold anything.
    let (before, fields) = stat.rsplit_once(')').context("no such stat")?;
    let name = before.split_once('(').map_or("", |(_, name)| name);
    let fields: Vec<_> = fields.split_whitespace().collect();
    let number = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
    };
    // utime and stime are the 12th and 13th after the name, cutime and cstime come next.
    let time = |first| Some((number(first)? + number(first + 1)?) / TICKS_PER_SECOND);
    let parent = fields.get(1).and_then(|parent| parent.parse().ok());
    let all = time(11).zip(time(13)).zip(parent);
    let ((own, ended), parent) = all.context("the system tells no times")?;
    Ok((name, own, ended, parent))
}
