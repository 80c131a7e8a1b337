//! `recompense outbox replay`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use outbox::operator::replay::{self, From, Plan, Replay, Selection};
use serde::Serialize;

use crate::{
    outbox::{Author, Common},
    print::{self, Table, confirm},
    progress::Progress,
};

/// Enqueues messages that the log still holds once more, in their order, with a header `replayed-from`.
///
/// They keep their ids: receivers that handled them ignore them. A copy is an old message with a new
/// number: one that is enqueued meanwhile may come before the copies of older ones of its key.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    author: Author,

    /// From this number on; without it and --since, from the oldest that the log holds.
    #[arg(long, value_name = "SEQ", conflicts_with = "since")]
    from_seq: Option<i64>,

    /// To this number: to go on with a replay that failed.
    #[arg(long, value_name = "SEQ")]
    until_seq: Option<i64>,

    /// From this time on: `2026-01-31T12:00:00Z`, or how long ago, such as `90s`, `15m` or `2h`.
    #[arg(long, value_name = "TIME|DURATION", value_parser = since)]
    since: Option<DateTime<Utc>>,

    /// Only of this topic.
    #[arg(long)]
    topic: Option<String>,

    /// Only of this key.
    #[arg(long)]
    key: Option<String>,

    /// Only of this kind.
    #[arg(long)]
    kind: Option<String>,

    /// Give the copies ids of their own, so that receivers handle them once more. A deliberate
    /// repetition: every effect happens again.
    #[arg(long)]
    new_ids: bool,

    /// Only count what would be enqueued, and say what the log still holds.
    #[arg(long)]
    dry_run: bool,

    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

/// What was done.
#[derive(Serialize)]
struct Done {
    messages: u64,
    last_seq: Option<i64>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let json = arguments.common.is_json();
    let selection = Selection {
        from: match (arguments.from_seq, arguments.since) {
            (Some(seq), _) => From::Seq(seq),
            (None, Some(time)) => From::Time(time),
            (None, None) => From::Oldest,
        },
        until_seq: arguments.until_seq,
        topic: arguments.topic,
        key: arguments.key,
        kind: arguments.kind,
    };
    let plan = replay::plan(&pool, &selection).await?;
    if arguments.dry_run {
        if json {
            print::json(&plan)?;
        } else {
            show(&plan)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let as_what = if arguments.new_ids {
        " as new ones"
    } else {
        ""
    };
    confirm(
        &format!("enqueue {} messages again{as_what}", plan.messages),
        arguments.yes,
    )?;
    let mut replay =
        Replay::begin(&pool, selection, arguments.new_ids, &arguments.author.by).await?;
    let until = replay.until_seq();
    let mut done = Done {
        messages: 0,
        last_seq: None,
    };
    let all = u64::try_from(plan.messages).unwrap_or_default();
    let mut progress = Progress::of("enqueued", json);
    loop {
        let page = replay.page().await.with_context(|| {
            let from = done.last_seq.map_or(plan.from_seq, |last| last + 1);
            format!(
                "{} messages were enqueued; go on with --from-seq {from} --until-seq {until}",
                done.messages
            )
        })?;
        let Some(page) = page else { break };
        done.messages += page.messages;
        done.last_seq = Some(page.last);
        progress.tell(done.messages, Some(all));
    }
    drop(progress);
    if json {
        print::json(&done)?;
    } else {
        print::lines(&[format!("{} messages enqueued again", done.messages)])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(plan: &Plan) -> Result<()> {
    let mut table = Table::new(["topic", "messages", "first", "last"]);
    for topic in &plan.topics {
        table.row([
            topic.topic.clone(),
            topic.messages.to_string(),
            topic.first_at.to_string(),
            topic.last_at.to_string(),
        ]);
    }
    if !table.is_empty() {
        print::table(&table)?;
    }
    print::lines(&[
        format!(
            "{} messages would be enqueued again, of numbers {} to {}",
            plan.messages, plan.from_seq, plan.until_seq
        ),
        match &plan.holds {
            Some(holds) => format!(
                "the log holds messages from number {} on, enqueued at {}; older ones are gone",
                holds.from_seq, holds.from_time
            ),
            None => "the log is empty".to_owned(),
        },
    ])
}

/// A time, or how long ago.
pub(crate) fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let ago = chassis::config::duration(text).map_err(|reason| {
        format!("{reason}; a time such as 2026-01-31T12:00:00Z will do as well")
    })?;
    let time = TimeDelta::from_std(ago)
        .ok()
        .and_then(|ago| Utc::now().checked_sub_signed(ago));
    time.ok_or_else(|| "is too long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_a_while_ago() {
        let time = since("2026-01-31T12:00:00+01:00").unwrap();
        assert_eq!(time.to_rfc3339(), "2026-01-31T11:00:00+00:00");
        let then = since("15m").unwrap();
        let ago = (Utc::now() - then).num_seconds();
        assert!((900..910).contains(&ago), "{ago}");
        assert!(since("yesterday").is_err());
        assert!(since("999999999999d").is_err());
    }
}
