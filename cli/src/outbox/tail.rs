//! `recompense outbox tail`.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use outbox::operator::{self, Entry, Filter, Follow, State};
use tokio::time::sleep;

use crate::{
    outbox::Common,
    print::{self, Table, age, size},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);
/// Messages of one look; a faster log is shown in part.
const AT_ONCE: i64 = 5_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,

    /// How many of the newest.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT",
          value_parser = clap::value_parser!(i64).range(0..=100_000))]
    lines: i64,

    /// Go on with what is committed from now on, until interrupted.
    #[arg(short, long)]
    follow: bool,

    /// Only of this topic.
    #[arg(long)]
    topic: Option<String>,

    /// Only of this key.
    #[arg(long)]
    key: Option<String>,

    /// Only of this kind.
    #[arg(long)]
    kind: Option<String>,

    /// Show payloads too. They may hold what not everyone should see.
    #[arg(long)]
    payload: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let filter = Filter {
        topic: arguments.topic,
        key: arguments.key,
        kind: arguments.kind,
        payload: arguments.payload,
    };
    let json = arguments.common.is_json();
    if !arguments.follow {
        let entries = operator::tail(&pool, &filter, arguments.lines).await?;
        show(&entries, json, &mut Vec::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut log, entries) = Follow::begin(&pool, filter, arguments.lines).await?;
    let mut widths = Vec::new();
    show(&entries, json, &mut widths)?;
    loop {
        sleep(PAUSE).await;
        let (entries, more) = log.next(&pool, AT_ONCE).await?;
        if !entries.is_empty() {
            show(&entries, json, &mut widths)?;
        }
        if more {
            eprintln!("… some are left out: they come faster than they can be shown");
        }
    }
}

/// One line of JSON a message, or a table, below one of these widths if there was one.
fn show(entries: &[Entry], json: bool, widths: &mut Vec<usize>) -> Result<()> {
    if json {
        return entries.iter().try_for_each(print::json_line);
    }
    let mut table = Table::new([
        "seq", "age", "topic", "key", "kind", "size", "state", "id", "",
    ]);
    for entry in entries {
        table.row([
            entry.seq.to_string(),
            age(entry.age_seconds),
            entry.topic.clone(),
            entry.key.clone(),
            entry.kind.clone(),
            entry.bytes.map_or("null".to_owned(), size),
            match entry.state {
                State::Unpublished => "unpublished".to_owned(),
                State::Published => "published".to_owned(),
                State::Parked(class) => format!("parked ({})", class.as_str()),
            },
            entry.message_id.to_string(),
            entry
                .payload
                .as_ref()
                .map(print::payload)
                .unwrap_or_default(),
        ]);
    }
    print::lines(&table.lines_below(widths))
}
