//! `recompense outbox parked …`: what was not sent.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Subcommand;
use outbox::operator::parked::{self, Class, Discard, Item, Parked, Replay, Selection};
use serde::Serialize;

use crate::{
    outbox::{Author, Common, tail::text},
    print::{self, Table, age, confirm, size},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Parked messages, oldest first.
    List(ListArguments),
    /// One message, with everything but its payload.
    Show(ShowArguments),
    /// Asks the relay to send messages again. Those behind a refused one follow it by themselves.
    Replay(ActArguments),
    /// Gives messages up, for good. Those behind a refused one are sent when it is discarded.
    Discard(ActArguments),
}

/// Which messages.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only of this class: poison, blocked or held.
    #[arg(long)]
    class: Option<Class>,

    /// Only of this topic.
    #[arg(long)]
    topic: Option<String>,

    /// Only of this key.
    #[arg(long)]
    key: Option<String>,
}

impl Which {
    fn is_given(&self) -> bool {
        self.class.is_some() || self.topic.is_some() || self.key.is_some()
    }

    fn selection(&self) -> Selection {
        Selection {
            class: self.class,
            topic: self.topic.clone(),
            key: self.key.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    which: Which,

    /// How many at most.
    #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT",
          value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,

    /// Only those with higher numbers: the last of the page before.
    #[arg(long, value_name = "SEQ")]
    after: Option<i64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    common: Common,

    /// The message's number.
    seq: i64,

    /// Show the payload too. It may hold what not everyone should see.
    #[arg(long)]
    payload: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ActArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    which: Which,

    /// The messages' numbers.
    #[arg(conflicts_with_all = ["all", "class", "topic", "key"])]
    seqs: Vec<i64>,

    /// All messages, or all that --class, --topic and --key select.
    #[arg(long)]
    all: bool,

    /// Do it without asking.
    #[arg(long)]
    yes: bool,

    /// Only count what --all selects.
    #[arg(long)]
    dry_run: bool,
}

/// What became of one message.
#[derive(Serialize)]
struct Answer<T> {
    seq: i64,
    #[serde(flatten)]
    outcome: T,
}

/// What became of many.
#[derive(Serialize)]
struct Total {
    /// Selected when it was counted.
    selected: i64,
    /// Asked for, or discarded.
    done: u64,
}

pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(arguments) => show(arguments).await,
        Command::Replay(arguments) => replay(arguments).await,
        Command::Discard(arguments) => discard(arguments).await,
    }
}

