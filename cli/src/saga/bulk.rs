//! `recompense saga bulk …`: one intervention for many sagas.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    arguments::Author,
    print::{self, Facts, Table, confirm},
    progress::Progress,
    saga::filters::Filters,
    service::{Common, Service, items, shown, text},
    usage::Usage,
    wait::Wait,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Does something to each saga that is selected and has not ended.
    Start(Box<StartArguments>),
    /// The newest bulk operations.
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// How far one is.
    Show(ShowArguments),
    /// What became of each saga of one.
    Items(ItemsArguments),
    /// Stops one; who had no turn yet is left alone.
    Cancel(CancelArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct StartArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    author: Author,

    /// pause, resume, cancel, retry, complete_step, skip_compensation, abandon or migrate.
    operation: String,

    /// Which step, where the operation is on one.
    #[arg(long, value_name = "NAME")]
    step: Option<String>,

    /// Which version to migrate to.
    #[arg(long, value_name = "NUMBER")]
    to: Option<i32>,

    /// What the participant would have answered, as JSON, to complete a step.
    #[arg(long, value_name = "JSON")]
    reply: Option<String>,

    /// Every saga.
    #[arg(long)]
    all: bool,

    /// Why, in a sentence; it goes into each saga's history.
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// How many sagas a second at most, up to 1000.
    #[arg(long, default_value_t = 10, value_name = "NUMBER")]
    per_second: i32,

    /// Do it to a saga even if it has moved on since it was listed.
    #[arg(long)]
    allow_changed: bool,

    /// Names the request: the same one under the same key is not done again. A new one unless set.
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,

    /// Count, and say what would become of the oldest twenty.
    #[arg(long, conflicts_with_all = ["yes", "wait"])]
    dry_run: bool,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    wait: Wait,

    /// The bulk operation.
    id: Uuid,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ItemsArguments {
    #[command(flatten)]
    common: Common,

    /// The bulk operation.
    id: Uuid,

    /// Only these: done, refused, changed, gone or failed.
    #[arg(long)]
    result: Option<String>,

    /// Only those after this position.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CancelArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    author: Author,

    /// The bulk operation.
    id: Uuid,

    /// Why, in a sentence.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

const PLACE: &str = "bulk-operations";

pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Start(arguments) => start(*arguments).await,
        Command::List(arguments) => list(arguments).await,
        Command::Show(arguments) => {
            let service = arguments.common.service()?;
            let id = arguments.id.to_string();
            let bulk = service.get(&[PLACE, &id], Vec::new()).await?;
            follow(&arguments.common, &service, &arguments.wait, bulk).await
        }
        Command::Items(arguments) => of(arguments).await,
        Command::Cancel(arguments) => {
            let service = arguments.common.service()?;
            let id = arguments.id.to_string();
            let body = json!({"actor": arguments.author.by, "reason": arguments.reason});
            let path = [PLACE, &id, "cancel"];
            let bulk = service.post(&path, Vec::new(), None, &body).await?;
            tell(&arguments.common, &bulk)
        }
    }
}

async fn start(arguments: StartArguments) -> Result<()> {
    let service = arguments.common.service()?;
    let mut selection = arguments.filters.selection();
    if selection.is_empty() != arguments.all {
        return Err(Usage::new("say which sagas by filters, or --all").into());
    }
    if arguments.all {
        selection.insert("all".to_owned(), true.into());
    }
    let mut body = json!({
        "operation": arguments.operation,
        "selection": selection,
        "actor": arguments.author.by,
        "reason": arguments.reason,
        "per_second": arguments.per_second,
        "allow_changed": arguments.allow_changed,
    });
    if let Some(step) = arguments.step {
        body["step"] = step.into();
    }
    if let Some(to) = arguments.to {
        body["to"] = to.into();
    }
    if let Some(reply) = arguments.reply {
        body["reply"] = serde_json::from_str(&reply).context("--reply is not JSON")?;
    }
    if !arguments.yes {
        let dry = vec![("dry_run", Some("true".to_owned()))];
        let would = service.post(&[PLACE], dry, None, &body).await?;
        if arguments.dry_run {
            return prospect(&arguments.common, &would);
        }
        let what = format!("{} {} sagas", arguments.operation, would["count"]);
        confirm(&what, false)?;
        body["expected_count"] = would["count"].clone();
    }
    let key = arguments.key.unwrap_or_else(|| Uuid::now_v7().to_string());
    let bulk = service
        .post(&[PLACE], Vec::new(), Some(&key), &body)
        .await?;
    follow(&arguments.common, &service, &arguments.wait, bulk).await
}

