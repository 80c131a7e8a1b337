//! `recompense outbox parked …` and `recompense inbox parked …`: what both sides of the pipe do with what is parked. A side says which messages
//! there are and what their replays and discards come to.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Subcommand;
use outbox::Error;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    arguments::{Author, Common},
    print::{self, Facts, Table, confirm},
    progress::Progress,
    usage::Usage,
    wait::Wait,
};

/// Messages read at once, to see whether any is asked for.
const PAGE: i64 = 1_000;
/// When nothing has changed for so long, nothing more follows.
const QUIET: Duration = Duration::from_secs(2);

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
    /// What has become of it if it was asked for.
    const DONE: &'static str;

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

    fn number(item: &Self::Item) -> i64;

    /// For eyes.
    fn table(items: &[Self::Item]) -> Table;
    fn facts(parked: &Self::Parked) -> Facts;
    /// Whether it is asked for again and has had no turn yet.
    fn is_asked_for(item: &Self::Item) -> bool;
    /// The same of one that is shown, and why it is parked.
    fn stands(parked: &Self::Parked) -> (bool, &str);
    /// Whether it is what was asked for, and in words.
    fn replayed(outcome: &Self::Replay) -> (bool, String);
    fn discarded(outcome: &Self::Discard) -> (bool, String);
}

/// What is done with them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command<W: Side> {
    #[command(about = format!("Parked messages, {}", W::ORDER))]
    #[command(visible_alias = "ls")]
    List(ListArguments<W>),
    /// One message, with everything but its payload
    Show(ShowArguments),
    #[command(about = format!(
        "Asks that messages be {}. Those behind a refused one follow it by themselves", W::AGAIN
    ))]
    Replay(ReplayArguments<W>),
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

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArguments<W: Side> {
    #[command(flatten)]
    act: ActArguments<W>,
    #[command(flatten)]
    wait: Wait,
}

/// What became of many.
#[derive(Serialize)]
struct Total {
    /// Selected when it was counted.
    selected: i64,
    /// Asked for, or discarded.
    done: u64,
    /// Still parked after that, where it was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    parked: Option<i64>,
}

