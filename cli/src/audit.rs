//! `recompense audit`: what people did.

use std::process::ExitCode;

use anyhow::Result;
use chrono::{DateTime, Utc};
use outbox::audit::{self, Filter};

use crate::{
    arguments::{Common, explain},
    outbox::since,
    print::{self, Table},
};

/// What people did to this database's outbox, inbox and sagas, the newest first
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Only by this actor.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,

    /// Only of this kind, such as `parked.discard`.
    #[arg(long)]
    action: Option<String>,

    /// Only to this, such as `parked/outbox-12`.
    #[arg(long)]
    subject: Option<String>,

    /// Only from this time on: `2026-01-31T12:00:00Z`, or how long ago, such as `15m` or `7d`.
    #[arg(long, value_name = "TIME|DURATION", value_parser = since)]
    since: Option<DateTime<Utc>>,

    /// How many at most.
    #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT",
          value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,

    /// Only those with lower numbers: the last of the page before.
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let shown = show(&arguments).await;
    shown.map_err(|error| explain(error, "reader, consumer, producer or owner"))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(arguments: &Arguments) -> Result<()> {
    let pool = arguments.common.connect().await?;
    let filter = Filter {
        actor: arguments.actor.clone(),
        action: arguments.action.clone(),
        subject: arguments.subject.clone(),
        since: arguments.since,
    };
    let entries = audit::list(&pool, &filter, arguments.before, arguments.limit).await?;
    if arguments.common.is_json() {
        return print::json(&entries);
    }
    let heading = ["id", "at", "actor", "role", "action", "subject", "reason"];
    let mut table = Table::new(heading);
    for entry in entries {
        table.row([
            entry.id.to_string(),
            entry.at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            entry.actor,
            entry.role.unwrap_or_default(),
            entry.action,
            entry.subject,
            entry.reason.unwrap_or_default(),
        ]);
    }
    print::table(&table)
}
