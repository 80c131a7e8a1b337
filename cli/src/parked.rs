//! `recompense … parked …`: what both sides of the pipe do with what is parked. A side says which messages
//! there are and what their replays and discards come to.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use outbox::Error;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    arguments::{Author, Common, Usage},
    print::{self, Facts, Table, confirm},
};

/// A side's parked messages, and the arguments that select some of them. An implementation is called
/// `Which`: the numbers below exclude its arguments by that name.
pub(crate) trait Side: clap::Args {
    /// What the number of a message is called in JSON.
    const NUMBER: &'static str;
    /// Their order, for the help.
    const ORDER: &'static str;
    /// Who fulfils a request to replay, and how.
    const FULFILS: &'static str;
    /// What a replay asks for.
    const AGAIN: &'static str;
    /// What may have become of a message that is not parked.
    const GONE: &'static str;

    /// A message in a list.
    type Item: Serialize;
    /// All about a message.
    type Parked: Serialize;
    /// What became of a request to replay one.
    type Replay: Serialize;
    /// What became of a wish to discard one.
    type Discard: Serialize;

    /// Whether anything is selected at all.
    fn is_given(&self) -> bool;

    async fn count(&self, pool: &PgPool) -> Result<i64, Error>;
    async fn list(
        &self,
        pool: &PgPool,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Self::Item>, Error>;
    async fn show(pool: &PgPool, number: i64, payload: bool)
    -> Result<Option<Self::Parked>, Error>;

    async fn replay(
        pool: &PgPool,
        numbers: &[i64],
        by: &str,
    ) -> Result<Vec<(i64, Self::Replay)>, Error>;
    async fn replay_all(&self, pool: &PgPool, by: &str) -> Result<u64, Error>;
    async fn discard(
        pool: &PgPool,
        numbers: &[i64],
        by: &str,
    ) -> Result<Vec<(i64, Self::Discard)>, Error>;
    async fn discard_all(&self, pool: &PgPool, by: &str) -> Result<u64, Error>;

    /// For eyes.
    fn table(items: &[Self::Item]) -> Table;
    fn facts(parked: &Self::Parked) -> Facts;
    /// Whether it is what was asked for, and in words.
    fn replayed(outcome: &Self::Replay) -> (bool, String);
    fn discarded(outcome: &Self::Discard) -> (bool, String);
}

/// What is done with them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command<W: Side> {
    #[command(about = format!("Parked messages, {}", W::ORDER))]
    List(ListArguments<W>),
    /// One message, with everything but its payload
    Show(ShowArguments),
    #[command(about = format!(
        "Asks that messages be {}. Those behind a refused one follow it by themselves", W::AGAIN
    ))]
    Replay(ActArguments<W>),
    /// Gives messages up, for good. Those behind a refused one come next
    Discard(ActArguments<W>),
}

pub(crate) async fn run<W: Side>(command: Command<W>) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(arguments) => show::<W>(arguments).await,
        Command::Replay(arguments) => replay(arguments).await,
        Command::Discard(arguments) => discard(arguments).await,
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments<W: Side> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    which: W,

    /// How many at most.
    #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT",
          value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,

    /// Only those with higher numbers: the last of the page before.
    #[arg(long, value_name = "NUMBER")]
    after: Option<i64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    common: Common,

    /// The message's number.
    number: i64,

    /// Show the payload too. It may hold what not everyone should see.
    #[arg(long)]
    payload: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ActArguments<W: Side> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    which: W,

    /// The messages' numbers.
    #[arg(conflicts_with_all = ["all", "Which"])]
    numbers: Vec<i64>,

    /// All messages, or all that the options above select.
    #[arg(long)]
    all: bool,

    /// Do it without asking.
    #[arg(long)]
    yes: bool,

    /// Only count what --all selects.
    #[arg(long)]
    dry_run: bool,
}

/// What became of many.
#[derive(Serialize)]
struct Total {
    /// Selected when it was counted.
    selected: i64,
    /// Asked for, or discarded.
    done: u64,
}

