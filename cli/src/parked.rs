//! `recompense parked …`: what a service could not send or handle, through that service.
//!
//! As `outbox parked` and `inbox parked`, both in one list, for whoever has a token and no way to the
//! database. Each message is asked for by itself: those that were counted, and no others. If we die
//! here, what was asked for goes on; asking again is asking once. Exit status as with `recompense outbox`.

use std::{cmp::Reverse, process::ExitCode};

use anyhow::{Error, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    arguments::Author,
    print::{self, Facts, Table, age, confirm, size},
    progress::Progress,
    service::{Common, Failure, Query, Service, items, shown, text},
    usage::Usage,
    wait::Wait,
};

const PLACE: &str = "parked";
/// The largest page there is.
const PAGE: &str = "200";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What could not be sent or handled, in the order of parking: the outbox's, then the inbox's.
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// One message, with everything but its payload.
    Show(ShowArguments),
    /// Asks that messages be sent or handled again. Those behind a refused one follow it by themselves.
    Replay(ReplayArguments),
    /// Gives messages up, for good. Those behind a refused one come next.
    Discard(ActArguments),
}

/// Which messages. The service checks what is given.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "Selected")]
pub(crate) struct Filters {
    /// Only of this side of the pipe: outbox or inbox.
    #[arg(long)]
    side: Option<String>,

    /// Only of this class: poison, blocked or held of the outbox; unreadable, refused, exhausted or
    /// blocked of the inbox.
    #[arg(long)]
    class: Option<String>,

    /// Only of this topic.
    #[arg(long)]
    topic: Option<String>,

    /// Only of this key.
    #[arg(long)]
    key: Option<String>,

    /// Only of this consumer's inbox.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filters: Filters,

    /// How many at most, up to 200.
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    limit: u32,

    /// The `next_cursor` of the page before.
    #[arg(long, value_name = "TEXT")]
    cursor: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    common: Common,

    /// The message: outbox-12, inbox-7.
    #[arg(value_parser = id)]
    id: String,

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
    filters: Filters,

    /// The messages: outbox-12, inbox-7.
    #[arg(conflicts_with_all = ["all", "Selected"], value_parser = id)]
    ids: Vec<String>,

    /// All messages, or all that the options above select.
    #[arg(long)]
    all: bool,

    /// Why, in a sentence; noted with the request.
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Say what would come of it, and let nothing happen.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArguments {
    #[command(flatten)]
    act: ActArguments,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Replay,
    Discard,
}

impl Act {
    fn verb(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }

    /// What it comes to, for a person who is asked.
    fn what(self, messages: usize) -> String {
        match self {
            Self::Replay => {
                format!("ask for {messages} parked messages to be sent or handled again")
            }
            Self::Discard => format!("discard {messages} parked messages for good"),
        }
    }
}

impl Filters {
    fn query(self) -> Query {
        vec![
            ("side", self.side),
            ("class", self.class),
            ("topic", self.topic),
            ("key", self.key),
            ("consumer", self.consumer),
        ]
    }

