//! What is done to one saga.
//!
//! Without `--yes` a person first sees what would be sent, and it is then done on what was seen.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    arguments::Author,
    print::{self, confirm},
    saga::service::{Common, text},
};

/// What every one of them takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    how: How,

    /// The saga.
    id: Uuid,
}

/// How something is done, to one saga or to many.
#[derive(Debug, clap::Args)]
pub(crate) struct How {
    #[command(flatten)]
    pub(crate) author: Author,

    /// Why, in a sentence; it goes into the saga's history.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,

    /// Only if this is still the number of its last event.
    #[arg(long, value_name = "NUMBER")]
    expected_seq: Option<i64>,

    /// Names the request: the same one under the same key is not done again. A new one unless set.
    #[arg(long, value_name = "TEXT")]
    pub(crate) key: Option<String>,

    /// Say what would happen, and let nothing happen.
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,

    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RetryArguments {
    #[command(flatten)]
    arguments: Arguments,

    /// Only this step; every one that can be retried where none is named.
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompleteArguments {
    #[command(flatten)]
    arguments: Arguments,

    /// The step whose action is under way or parked.
    step: String,

    /// What the participant would have answered, as JSON.
    #[arg(long, value_name = "JSON")]
    reply: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SkipArguments {
    #[command(flatten)]
    arguments: Arguments,

    /// The step whose compensation is under way or parked.
    step: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArguments {
    #[command(flatten)]
    arguments: Arguments,

    /// The version.
    #[arg(long, value_name = "NUMBER")]
    to: i32,
}

pub(crate) async fn plain(operation: &'static str, arguments: Arguments) -> Result<()> {
    act(arguments, json!({"operation": operation})).await
}

pub(crate) async fn retry(of: RetryArguments) -> Result<()> {
    act(of.arguments, json!({"operation": "retry", "step": of.step})).await
}

pub(crate) async fn complete(of: CompleteArguments) -> Result<()> {
    let reply: Value = serde_json::from_str(&of.reply).context("--reply is not JSON")?;
    let what = json!({"operation": "complete_step", "step": of.step, "reply": reply});
    act(of.arguments, what).await
}

pub(crate) async fn skip(of: SkipArguments) -> Result<()> {
    let what = json!({"operation": "skip_compensation", "step": of.step});
    act(of.arguments, what).await
}

pub(crate) async fn migrate(of: MigrateArguments) -> Result<()> {
    act(of.arguments, json!({"operation": "migrate", "to": of.to})).await
}

async fn act(arguments: Arguments, mut body: Value) -> Result<()> {
    let Arguments { common, how, id } = arguments;
    let service = common.service()?;
    let saga = id.to_string();
    let path = ["sagas", &saga, "operations"];
    body["actor"] = how.author.by.clone().into();
    body["reason"] = how.reason.clone().into();
    body["expected_seq"] = how.expected_seq.into();
    if !how.yes && !how.dry_run && how.expected_seq.is_none() {
        // What the person is about to see is what it is done on.
        let seen = service.get(&["sagas", &saga], Vec::new()).await?;
        body["expected_seq"] = seen["seq"].clone();
    }
    if !how.yes {
        let dry = vec![("dry_run", Some("true".to_owned()))];
        let would = service.post(&path, dry, None, &body).await?;
        if how.dry_run {
            return tell(&common, &would, "would be");
        }
        let what = format!(
            "{} saga {id}, and {}",
            text(&body["operation"]),
            sends(&would)
        );
        confirm(&what, false)?;
    }
    let key = how.key.unwrap_or_else(|| Uuid::now_v7().to_string());
    let did = service.post(&path, Vec::new(), Some(&key), &body).await?;
    tell(&common, &did, "is")
}

fn tell(common: &Common, outcome: &Value, verb: &str) -> Result<()> {
    if common.is_json() {
        return print::json(outcome);
    }
    let again = match text(&outcome["outcome"]).as_str() {
        "repeated" => " (this was done before, under the same key)",
        _ => "",
    };
    let mut lines = vec![format!(
        "saga {} {verb} {} at event {}{again}",
        text(&outcome["saga_id"]),
        text(&outcome["status"]),
        text(&outcome["seq"])
    )];
    for command in outcome["commands"].as_array().into_iter().flatten() {
        let told = ["step", "phase", "round", "attempt", "kind", "topic"];
        let [step, phase, round, attempt, kind, topic] = told.map(|name| text(&command[name]));
        lines.push(format!(
            "sent: {kind} to {topic} ({step}, {phase}, round {round}, attempt {attempt})"
        ));
    }
    print::lines(&lines)
}

fn sends(would: &Value) -> String {
    let commands = would["commands"].as_array().into_iter().flatten();
    let commands: Vec<_> = commands
        .map(|c| format!("{} for {}", text(&c["kind"]), text(&c["step"])))
        .collect();
    match commands.is_empty() {
        true => "send nothing".to_owned(),
        false => format!("send {}", commands.join(", ")),
    }
}