async fn list<W: Side>(arguments: ListArguments<W>) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let items = arguments
        .which
        .list(&pool, arguments.after, arguments.limit);
    let items = items.await?;
    match arguments.common.is_json() {
        true => print::json(&items)?,
        false => print::table(&W::table(&items))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn show<W: Side>(arguments: ShowArguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let Some(parked) = W::show(&pool, arguments.number, arguments.payload).await? else {
        bail!(
            "no message {} is parked: it was {}",
            arguments.number,
            W::GONE
        );
    };
    match arguments.common.is_json() {
        true => print::json(&parked)?,
        false => print::lines(&W::facts(&parked).lines())?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay<W: Side>(arguments: ActArguments<W>) -> Result<ExitCode> {
    let bulk = arguments.is_bulk()?;
    let pool = arguments.common.connect().await?;
    let by = &arguments.author.by;
    if !bulk {
        let answers = W::replay(&pool, &arguments.numbers, by).await?;
        return answer(&arguments, answers, W::replayed);
    }
    let what = |selected| format!("ask for {selected} parked messages to be {}", W::AGAIN);
    let Some(selected) = arguments.agree(&pool, what).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let done = arguments.which.replay_all(&pool, by).await?;
    arguments.print_total(&Total { selected, done }, "asked for")
}

async fn discard<W: Side>(arguments: ActArguments<W>) -> Result<ExitCode> {
    let bulk = arguments.is_bulk()?;
    let pool = arguments.common.connect().await?;
    let by = &arguments.author.by;
    let what = |selected| format!("discard {selected} parked messages for good");
    if !bulk {
        confirm(&what(arguments.numbers.len() as i64), arguments.yes)?;
        let answers = W::discard(&pool, &arguments.numbers, by).await?;
        return answer(&arguments, answers, W::discarded);
    }
    let Some(selected) = arguments.agree(&pool, what).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let done = arguments.which.discard_all(&pool, by).await?;
    arguments.print_total(&Total { selected, done }, "discarded")
}

impl<W: Side> ActArguments<W> {
    /// Whether many are meant, after the words were found to make sense.
    fn is_bulk(&self) -> Result<bool> {
        let wrong = match (self.all, self.numbers.is_empty()) {
            (true, _) => return Ok(true),
            (false, true) if self.which.is_given() => {
                "say --all to mean everything that the options select"
            }
            (false, true) => "say which messages: their numbers, or --all",
            (false, false) if self.dry_run => {
                "--dry-run goes with --all; look at single messages with parked show"
            }
            (false, false) => return Ok(false),
        };
        Err(Usage(wrong).into())
    }

    /// Counts what is selected, and asks whether that is meant. `None` when only the count was wanted.
    async fn agree(&self, pool: &PgPool, what: impl FnOnce(i64) -> String) -> Result<Option<i64>> {
        let selected = self.which.count(pool).await?;
        if !self.dry_run {
            confirm(&what(selected), self.yes)?;
            return Ok(Some(selected));
        }
        if self.common.is_json() {
            print::json(&Total { selected, done: 0 })?;
        } else {
            print::lines(&[format!("{selected} messages selected; nothing was done")])?;
        }
        Ok(None)
    }

    fn print_total(&self, total: &Total, done: &str) -> Result<ExitCode> {
        if self.common.is_json() {
            print::json(total)?;
        } else {
            print::lines(&[format!(
                "{} messages {done} of {} selected",
                total.done, total.selected
            )])?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints one answer a message; failed if one of them is.
fn answer<W: Side, T: Serialize>(
    arguments: &ActArguments<W>,
    answers: Vec<(i64, T)>,
    words: impl Fn(&T) -> (bool, String),
) -> Result<ExitCode> {
    if arguments.common.is_json() {
        let answers: Vec<_> = answers
            .iter()
            .map(|(number, outcome)| numbered(W::NUMBER, *number, outcome))
            .collect::<Result<_>>()?;
        print::json(&answers)?;
    } else {
        let lines = answers
            .iter()
            .map(|(number, outcome)| format!("{number}: {}", words(outcome).1));
        print::lines(&lines.collect::<Vec<_>>())?;
    }
    match answers.iter().all(|(_, outcome)| words(outcome).0) {
        true => Ok(ExitCode::SUCCESS),
        false => bail!("not everything could be done"),
    }
}

// ---- answers that both sides give ----

/// It is asked for.
pub(crate) fn requested<W: Side>() -> (bool, String) {
    (true, format!("{} it", W::FULFILS))
}

/// It waits behind another.
pub(crate) fn behind(head: i64) -> (bool, String) {
    let why = format!("waits behind {head}: replay or discard that first");
    (false, why)
}

/// There is no such message.
pub(crate) fn not_parked<W: Side>() -> (bool, String) {
    (false, format!("is not parked: it was {}", W::GONE))
}

/// What became of one message, beside its number.
fn numbered(name: &str, number: i64, outcome: &impl Serialize) -> Result<Value> {
    let mut answer = json!({ name: number });
    if let (Value::Object(answer), Value::Object(outcome)) =
        (&mut answer, serde_json::to_value(outcome)?)
    {
        answer.extend(outcome);
    }
    Ok(answer)
}
