//! `recompense outbox status`.

use std::process::ExitCode;

use anyhow::Result;
use outbox::operator::{self, Status};

use crate::{
    outbox::Common,
    print::{self, Table, age, size},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let status = operator::status(&pool).await?;
    if arguments.common.is_json() {
        print::json(&status)?;
    } else {
        show(&status)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &Status) -> Result<()> {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:12} {text}"));
    line(
        "relay",
        match &status.lease {
            Some(lease) => format!(
                "{} leads, lease for {}, epoch {}",
                lease.owner,
                age(lease.seconds_left),
                status.epoch
            ),
            None => format!("nobody leads, epoch {}", status.epoch),
        },
    );
    if let Some(pause) = &status.paused {
        line("paused", format!("since {} by {}", pause.since, pause.by));
    }
    line(
        "cursor",
        format!("written {} ago", age(status.cursor_age_seconds)),
    );
    line(
        "backlog",
        match status.backlog.exact {
            true => format!("{} messages", status.backlog.messages),
            false => format!(
                "about {} messages (by their numbers)",
                status.backlog.messages
            ),
        },
    );
    if let Some(seconds) = status.oldest_unpublished_seconds {
        line("oldest", age(seconds));
    }
    for parked in &status.parked {
        line(
            "parked",
            format!(
                "{} {}, the first for {}",
                parked.messages,
                parked.class.as_str(),
                age(parked.oldest_seconds)
            ),
        );
    }
    if status.blocked_keys > 0 {
        line("blocked", format!("{} keys", status.blocked_keys));
    }
    for parked in &status.inbox_parked {
        line(
            "inbox parked",
            format!(
                "{} by {}, the first for {}",
                parked.messages,
                parked.consumer,
                age(parked.oldest_seconds)
            ),
        );
    }
    let turn = &status.turn;
    line(
        "turn",
        format!(
            "number {}: {:.1} % of the ring, {:.1} % of the partition",
            turn.seq, turn.percent, turn.partition_percent
        ),
    );
    lines.push(String::new());
    print::lines(&lines)?;
    let mut table = Table::new(["partition", "size", "rows about", ""]);
    for partition in &status.partitions {
        table.row([
            partition.name.clone(),
            size(partition.bytes),
            partition.rows_estimate.to_string(),
            if partition.current { "current" } else { "" }.to_owned(),
        ]);
    }
    print::table(&table)
}
