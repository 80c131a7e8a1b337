//! What is only looked at.

use anyhow::Result;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    print::{self, Facts, Table},
    saga::{filters::Filters, follow},
    service::{Common, at_least, items, shown, text},
};

/// Nothing but the service.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
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
pub(crate) struct CountArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filters: Filters,

    /// status, definition or waiting_for.
    #[arg(long, default_value = "status", value_name = "WHAT")]
    by: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OneArguments {
    #[command(flatten)]
    common: Common,

    /// The saga.
    id: Uuid,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GraphArguments {
    #[command(flatten)]
    common: Common,

    /// The saga.
    id: Uuid,

    /// mermaid for Markdown, svg for a browser.
    #[arg(long, default_value = "mermaid", value_parser = ["mermaid", "svg"], value_name = "FORMAT")]
    format: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PageArguments {
    #[command(flatten)]
    common: Common,

    /// The saga.
    id: Uuid,

    /// Only those after the event of this number.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i64,

    /// How many at most, up to 1000.
    #[arg(long, default_value_t = 200, value_name = "NUMBER")]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    common: Common,

    /// The saga.
    id: Uuid,

    /// Only those after this number.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i64,

    /// How many at most, up to 1000.
    #[arg(
        long,
        default_value_t = 200,
        value_name = "NUMBER",
        conflicts_with = "follow"
    )]
    limit: u32,

    /// Go on with what happens, until the saga has ended or you press Ctrl-C. One line an event.
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AnomaliesArguments {
    #[command(flatten)]
    common: Common,

    /// Only of this kind: after_terminal, late_success, contradiction or null_compensated.
    #[arg(long)]
    kind: Option<String>,

    /// Only of this definition.
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,

    /// Only of this saga.
    #[arg(long, value_name = "ID")]
    saga: Option<Uuid>,

    /// How many at most, up to 200.
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    limit: u32,

    /// The `next_cursor` of the page before.
    #[arg(long, value_name = "TEXT")]
    cursor: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LocksArguments {
    #[command(flatten)]
    common: Common,

    /// Only this resource.
    #[arg(long, value_name = "NAME")]
    resource: Option<String>,

    /// Only what this saga claims.
    #[arg(long, value_name = "ID")]
    saga: Option<Uuid>,

    /// Only what somebody waits for.
    #[arg(long)]
    waiting: bool,
}

pub(crate) async fn list(arguments: ListArguments) -> Result<()> {
    let mut query = arguments.filters.query();
    query.push(("limit", Some(arguments.limit.to_string())));
    query.push(("cursor", arguments.cursor));
    let page = arguments.common.service()?.get(&["sagas"], query).await?;
    let mut table = Table::new([
        "id",
        "definition",
        "key",
        "status",
        "waits for",
        "step",
        "until",
        "reason",
    ]);
    for saga in items(&page) {
        let waiting = &saga["waiting"];
        let reason = [&saga["unreadable"], &saga["parked_reason"], &saga["reason"]].map(text);
        table.row([
            text(&saga["id"]),
            format!("{} {}", text(&saga["definition"]), saga["version"]),
            text(&saga["business_key"]),
            status(saga),
            text(&waiting["for"]),
            text(&waiting["step"]),
            text(&waiting["until"]),
            reason
                .into_iter()
                .find(|reason| !reason.is_empty())
                .unwrap_or_default(),
        ]);
    }
    shown(&arguments.common, &page, &table)
}

pub(crate) async fn count(arguments: CountArguments) -> Result<()> {
    let mut query = arguments.filters.query();
    query.push(("group_by", Some(arguments.by.clone())));
    let service = arguments.common.service()?;
    let count = service.get(&["sagas", "count"], query).await?;
    let mut table = Table::new([arguments.by.as_str(), "sagas"]);
    for group in count["groups"].as_array().into_iter().flatten() {
        table.row([text(&group["value"]), at_least(group, "count")]);
    }
    table.row(["total".to_owned(), at_least(&count, "total")]);
    shown(&arguments.common, &count, &table)
}

pub(crate) async fn show(arguments: OneArguments) -> Result<()> {
    let saga = one(&arguments).await?;
    if arguments.common.is_json() {
        return print::json(&saga);
    }
    let mut facts = Facts::default();
    for name in ["id", "definition", "version", "business_key"] {
        facts.add(name, text(&saga[name]));
    }
    facts.add("status", status(&saga));
    for name in [
        "unreadable",
        "reason",
        "parked_reason",
        "deadline",
        "ended_at",
    ] {
        let value = Some(text(&saga[name])).filter(|value| !value.is_empty());
        facts.add_some(name, value);
    }
    if saga["waiting"].is_object() {
        let waiting = ["for", "step", "phase", "round", "attempt"];
        let waiting = waiting.map(|name| text(&saga["waiting"][name]));
        let [what, step, phase, round, attempt] = waiting;
        let until = text(&saga["waiting"]["until"]);
        facts.add(
            "waits for",
            format!("{what} of {step} ({phase}, round {round}, attempt {attempt}) until {until}"),
        );
    }
    facts.add("seq", text(&saga["seq"]));
    let allowed = operations(&saga).filter(|operation| operation["allowed"] == true);
    let allowed: Vec<_> = allowed.map(|operation| text(&operation["name"])).collect();
    facts.add("allowed", allowed.join(", "));
    print::lines(&facts.lines())?;
    let mut table = Table::new(["step", "status", "round", "attempt", "waits for", "until"]);
    for step in saga["steps"].as_array().into_iter().flatten() {
        let cells = ["name", "status", "round", "attempt", "waiting", "until"];
        table.row(cells.map(|cell| text(&step[cell])));
    }
    print::table(&table)
}

pub(crate) async fn allowed(arguments: OneArguments) -> Result<()> {
    let saga = one(&arguments).await?;
    let mut table = Table::new(["operation", "allowed", "because"]);
    for operation in operations(&saga) {
        table.row(["name", "allowed", "because"].map(|cell| text(&operation[cell])));
    }
    shown(&arguments.common, &saga["allowed_operations"], &table)
}

pub(crate) async fn graph(arguments: GraphArguments) -> Result<()> {
    let id = arguments.id.to_string();
    let service = arguments.common.service()?;
    let query = vec![("format", Some(arguments.format.clone()))];
    let drawn = service.text(&["sagas", &id, "graph"], query).await?;
    match arguments.common.is_json() {
        true => print::json(&json!({"format": arguments.format, "graph": drawn})),
        false => print::text(&print::printable_lines(drawn.trim_end())),
    }
}

pub(crate) async fn messages(arguments: PageArguments) -> Result<()> {
    let id = arguments.id.to_string();
    let query = vec![
        ("after", Some(arguments.after.to_string())),
        ("limit", Some(arguments.limit.to_string())),
    ];
    let service = arguments.common.service()?;
    let page = service.get(&["sagas", &id, "messages"], query).await?;
    let mut table = Table::new([
        "at",
        "way",
        "step",
        "phase",
        "attempt",
        "topic",
        "partition",
        "offset",
        "outcome",
        "parked",
        "trace",
    ]);
    for message in page["messages"].as_array().into_iter().flatten() {
        let way = match message["direction"].as_str() {
            Some("command") => "→",
            _ => "←",
        };
        let of = |name: &str| text(&message[name]);
        table.row([
            of("at"),
            way.to_owned(),
            of("step"),
            of("phase"),
            of("attempt"),
            of("topic"),
            of("partition"),
            of("offset"),
            of("outcome"),
            of("parked"),
            of("trace_id"),
        ]);
    }
    shown(&arguments.common, &page, &table)
}

pub(crate) async fn events(arguments: EventsArguments) -> Result<()> {
    let id = arguments.id.to_string();
    if arguments.follow {
        return follow::follow(&arguments.common, &id, arguments.after).await;
    }
    let query = vec![
        ("after", Some(arguments.after.to_string())),
        ("limit", Some(arguments.limit.to_string())),
    ];
    let service = arguments.common.service()?;
    let page = service.get(&["sagas", &id, "events"], query).await?;
    let mut table = Table::new(["seq", "at", "event", "step", "what"]);
    for recorded in page["events"].as_array().into_iter().flatten() {
        let event = &recorded["event"];
        table.row([
            text(&recorded["seq"]),
            text(&recorded["at"]),
            text(&event["type"]),
            text(&event["step"]),
            what(event),
        ]);
    }
    shown(&arguments.common, &page, &table)
}

pub(crate) async fn definitions(arguments: Arguments) -> Result<()> {
    let service = arguments.common.service()?;
    let page = service.get(&["definitions"], Vec::new()).await?;
    let mut table = Table::new([
        "definition",
        "version",
        "open",
        "ended",
        "known here",
        "hash",
    ]);
    for definition in items(&page) {
        let [name, version, known_here, hash] =
            ["name", "version", "known_here", "hash"].map(|cell| text(&definition[cell]));
        let [open, ended] = ["open", "ended"].map(|cell| at_least(definition, cell));
        table.row([name, version, open, ended, known_here, hash]);
    }
    shown(&arguments.common, &page, &table)
}

pub(crate) async fn anomalies(arguments: AnomaliesArguments) -> Result<()> {
    let query = vec![
        ("kind", arguments.kind),
        ("definition", arguments.definition),
        ("saga_id", arguments.saga.map(|id| id.to_string())),
        ("limit", Some(arguments.limit.to_string())),
        ("cursor", arguments.cursor),
    ];
    let service = arguments.common.service()?;
    let page = service.get(&["anomalies"], query).await?;
    let mut table = Table::new([
        "at",
        "kind",
        "saga",
        "seq",
        "definition",
        "step",
        "phase",
        "round",
        "outcome",
    ]);
    for anomaly in items(&page) {
        let cells = [
            "recorded_at",
            "kind",
            "saga_id",
            "seq",
            "definition",
            "step",
            "phase",
            "round",
            "outcome",
        ];
        table.row(cells.map(|cell| text(&anomaly[cell])));
    }
    shown(&arguments.common, &page, &table)
}

pub(crate) async fn locks(arguments: LocksArguments) -> Result<()> {
    let query = vec![
        ("resource", arguments.resource),
        ("saga_id", arguments.saga.map(|id| id.to_string())),
        ("waiting", arguments.waiting.then(|| "true".to_owned())),
        ("limit", Some("200".to_owned())),
    ];
    let page = arguments.common.service()?.get(&["locks"], query).await?;
    let mut table = Table::new([
        "resource", "used", "capacity", "holding", "waiting", "held by",
    ]);
    for lock in items(&page) {
        let [resource, used, capacity, holding, waiting] =
            ["resource", "used", "capacity", "holding", "waiting"].map(|cell| text(&lock[cell]));
        let holder = text(&lock["holders"][0]["saga_id"]);
        table.row([resource, used, capacity, holding, waiting, holder]);
    }
    shown(&arguments.common, &page, &table)
}

async fn one(arguments: &OneArguments) -> Result<Value> {
    let id = arguments.id.to_string();
    arguments
        .common
        .service()?
        .get(&["sagas", &id], Vec::new())
        .await
}

fn operations(saga: &Value) -> impl Iterator<Item = &Value> {
    saga["allowed_operations"].as_array().into_iter().flatten()
}

fn status(saga: &Value) -> String {
    let mut status = text(&saga["status"]);
    for (field, word) in [("paused", ", paused"), ("late", ", late")] {
        if saga[field] == true {
            status.push_str(word);
        }
    }
    status
}

/// What a person wants to know of an event first, without anybody's data.
pub(crate) fn what(event: &Value) -> String {
    let told = [
        "operation",
        "actor",
        "reason",
        "phase",
        "round",
        "attempt",
        "outcome",
        "resource",
        "to",
        "unreadable",
    ];
    let told = told.iter().filter(|name| !event[**name].is_null());
    let told: Vec<_> = told
        .map(|name| format!("{name}={}", text(&event[*name])))
        .collect();
    told.join(" ")
}