    fn is_given(&self) -> bool {
        let query = self.clone().query();
        query.iter().any(|(_, value)| value.is_some())
    }
}

/// Runs a command and says what to exit with.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(arguments) => show(arguments).await,
        Command::Replay(ReplayArguments { act, wait }) => replay(act, wait).await,
        Command::Discard(arguments) => discard(arguments).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn list(arguments: ListArguments) -> Result<()> {
    let mut query = arguments.filters.query();
    query.push(("limit", Some(arguments.limit.to_string())));
    query.push(("cursor", arguments.cursor));
    let page = arguments.common.service()?.get(&[PLACE], query).await?;
    let mut table = Table::new([
        "id", "class", "topic", "key", "consumer", "for", "replay", "reason",
    ]);
    for parked in items(&page) {
        let [id, class, topic, key, consumer, reason] =
            ["id", "class", "topic", "key", "consumer", "reason"].map(|cell| text(&parked[cell]));
        table.row([
            id,
            class,
            topic,
            key,
            consumer,
            since(parked),
            asked_by(parked),
            reason,
        ]);
    }
    shown(&arguments.common, &page, &table)
}

async fn show(arguments: ShowArguments) -> Result<()> {
    let service = arguments.common.service()?;
    let payload = arguments.payload.then(|| "true".to_owned());
    let path = [PLACE, &arguments.id];
    let parked = service.get(&path, vec![("payload", payload)]).await?;
    if arguments.common.is_json() {
        return print::json(&parked);
    }
    let some = |name: &str| Some(text(&parked[name])).filter(|text| !text.is_empty());
    let mut facts = Facts::default();
    for name in ["id", "class", "topic"] {
        facts.add(name, text(&parked[name]));
    }
    if let (Some(partition), Some(offset)) = (some("partition"), some("offset")) {
        facts.add("place", format!("partition {partition}, offset {offset}"));
    }
    for name in ["key", "kind", "consumer"] {
        facts.add_some(name, some(name));
    }
    facts.add("message id", text(&parked["message_id"]));
    let at = text(&parked["parked_at"]);
    facts.add("parked", format!("{at}, {} ago", since(&parked)));
    facts.add("reason", text(&parked["reason"]));
    facts.add("attempts", text(&parked["attempts"]));
    facts.add_some("behind", some("head"));
    facts.add_some("replay", some("replay").map(|_| asked_by(&parked)));
    for header in parked["headers"].as_array().into_iter().flatten() {
        let (name, value) = (text(&header["name"]), bytes(&header["value"]));
        facts.add("header", format!("{name}: {value}"));
    }
    facts.add(
        "size",
        parked["bytes"].as_i64().map_or("null".to_owned(), size),
    );
    facts.add_some("payload", parked.get("payload").map(bytes));
    print::lines(&facts.lines())
}

async fn replay(arguments: ActArguments, wait: Wait) -> Result<()> {
    if arguments.dry_run && wait.wait {
        return Err(Usage::new("--wait has nothing to wait for after --dry-run").into());
    }
    let service = arguments.common.service()?;
    let Some(chosen) = arguments.choose(&service, Act::Replay).await? else {
        return Ok(());
    };
    // One that is named is asked for without a question: nothing is lost by it.
    if arguments.all {
        confirm(&Act::Replay.what(chosen.len()), arguments.yes)?;
    }
    let mut answers = arguments.ask(&service, Act::Replay, chosen, false).await?;
    if !wait.wait {
        return arguments.tell(&answers);
    }
    let open = wait_for_them(&arguments, &service, &wait, &mut answers).await?;
    let told = arguments.tell(&answers);
    match open {
        0 => told,
        open => Err(wait.in_vain(format!("{open} messages have had no turn yet"))),
    }
}

async fn discard(arguments: ActArguments) -> Result<()> {
    let service = arguments.common.service()?;
    let Some(mut chosen) = arguments.choose(&service, Act::Discard).await? else {
        return Ok(());
    };
    confirm(&Act::Discard.what(chosen.len()), arguments.yes)?;
    // The last first: else those that wait behind one would be sent before it is their turn here.
    chosen.sort_by_key(|id| Reverse(number(id)));
    let answers = arguments.ask(&service, Act::Discard, chosen, false).await?;
    arguments.tell(&answers)
}

impl ActArguments {
    /// Which messages are meant. None where nothing is to be done to any: why is printed then.
    async fn choose(&self, service: &Service, act: Act) -> Result<Option<Vec<String>>> {
        let wrong = match (self.all, self.ids.is_empty()) {
            (true, _) | (false, false) => None,
            (false, true) if self.filters.is_given() => {
                Some("say --all to mean everything that the options select")
            }
            (false, true) => Some("say which messages: their ids, or --all"),
        };
        if let Some(wrong) = wrong {
            return Err(Usage::new(wrong).into());
        }
        let chosen = match self.all {
            true => everything(service, &self.filters, act).await?,
            false => self.ids.clone(),
        };
        if chosen.is_empty() {
            match self.common.is_json() {
                true => print::json(&chosen)?,
                false => print::lines(&["nothing is parked like that".to_owned()])?,
            }
            return Ok(None);
        }
        if !self.dry_run {
            return Ok(Some(chosen));
        }
        let would = self.ask(service, act, chosen, true).await?;
        self.tell(&would)?;
        Ok(None)
    }

    /// Asks for one after another. One that cannot be now does not keep the others back.
    async fn ask(
        &self,
        service: &Service,
        act: Act,
        chosen: Vec<String>,
        dry_run: bool,
    ) -> Result<Vec<Value>> {
        let body = json!({"actor": self.author.by, "reason": self.reason});
        let of = chosen.len() as u64;
        let mut progress = Progress::of("messages asked for", self.common.is_json());
        let mut answers = Vec::new();
        for id in chosen {
            let dry = dry_run.then(|| "true".to_owned());
            let path = [PLACE, &id, act.verb()];
            let answer = service
                .post(&path, vec![("dry_run", dry)], None, &body)
                .await;
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => match Failure::is_conflict(&error) {
                    true => answers.push(json!({
                        "id": id, "outcome": "refused", "dry_run": dry_run, "followers": 0,
                        "because": error.to_string(),
                    })),
                    false => return Err(self.broken_off(&answers, of, error)),
                },
            }
            progress.tell(answers.len() as u64, Some(of));
        }
        Ok(answers)
    }

    /// What was done until then is said too.
    fn broken_off(&self, answers: &[Value], of: u64, error: Error) -> Error {
        if answers.is_empty() {
            return error;
        }
        let done = answers.len();
        let told = self.print(answers).err();
        told.unwrap_or_else(|| error.context(format!("only {done} of {of} were asked for")))
    }

    fn print(&self, answers: &[Value]) -> Result<()> {
        if self.common.is_json() {
            return print::json(&answers);
        }
        let lines = answers.iter().map(line);
        print::lines(&lines.collect::<Vec<_>>())
    }

