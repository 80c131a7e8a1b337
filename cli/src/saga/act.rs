//! What is done to one saga.
//!
//! Without `--yes` a person first sees what would be sent, and it is then done on what was seen.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    arguments::Author,
    print::{self, confirm},
    service::{Common, Service, text},
    usage::Usage,
    wait::Wait,
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
    #[arg(long, conflicts_with_all = ["yes", "wait"])]
    pub(crate) dry_run: bool,

    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,

    #[command(flatten)]
    wait: Wait,
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
    let reply: Value = serde_json::from_str(&of.reply)
        .map_err(|error| Usage::new(format!("--reply is not JSON: {error}")))?;
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
    let mut did = service.post(&path, Vec::new(), Some(&key), &body).await?;
    if !how.wait.wait {
        return tell(&common, &did, "is");
    }
    if !common.is_json() {
        tell(&common, &did, "is")?;
    }
    let operation = text(&body["operation"]);
    let waited = wait_for_it(&service, &how.wait, &saga, &operation).await?;
    if common.is_json() {
        did["waited"] = json!({
            "result": waited.result.word(),
            "status": waited.saga["status"],
            "seq": waited.saga["seq"],
        });
        print::json(&did)?;
    }
    let stands = waited.stands();
    match waited.result {
        Came::AsAsked if common.is_json() => Ok(()),
        Came::AsAsked => print::lines(&[stands]),
        Came::Otherwise(why) => bail!("{why}: {stands}"),
        Came::NotYet => Err(how.wait.in_vain(stands)),
    }
}

/// What came of what was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    AsAsked,
    Otherwise(&'static str),
    NotYet,
}

impl Came {
    fn word(&self) -> &'static str {
        match self {
            Self::AsAsked => "done",
            Self::Otherwise(_) => "failed",
            Self::NotYet => "timed_out",
        }
    }
}

/// The saga as it was seen last.
struct Waited {
    saga: Value,
    result: Came,
}

impl Waited {
    fn stands(&self) -> String {
        let [id, status, seq] = ["id", "status", "seq"].map(|name| text(&self.saga[name]));
        let why = ["parked_reason", "reason"].map(|name| text(&self.saga[name]));
        let why = why.into_iter().find(|why| !why.is_empty());
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        format!("saga {id} is {status} at event {seq}{why}")
    }
}

async fn wait_for_it(
    service: &Service,
    wait: &Wait,
    saga: &str,
    operation: &str,
) -> Result<Waited> {
    let mut last = Value::Null;
    let result = wait.until(async || {
        last = service.get(&["sagas", saga], Vec::new()).await?;
        let came = came(operation, &last);
        Ok((came != Came::NotYet).then_some(came))
    });
    let result = result.await?.unwrap_or(Came::NotYet);
    Ok(Waited { saga: last, result })
}

/// What an operation leads to, by where the saga stands afterwards. A pause has happened when nothing
/// is under way any more; the others have when the saga has ended as they would have it.
fn came(operation: &str, saga: &Value) -> Came {
    let status = text(&saga["status"]);
    match (operation, status.as_str()) {
        ("pause", "completed" | "compensated" | "abandoned") => {
            Came::Otherwise("it ended before it could be paused")
        }
        ("pause", _) => {
            let mut steps = saga["steps"].as_array().into_iter().flatten();
            let is_under_way =
                |step: &Value| ["reply", "probe"].contains(&&*text(&step["waiting"]));
            match steps.any(is_under_way) {
                true => Came::NotYet,
                false => Came::AsAsked,
            }
        }
        // At once, and nothing is to come.
        ("migrate", _) | ("abandon", "abandoned") => Came::AsAsked,
        ("cancel", "compensated") => Came::AsAsked,
        ("cancel", "completed") => Came::Otherwise("it was not turned back"),
        (_, "completed" | "compensated") => Came::AsAsked,
        (_, "abandoned") => Came::Otherwise("it was given up"),
        (_, "parked") => Came::Otherwise("it waits for a person"),
        _ if saga["paused"] == true => Came::Otherwise("it is paused, so resume it"),
        _ => Came::NotYet,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_happened_when_what_it_is_for_has() {
        let saga = |status: &str, waiting: &str, paused: bool| {
            let steps = json!([{"waiting": null}, {"waiting": waiting}]);
            json!({"status": status, "paused": paused, "steps": steps})
        };
        let of = |operation: &str, status: &str| came(operation, &saga(status, "reply", false));
        let is_otherwise = |came: Came| matches!(came, Came::Otherwise(_));
        for operation in ["resume", "retry", "complete_step", "skip_compensation"] {
            assert_eq!(of(operation, "running"), Came::NotYet);
            assert_eq!(of(operation, "compensating"), Came::NotYet);
            assert_eq!(of(operation, "completed"), Came::AsAsked);
            assert_eq!(of(operation, "compensated"), Came::AsAsked);
            assert!(is_otherwise(of(operation, "parked")));
            assert!(is_otherwise(of(operation, "abandoned")));
        }
        assert_eq!(of("cancel", "compensating"), Came::NotYet);
        assert_eq!(of("cancel", "compensated"), Came::AsAsked);
        assert!(is_otherwise(of("cancel", "completed")));
        assert_eq!(of("abandon", "abandoned"), Came::AsAsked);
        assert_eq!(of("migrate", "parked"), Came::AsAsked);
        // What is under way when it is paused comes to its end.
        let paused = |waiting| came("pause", &saga("running", waiting, true));
        assert_eq!(paused("reply"), Came::NotYet);
        assert_eq!(paused("probe"), Came::NotYet);
        assert_eq!(paused("person"), Came::AsAsked);
        assert!(is_otherwise(of("pause", "completed")));
        // And nothing else happens then.
        assert!(is_otherwise(came(
            "cancel",
            &saga("compensating", "person", true)
        )));
    }
}
