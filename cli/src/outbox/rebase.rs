//! `recompense outbox rebase`.

use std::process::ExitCode;

use anyhow::Result;
use outbox::operator::rebase::{
    self, Origin, PATIENCE, Plan, Rebased, TopicPlan, accept_same_xids, check_same_xids,
};
use sqlx::PgPool;

use crate::{
    outbox::{Author, Common},
    print::{self, Table, confirm},
    progress::Progress,
};

/// Makes the cursor anew in a database that was restored from a dump, so that relays read it.
///
/// What may not have been acknowledged is appended to the log once more, in its order and with the ids it had;
/// receivers ignore what they had. The rest of the log is emptied. Be sure that the old database is gone, and keep
/// writers away meanwhile. Needs the owner of the outbox.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    author: Author,

    /// After pg_upgrade, which keeps transaction ids: only accept that the cluster has a new identifier.
    #[arg(long)]
    same_xids: bool,

    /// Only say what would be sent, and change nothing.
    #[arg(long)]
    dry_run: bool,

    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    match arguments.same_xids {
        true => accept(&pool, &arguments).await?,
        false => rebase(&pool, &arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn rebase(pool: &PgPool, arguments: &Arguments) -> Result<()> {
    let plan = rebase::plan(pool).await?;
    if arguments.dry_run {
        return match arguments.common.is_json() {
            true => print::json(&plan),
            false => show(&plan),
        };
    }
    let what = format!(
        "send {} messages again and drop {} from the log",
        plan.messages, plan.dropped
    );
    confirm(&what, arguments.yes)?;
    let progress = Progress::of("rebasing", arguments.common.is_json());
    let rebasing = rebase::rebase(pool, PATIENCE, &arguments.author.by);
    let done = progress.during(rebasing).await?;
    match arguments.common.is_json() {
        true => print::json(&done),
        false => show_done(&done),
    }
}

async fn accept(pool: &PgPool, arguments: &Arguments) -> Result<()> {
    check_same_xids(pool).await?;
    if arguments.dry_run {
        return match arguments.common.is_json() {
            true => print::json(&serde_json::json!({ "acceptable": true })),
            false => print::lines(&["the cursor would be accepted as this cluster's".to_owned()]),
        };
    }
    confirm("accept the cursor as this cluster's", arguments.yes)?;
    let accepted = accept_same_xids(pool, PATIENCE, &arguments.author.by).await?;
    match arguments.common.is_json() {
        true => print::json(&accepted),
        false => print::lines(&[format!(
            "the cursor is this cluster's ({}); relays may start",
            accepted.system_identifier
        )]),
    }
}

fn show(plan: &Plan) -> Result<()> {
    show_topics(&plan.topics)?;
    let mut lines = vec![
        format!(
            "{}; it was written at {}",
            why(plan.origin),
            plan.cursor_written_at
        ),
        format!("{} messages would be sent again", plan.messages),
        format!("{} would leave the log", plan.dropped),
        format!("{} are parked and stay so", plan.parked),
    ];
    if plan.sequence_is_behind {
        lines
            .push("the sequence is behind the numbers that exist and would be advanced".to_owned());
    }
    print::lines(&lines)
}

fn show_done(done: &Rebased) -> Result<()> {
    show_topics(&done.topics)?;
    let mut lines = vec![
        format!("{}; relays may start", why(done.origin)),
        match done.numbers {
            Some((first, last)) => format!(
                "{} messages will be sent again, now with numbers {first} to {last}",
                done.messages
            ),
            None => "nothing had to be sent again".to_owned(),
        },
        format!("{} left the log", done.dropped),
    ];
    if done.paused {
        lines.push("the relay is paused: recompense outbox resume".to_owned());
    }
    print::lines(&lines)
}

fn show_topics(topics: &[TopicPlan]) -> Result<()> {
    let mut table = Table::new(["topic", "messages", "seq from", "to", "first", "last"]);
    for topic in topics {
        table.row([
            topic.topic.clone(),
            topic.messages.to_string(),
            topic.first_seq.to_string(),
            topic.last_seq.to_string(),
            topic.first_at.to_string(),
            topic.last_at.to_string(),
        ]);
    }
    match table.is_empty() {
        true => Ok(()),
        false => print::table(&table),
    }
}

fn why(origin: Origin) -> &'static str {
    match origin {
        Origin::AnotherCluster => "the cursor was another cluster's",
        Origin::Rewound => "the cursor was ahead of this cluster's transaction ids",
    }
}