/// What became of one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "waited", rename_all = "snake_case")]
enum Fate {
    /// It is parked no more.
    Done,
    /// It was tried, and is parked again.
    ParkedAgain {
        /// Why.
        reason: String,
    },
    /// Nobody has tried it.
    TimedOut,
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

async fn replay<W: Side>(arguments: ReplayArguments<W>) -> Result<ExitCode> {
    let ReplayArguments {
        act: arguments,
        wait,
    } = arguments;
    let bulk = arguments.is_bulk()?;
    let pool = arguments.common.connect().await?;
    let by = &arguments.author.by;
    if !bulk {
        let answers = W::replay(&pool, &arguments.numbers, by).await?;
        return match wait.wait {
            true => waited_for(&arguments, &pool, &wait, answers).await,
            false => answer(&arguments, answers, W::replayed),
        };
    }
    let what = |selected| format!("ask for {selected} parked messages to be {}", W::AGAIN);
    let Some(selected) = arguments.agree(&pool, what).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let done = arguments.which.replay_all(&pool, by).await?;
    let mut total = Total {
        selected,
        done,
        parked: None,
    };
    if !wait.wait {
        return arguments.print_total(&total, "asked for");
    }
    let tried = arguments
        .until_all_are_tried(&pool, &wait, selected)
        .await?;
    let parked = arguments.which.count(&pool).await?;
    total.parked = Some(parked);
    arguments.print_total(&total, "asked for")?;
    match (tried, parked) {
        (true, 0) => Ok(ExitCode::SUCCESS),
        (true, _) => bail!("{parked} of what is selected are parked; parked list says why"),
        (false, _) => Err(wait.in_vain(format!("{parked} of what is selected are parked"))),
    }
}

/// Stays until each that was asked for has had its turn, and says what came of it.
async fn waited_for<W: Side>(
    arguments: &ActArguments<W>,
    pool: &PgPool,
    wait: &Wait,
    answers: Vec<(i64, W::Replay)>,
) -> Result<ExitCode> {
    let asked = answers.iter().filter(|(_, outcome)| W::replayed(outcome).0);
    let mut open: Vec<i64> = asked.map(|(number, _)| *number).collect();
    let mut fates = BTreeMap::new();
    let of = open.len() as u64;
    let mut progress = Progress::of(W::DONE, arguments.common.is_json());
    wait.until(async || {
        for number in std::mem::take(&mut open) {
            let fate = match W::show(pool, number, false).await? {
                None => Fate::Done,
                Some(parked) => match W::stands(&parked) {
                    (true, _) => {
                        open.push(number);
                        continue;
                    }
                    (false, reason) => Fate::ParkedAgain {
                        reason: reason.to_owned(),
                    },
                },
            };
            fates.insert(number, fate);
        }
        progress.tell(fates.len() as u64, Some(of));
        Ok(open.is_empty().then_some(()))
    })
    .await?;
    drop(progress);
    fates.extend(open.iter().map(|number| (*number, Fate::TimedOut)));
    if arguments.common.is_json() {
        let told = answers.iter().map(|(number, outcome)| {
            let mut told = numbered(W::NUMBER, *number, outcome)?;
            if let (Some(fate), Value::Object(told)) = (fates.get(number), &mut told)
                && let Value::Object(fate) = serde_json::to_value(fate)?
            {
                told.extend(fate);
            }
            Ok(told)
        });
        print::json(&told.collect::<Result<Vec<_>>>()?)?;
    } else {
        let told = answers.iter().map(|(number, outcome)| {
            let words = match fates.get(number) {
                None => W::replayed(outcome).1,
                Some(Fate::Done) => W::DONE.to_owned(),
                Some(Fate::ParkedAgain { reason }) => format!("parked again: {reason}"),
                Some(Fate::TimedOut) => format!("not {} yet", W::DONE),
            };
            format!("{number}: {words}")
        });
        print::lines(&told.collect::<Vec<_>>())?;
    }
    let all_done = |(number, _): &(i64, W::Replay)| fates.get(number) == Some(&Fate::Done);
    match (open.is_empty(), answers.iter().all(all_done)) {
        (true, true) => Ok(ExitCode::SUCCESS),
        (true, false) => bail!("not everything could be done"),
        (false, _) => Err(wait.in_vain(format!("{} messages have had no turn yet", open.len()))),
    }
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
    let total = Total {
        selected,
        done,
        parked: None,
    };
    arguments.print_total(&total, "discarded")
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
        Err(Usage::new(wrong).into())
    }

    /// Counts what is selected, and asks whether that is meant. `None` when only the count was wanted.
    async fn agree(&self, pool: &PgPool, what: impl FnOnce(i64) -> String) -> Result<Option<i64>> {
        let selected = self.which.count(pool).await?;
        if !self.dry_run {
            confirm(&what(selected), self.yes)?;
            return Ok(Some(selected));
        }
        if self.common.is_json() {
            print::json(&Total {
                selected,
                done: 0,
                parked: None,
            })?;
        } else {
            print::lines(&[format!("{selected} messages selected; nothing was done")])?;
        }
        Ok(None)
    }

    /// Stays until none of the selected is asked for any more, and those behind them have followed.
    /// Whether it came so far.
    async fn until_all_are_tried(&self, pool: &PgPool, wait: &Wait, of: i64) -> Result<bool> {
        let mut progress = Progress::of(W::DONE, self.common.is_json());
        let of = u64::try_from(of).unwrap_or_default();
        let mut quiet: Option<(i64, Instant)> = None;
        let tried = wait.until(async || {
            let parked = self.which.count(pool).await?;
            let left = u64::try_from(parked).unwrap_or_default();
            progress.tell(of.saturating_sub(left), Some(of));
            if parked == 0 {
                return Ok(Some(()));
            }
            if self.is_any_asked_for(pool).await? {
                quiet = None;
                return Ok(None);
            }
            // Followers are sent after their head, without a wish of their own.
            let (before, since) = *quiet.get_or_insert((parked, Instant::now()));
            if before != parked {
                quiet = None;
            }
            Ok((before == parked && since.elapsed() >= QUIET).then_some(()))
        });
        Ok(tried.await?.is_some())
    }

    async fn is_any_asked_for(&self, pool: &PgPool) -> Result<bool> {
        let mut after = None;
        loop {
            let page = self.which.list(pool, after, PAGE).await?;
            if page.iter().any(W::is_asked_for) {
                return Ok(true);
            }
            match page.last() {
                Some(last) => after = Some(W::number(last)),
                None => return Ok(false),
            }
        }
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