/// Says how far it is; with `--wait`, once it has ended. Every saga must have had what was asked for.
async fn follow(common: &Common, service: &Service, wait: &Wait, bulk: Value) -> Result<()> {
    if !wait.wait {
        return tell(common, &bulk);
    }
    let id = text(&bulk["id"]);
    let of = |bulk: &Value, name: &str| bulk["sagas"][name].as_u64().unwrap_or(0);
    let mut last = bulk;
    let mut progress = Progress::of("sagas", common.is_json());
    let ended = wait.until(async || {
        last = service.get(&[PLACE, &id], Vec::new()).await?;
        let total = of(&last, "total");
        progress.tell(total.saturating_sub(of(&last, "pending")), Some(total));
        Ok((last["status"] != "running").then_some(()))
    });
    let ended = ended.await?;
    drop(progress);
    tell(common, &last)?;
    let (done, total) = (of(&last, "done"), of(&last, "total"));
    match ended {
        None => Err(wait.in_vain(format!(
            "{} of {total} sagas have had no turn yet",
            of(&last, "pending")
        ))),
        Some(()) if last["status"] == "done" && done == total => Ok(()),
        Some(()) => bail!(
            "only {done} of {total} sagas have had what was asked for; recompense saga bulk items {id} \
             says why"
        ),
    }
}

async fn list(arguments: ListArguments) -> Result<()> {
    let page = arguments
        .common
        .service()?
        .get(&[PLACE], Vec::new())
        .await?;
    let mut table = Table::new([
        "id",
        "operation",
        "status",
        "by",
        "pending",
        "of",
        "created",
    ]);
    for bulk in items(&page) {
        let [id, operation, status, by, created] =
            ["id", "operation", "status", "actor", "created_at"].map(|cell| text(&bulk[cell]));
        let [pending, total] = ["pending", "total"].map(|cell| text(&bulk["sagas"][cell]));
        table.row([id, operation, status, by, pending, total, created]);
    }
    shown(&arguments.common, &page, &table)
}

async fn of(arguments: ItemsArguments) -> Result<()> {
    let id = arguments.id.to_string();
    let query = vec![
        ("result", arguments.result),
        ("after", Some(arguments.after.to_string())),
        ("limit", Some("200".to_owned())),
    ];
    let service = arguments.common.service()?;
    let page = service.get(&[PLACE, &id, "items"], query).await?;
    let mut table = Table::new(["position", "saga", "result", "detail"]);
    for item in items(&page) {
        table.row(["position", "saga_id", "result", "detail"].map(|cell| text(&item[cell])));
    }
    shown(&arguments.common, &page, &table)
}

fn prospect(common: &Common, would: &Value) -> Result<()> {
    if common.is_json() {
        return print::json(would);
    }
    print::lines(&[format!("{} sagas; of the oldest:", would["count"])])?;
    let mut table = Table::new(["saga", "allowed", "because"]);
    for one in would["sample"].as_array().into_iter().flatten() {
        table.row(["saga_id", "allowed", "because"].map(|cell| text(&one[cell])));
    }
    print::table(&table)
}

fn tell(common: &Common, bulk: &Value) -> Result<()> {
    if common.is_json() {
        return print::json(bulk);
    }
    let mut facts = Facts::default();
    for name in [
        "id",
        "operation",
        "status",
        "actor",
        "reason",
        "per_second",
        "created_at",
    ] {
        facts.add(name, text(&bulk[name]));
    }
    for name in ["ended_at", "cancelled_by", "cancel_reason"] {
        let value = Some(text(&bulk[name])).filter(|value| !value.is_empty());
        facts.add_some(name, value);
    }
    facts.add("selection", text(&bulk["selection"]));
    for name in [
        "total", "pending", "done", "refused", "changed", "gone", "failed",
    ] {
        facts.add(name, text(&bulk["sagas"][name]));
    }
    print::lines(&facts.lines())
}