    /// What came of each; failed if one is not as it was asked for.
    fn tell(&self, answers: &[Value]) -> Result<()> {
        self.print(answers)?;
        // Of many, some may have gone by themselves since they were counted.
        let is_fine = |answer: &Value| match answer["outcome"].as_str() {
            Some("refused") => false,
            Some("not_parked") => self.all,
            _ => !answer["waited"].is_string() || answer["waited"] == "done",
        };
        match answers.iter().all(is_fine) {
            true => Ok(()),
            false => bail!("not everything could be done"),
        }
    }
}

/// All that is selected. What waits behind another is not replayed by itself: it follows that one.
async fn everything(service: &Service, filters: &Filters, act: Act) -> Result<Vec<String>> {
    let mut chosen = Vec::new();
    let mut cursor = None;
    loop {
        let mut query = filters.clone().query();
        query.push(("limit", Some(PAGE.to_owned())));
        query.push(("cursor", cursor));
        let page = service.get(&[PLACE], query).await?;
        let meant =
            items(&page).filter(|parked| act == Act::Discard || parked["class"] != "blocked");
        chosen.extend(meant.map(|parked| text(&parked["id"])));
        cursor = Some(text(&page["next_cursor"])).filter(|cursor| !cursor.is_empty());
        if cursor.is_none() {
            return Ok(chosen);
        }
    }
}

/// Stays until each that was asked for has had its turn, and notes what came of it. Returns how many have not.
async fn wait_for_them(
    arguments: &ActArguments,
    service: &Service,
    wait: &Wait,
    answers: &mut [Value],
) -> Result<usize> {
    let is_asked_for = |answer: &&mut Value| {
        let outcome = answer["outcome"].as_str();
        matches!(outcome, Some("requested" | "already_requested"))
    };
    let mut open: Vec<&mut Value> = answers.iter_mut().filter(is_asked_for).collect();
    let of = open.len();
    let mut progress = Progress::of("had their turn", arguments.common.is_json());
    wait.until(async || {
        for answer in std::mem::take(&mut open) {
            let id = text(&answer["id"]);
            match service.get(&[PLACE, &id], Vec::new()).await {
                Ok(parked) if parked["replay"].is_null() => {
                    answer["waited"] = "parked_again".into();
                    answer["reason"] = parked["reason"].clone();
                }
                Ok(_) => open.push(answer),
                Err(error) if Failure::is_not_found(&error) => answer["waited"] = "done".into(),
                // It is asked again, unless that does not pass.
                Err(error) if Failure::may_pass(&error) => open.push(answer),
                Err(error) => return Err(error),
            }
        }
        progress.tell((of - open.len()) as u64, Some(of as u64));
        Ok(open.is_empty().then_some(()))
    })
    .await?;
    drop(progress);
    for answer in &mut open {
        answer["waited"] = "timed_out".into();
    }
    Ok(open.len())
}

/// What came of one, or would.
fn line(answer: &Value) -> String {
    let would = match answer["dry_run"] == true {
        true => "would be",
        false => "is",
    };
    let words = match (answer["waited"].as_str(), answer["outcome"].as_str()) {
        (Some("done"), _) => "parked no more".to_owned(),
        (Some("parked_again"), _) => format!("parked again: {}", text(&answer["reason"])),
        (Some(_), _) => "not tried yet".to_owned(),
        (None, Some("requested")) => format!("{would} asked for"),
        (None, Some("already_requested")) => "was asked for before".to_owned(),
        (None, Some("discarded")) => format!("{would} discarded"),
        (None, Some("not_parked")) => "is not parked: it was sent, handled or discarded".to_owned(),
        (None, _) => text(&answer["because"]),
    };
    let behind = match answer["followers"].as_i64() {
        None | Some(0) => String::new(),
        Some(followers) => format!("; {followers} wait behind it and come next"),
    };
    format!("{}: {words}{behind}", text(&answer["id"]))
}

fn id(word: &str) -> Result<String, &'static str> {
    let number = ["outbox-", "inbox-"]
        .iter()
        .find_map(|side| word.strip_prefix(side));
    let is_number =
        |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    match number.is_some_and(is_number) {
        true => Ok(word.to_owned()),
        false => Err("must be the id of a parked message, as in outbox-12 or inbox-7"),
    }
}

/// A message's place among those of its side: the later it came, the higher.
fn number(id: &str) -> i64 {
    let number = id.rsplit('-').next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn since(parked: &Value) -> String {
    parked["parked_seconds"]
        .as_f64()
        .map(age)
        .unwrap_or_default()
}

fn asked_by(parked: &Value) -> String {
    match &parked["replay"]["by"] {
        Value::String(by) => format!("by {by}"),
        _ => String::new(),
    }
}

/// Bytes as the service shows them: text, or hexadecimal where they are none.
fn bytes(value: &Value) -> String {
    match (value["text"].as_str(), value["hex"].as_str()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(hex)) => format!("0x{hex}"),
        (None, None) => "null".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_side_and_nothing_else() {
        for good in ["outbox-12", "inbox-0"] {
            assert_eq!(id(good), Ok(good.to_owned()));
        }
        for wrong in [
            "",
            "12",
            "outbox-",
            "outbox--1",
            "inbox-1/..",
            "inbox-1?a=b",
            "other-1",
        ] {
            assert!(id(wrong).is_err(), "{wrong}");
        }
    }
}