async fn list(arguments: ListArguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let selection = arguments.which.selection();
    let items = parked::list(&pool, &selection, arguments.after, arguments.limit).await?;
    if arguments.common.is_json() {
        print::json(&items)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new([
        "seq", "class", "topic", "key", "kind", "for", "replay", "reason",
    ]);
    for item in &items {
        table.row(cells(item));
    }
    print::table(&table)?;
    Ok(ExitCode::SUCCESS)
}

fn cells(item: &Item) -> [String; 8] {
    [
        item.seq.to_string(),
        item.class.as_str().to_owned(),
        item.topic.clone(),
        item.key.clone(),
        item.kind.clone(),
        age(item.parked_seconds),
        item.replay
            .as_ref()
            .map_or_else(String::new, |request| format!("by {}", request.by)),
        item.reason.clone(),
    ]
}

async fn show(arguments: ShowArguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let Some(parked) = parked::show(&pool, arguments.seq, arguments.payload).await? else {
        bail!(
            "no message {} is parked: it was sent or discarded",
            arguments.seq
        );
    };
    if arguments.common.is_json() {
        print::json(&parked)?;
    } else {
        print::lines(&lines(&parked))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(parked: &Parked) -> Vec<String> {
    let item = &parked.item;
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:12} {text}"));
    line("seq", item.seq.to_string());
    line("class", item.class.as_str().to_owned());
    line("topic", item.topic.clone());
    line("key", item.key.clone());
    line("kind", item.kind.clone());
    line("id", item.message_id.to_string());
    line("enqueued", parked.created_at.to_string());
    line(
        "parked",
        format!("{}, {} ago", item.parked_at, age(item.parked_seconds)),
    );
    line("reason", item.reason.clone());
    line("attempts", item.attempts.to_string());
    let seqs = [
        ("behind", parked.head),
        ("overtaken by", parked.overtaken_by),
    ];
    for (name, seq) in seqs {
        if let Some(seq) = seq {
            line(name, seq.to_string());
        }
    }
    if let Some(request) = &item.replay {
        line(
            "replay",
            format!("asked for at {} by {}", request.at, request.by),
        );
    }
    let trace = parked
        .traceparent
        .as_ref()
        .map(|trace| ("traceparent", trace.as_str()));
    let headers = parked
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in trace.into_iter().chain(headers) {
        line("header", format!("{name}: {value}"));
    }
    line("size", parked.bytes.map_or("null".to_owned(), size));
    if let Some(payload) = &parked.payload {
        line("payload", text(payload));
    }
    lines
}

impl ActArguments {
    /// Whether many are meant, after the words were found to make sense.
    fn is_bulk(&self) -> Result<bool> {
        ensure!(
            self.all || !self.which.is_given(),
            "say --all to mean everything that --class, --topic and --key select"
        );
        ensure!(
            self.all || !self.seqs.is_empty(),
            "say which: their numbers, or --all"
        );
        ensure!(
            self.all || !self.dry_run,
            "--dry-run goes with --all; look at single messages with parked show"
        );
        Ok(self.all)
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

async fn replay(arguments: ActArguments) -> Result<ExitCode> {
    let bulk = arguments.is_bulk()?;
    let pool = arguments.common.connect().await?;
    let by = &arguments.author.by;
    if !bulk {
        let answers = parked::request_replay(&pool, &arguments.seqs, by).await?;
        return answer(&arguments, answers, |outcome| match outcome {
            Replay::Requested => (true, "the relay will send it".to_owned()),
            Replay::AlreadyRequested(request) => (
                true,
                format!("asked for before, at {} by {}", request.at, request.by),
            ),
            Replay::BehindHead { head } => (
                false,
                format!("waits behind {head}: replay or discard that first"),
            ),
            Replay::NotParked => (false, "is not parked: it was sent or discarded".to_owned()),
        });
    }
    let selection = arguments.which.selection();
    let selected = parked::count(&pool, &selection).await?;
    let mut done = 0;
    if !arguments.dry_run {
        confirm(
            &format!("ask for {selected} parked messages to be sent again"),
            arguments.yes,
        )?;
        done = parked::request_replay_of_all(&pool, &selection, by).await?;
    }
    arguments.print_total(&Total { selected, done }, "asked for")
}

async fn discard(arguments: ActArguments) -> Result<ExitCode> {
    let bulk = arguments.is_bulk()?;
    let pool = arguments.common.connect().await?;
    let by = &arguments.author.by;
    if !bulk {
        let many = arguments.seqs.len();
        confirm(
            &format!("discard {many} parked messages for good"),
            arguments.yes,
        )?;
        let answers = parked::discard(&pool, &arguments.seqs, by).await?;
        return answer(&arguments, answers, |outcome| match outcome {
            Discard::Discarded {
                released: 0,
                key_opened: false,
            } => (true, "discarded".to_owned()),
            Discard::Discarded {
                key_opened: true, ..
            } => (true, "discarded; its key is blocked no longer".to_owned()),
            Discard::Discarded { released, .. } => (
                true,
                format!("discarded; {released} behind it will be sent"),
            ),
            Discard::NotParked => (false, "is not parked: it was sent or discarded".to_owned()),
        });
    }
    let selection = arguments.which.selection();
    let selected = parked::count(&pool, &selection).await?;
    let mut done = 0;
    if !arguments.dry_run {
        confirm(
            &format!("discard {selected} parked messages for good"),
            arguments.yes,
        )?;
        done = parked::discard_all(&pool, &selection, by).await?;
    }
    arguments.print_total(&Total { selected, done }, "discarded")
}

/// Prints one answer a message; failed if one of them is.
fn answer<T: Serialize>(
    arguments: &ActArguments,
    answers: Vec<(i64, T)>,
    words: impl Fn(&T) -> (bool, String),
) -> Result<ExitCode> {
    let all_well = answers.iter().all(|(_, outcome)| words(outcome).0);
    if arguments.common.is_json() {
        let answers = answers
            .into_iter()
            .map(|(seq, outcome)| Answer { seq, outcome });
        print::json(&answers.collect::<Vec<_>>())?;
    } else {
        let lines = answers
            .iter()
            .map(|(seq, outcome)| format!("{seq}: {}", words(outcome).1));
        print::lines(&lines.collect::<Vec<_>>())?;
    }
    match all_well {
        true => Ok(ExitCode::SUCCESS),
        false => bail!("not everything could be done"),
    }
}
