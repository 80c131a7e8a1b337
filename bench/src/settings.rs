//! What is measured, and with which settings.

use std::{path::PathBuf, time::Duration};

use outbox::outgoing::{self, Profile};
use testbed::kafka::Jvm;

/// What anyone sets who runs PostgreSQL in earnest: its own defaults are for a machine of twenty
/// years ago, and with them the figures would tell of checkpoints.
const SERVER: [(&str, &str); 3] = [
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "15min"),
];

/// Measures the pipe and the sagas on it.
#[derive(Debug, clap::Parser)]
pub(crate) struct Arguments {
    /// Measure only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<What>,
    /// Runs of each measurement.
    #[arg(long, default_value_t = 5)]
    pub(crate) runs: usize,
    /// Seconds of each timed measurement, its warm-up not counted.
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,
    /// Rows to drain in each run of `drain`.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) rows: i64,
    /// Rows of `backlog`: by default 10 million when it is measured alone, otherwise 2 million.
    #[arg(long)]
    backlog: Option<i64>,
    /// Messages per second of `latency`.
    #[arg(long, value_delimiter = ',', default_values_t = [600, 2_000])]
    pub(crate) rates: Vec<u64>,
    /// Connections of the writers in open loops.
    #[arg(long, default_value_t = 16)]
    pub(crate) writers: usize,

    /// Of `saga` only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<SagaPart>,
    /// Sagas in flight where their throughput is measured.
    #[arg(long, default_value_t = 256)]
    pub(crate) in_flight: usize,
    /// Sagas per second where their latency is measured.
    #[arg(long, default_value_t = 50)]
    pub(crate) saga_rate: u64,
    /// Participants that share the three steps, each with a database of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=3))]
    pub(crate) participants: usize,
    /// Partitions of each topic of commands or replies.
    #[arg(long, default_value_t = 4)]
    pub(crate) partitions: u16,

    /// The relay's settings.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub(crate) profile: Profile,
    /// Instead of the profile's: how long a record may wait for company.
    #[arg(long, value_name = "MILLISECONDS")]
    linger_ms: Option<f64>,
    /// Instead of the profile's: the shortest pause between two looks at the log.
    #[arg(long, value_name = "MICROSECONDS")]
    poll_busy_us: Option<u64>,
    /// Instead of the profile's: most rows read at once.
    #[arg(long)]
    page: Option<usize>,
    /// A further setting of the server, as `name=value`; may be repeated.
    #[arg(long, value_parser = pair)]
    postgres: Vec<(String, String)>,
    /// A further setting of the broker, as `name=value`; may be repeated.
    #[arg(long, value_parser = pair)]
    pub(crate) kafka: Vec<(String, String)>,
    /// The compilers of the broker's virtual machine.
    #[arg(long, value_enum, default_value_t = Compilers::Quick)]
    compilers: Compilers,

    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Replace the figures in this Markdown file, between its two `figures` marks.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// B1: what enqueueing adds to a transaction, and to the WAL.
    Enqueue,
    /// B2: a backlog into Kafka, beside librdkafka alone.
    Drain,
    /// B3: from the commit to the consumer.
    Latency,
    /// B4: the consumer with its inbox.
    Consumer,
    /// B5: sagas of three remote steps.
    Saga,
    /// B6: a large backlog.
    Backlog,
    /// B7: while a transaction stays open.
    LongTransaction,
    /// B8: after the leader is killed.
    TakeOver,
    /// B9: memory, processor time, start.
    Footprint,
}

/// A part of what is measured of sagas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SagaPart {
    /// The pure reducer.
    Reducer,
    /// From start to end, at a low rate.
    Latency,
    /// Sagas per second.
    Completed,
    /// The same where the last step is refused.
    Compensated,
    /// WAL and commits.
    Weight,
    /// After the coordinator is killed.
    Recovery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compilers {
    /// Only the one that answers early.
    Quick,
    /// Also the one that optimizes.
    Both,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("not of the form name=value".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Arguments {
    pub(crate) fn wants(&self, what: What) -> bool {
        self.only.is_empty() || self.only.contains(&what)
    }

    pub(crate) fn wants_any(&self, whats: &[What]) -> bool {
        whats.iter().any(|&what| self.wants(what))
    }

    pub(crate) fn wants_part(&self, part: SagaPart) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// Rows of the large backlog.
    pub(crate) fn backlog(&self) -> i64 {
        let usual = match self.only == [What::Backlog] {
            true => 10_000_000,
            false => 2_000_000,
        };
        self.backlog.unwrap_or(usual)
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The relay's settings.
    pub(crate) fn relay(&self) -> outgoing::Config {
        let mut config = outgoing::Config::of(self.profile);
        if let Some(linger_ms) = self.linger_ms {
            config.tuning.linger_ms = linger_ms;
        }
        if let Some(poll) = self.poll_busy_us {
            config.poll_busy = Duration::from_micros(poll);
        }
        if let Some(page) = self.page {
            config.page = page;
        }
        config
    }

    /// For whoever reads the figures: how they were made.
    pub(crate) fn describe(&self) -> String {
        let relay = self.relay();
        let given = |settings: &[(String, String)]| {
            let pairs: Vec<_> = settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
            pairs.join(" ")
        };
        format!(
            "{} runs of {} s, {} writers in open loops; relay profile {} (linger {} ms, poll {:?}, \
             page {}); PostgreSQL {}; Kafka compilers {:?} {}",
            self.runs,
            self.seconds,
            self.writers,
            self.profile,
            relay.tuning.linger_ms,
            relay.poll_busy,
            relay.page,
            given(&self.postgres_settings()),
            self.compilers,
            given(&self.kafka),
        )
    }

    /// The server's settings: ours, then those given.
    pub(crate) fn postgres_settings(&self) -> Vec<(String, String)> {
        // The life of a saga is measured by the server's own record of its commits.
        let sagas = self
            .wants(What::Saga)
            .then_some(("track_commit_timestamp", "on"));
        let ours = SERVER.into_iter().chain(sagas);
        let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
        ours.chain(self.postgres.clone()).collect()
    }

    pub(crate) fn jvm(&self) -> Jvm {
        match self.compilers {
            Compilers::Quick => Jvm::QuickStart,
            Compilers::Both => Jvm::Fast,
        }
    }
}
