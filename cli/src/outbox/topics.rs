//! `recompense outbox topics`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use chassis::config::KafkaBrokers;
use outbox::{
    broker::{Broker, DEFAULT_MAX_BYTES, Kafka},
    operator::{self, AtBroker, Topic},
};

use crate::{
    outbox::Common,
    print::{self, Table},
};

/// Lists the topics that services declared: what `enqueue` lets pass, and what the broker takes.
///
/// `enqueue` keeps to the limit that was noted when the topic was declared, which services do when they
/// start. After a change in the broker, --refresh notes it without a restart.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,

    /// The Kafka brokers to begin with, `host:port`, several separated by commas: to ask for limits and
    /// partitions.
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT,…")]
    kafka_brokers: Option<KafkaBrokers>,

    /// Note the broker's limits: `enqueue` keeps to them from then on.
    #[arg(long, requires = "kafka_brokers")]
    refresh: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let kafka = arguments
        .kafka_brokers
        .map(|brokers| Kafka::new(brokers.to_string()));
    let kafka = kafka.transpose().context("check --kafka-brokers")?;
    let broker = kafka.as_ref().map(|kafka| kafka as &dyn Broker);
    if let Some(broker) = broker.filter(|_| arguments.refresh) {
        let changed = operator::refresh_topics(&pool, broker).await?;
        if !arguments.common.is_json() {
            print::lines(&[format!("{changed} limits have changed")])?;
        }
    }
    let topics = operator::topics(&pool, broker).await?;
    match arguments.common.is_json() {
        true => print::json(&topics)?,
        false => print::table(&table(&topics))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(topics: &[Topic]) -> Table {
    let mut table = Table::new([
        "topic",
        "policy",
        "enqueue takes",
        "broker takes",
        "partitions",
        "note",
    ]);
    for topic in topics {
        let takes = match topic.max_bytes {
            Some(bytes) => bytes.to_string(),
            None => format!("{DEFAULT_MAX_BYTES} (not asked)"),
        };
        let (limit, partitions) = match topic.broker {
            None => (None, String::new()),
            Some(AtBroker {
                partitions: None, ..
            }) => (None, "missing".to_owned()),
            Some(AtBroker {
                partitions: Some(partitions),
                max_bytes,
            }) => (max_bytes, partitions.to_string()),
        };
        let differs = limit.is_some_and(|limit| Some(limit) != topic.max_bytes.map(i64::from));
        table.row([
            topic.name.clone(),
            topic.on_poison.clone(),
            takes,
            limit.map_or_else(String::new, |limit| limit.to_string()),
            partitions,
            if differs { "differs: --refresh" } else { "" }.to_owned(),
        ]);
    }
    table
}
