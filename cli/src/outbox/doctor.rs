//! `recompense outbox doctor`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use chassis::config::KafkaBrokers;
use outbox::{
    broker::{Broker, Kafka},
    operator::doctor::{self, Limits, Report, Verdict},
};

use crate::{
    outbox::Common,
    print::{self, found_problems},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,

    /// The Kafka brokers to begin with, `host:port`, several separated by commas: to look at topics, their
    /// limits and the partitioner too.
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT,…")]
    kafka_brokers: Option<KafkaBrokers>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let kafka = arguments
        .kafka_brokers
        .map(|brokers| Kafka::new(brokers.to_string()));
    let kafka = kafka.transpose().context("check --kafka-brokers")?;
    let broker = kafka.as_ref().map(|kafka| kafka as &dyn Broker);
    let report = doctor::examine(&pool, broker, &Limits::default()).await?;
    if arguments.common.is_json() {
        print::json(&report)?;
    } else {
        show(&report)?;
    }
    Ok(match report.worst() {
        Verdict::Problem => found_problems(),
        _ => ExitCode::SUCCESS,
    })
}

/// What needs doing first, then what could not be looked at, then what is well.
fn show(report: &Report) -> Result<()> {
    let mut findings: Vec<_> = report.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    let mut lines = Vec::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Warning => "WARNING",
            Verdict::Problem => "PROBLEM",
        };
        lines.push(format!(
            "{verdict:8} {:22} {}",
            finding.check, finding.explanation
        ));
        lines.extend(finding.fix.iter().map(|fix| format!("{:8} → {fix}", "")));
    }
    print::lines(&lines)
}
