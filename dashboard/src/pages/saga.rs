//! `/sagas/{id}`: one saga.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::{HeaderMap, header::HOST},
    response::Response,
};
use chassis::http::auth::Role;
use chrono::{DateTime, Utc};
use futures::join;
use serde_json::json;
use uuid::Uuid;

use crate::{
    api::{
        Allowed, Events, Message, Messages, Recorded, Refused, Saga, Step, UnreadableEvent, Visitor,
    },
    house::Dashboard,
    pages::{
        filters,
        frame::{Frame, refuse, refuse_part, show},
    },
    timeline::Timeline,
    words,
};

/// How much of a history a page shows, up to its end: what happens now is what people look for. Sagas
/// seldom have fifty events.
const EVENTS: i64 = 500;
/// How much is asked for: with what was recorded meanwhile.
const ASKED: i64 = 2 * EVENTS;

#[derive(Template)]
#[template(path = "saga.html")]
struct Page {
    frame: Frame,
    state: StatePart,
    operations: OperationsPart,
}

/// Where it is: asked for again whenever something was recorded.
#[derive(Template)]
#[template(path = "state.html")]
struct StatePart {
    saga: Saga,
    sentence: String,
    until: Option<DateTime<Utc>>,
    then: &'static str,
    started: String,
    /// Each once, in order.
    traces: Vec<Trace>,
    timeline: Timeline,
    graph: Result<String, Refused>,
    messages: Vec<Message>,
    unreadable: Vec<UnreadableEvent>,
    events: Vec<Recorded>,
    /// How many events come before those that are shown.
    earlier: i64,
    base: String,
    own: String,
}

/// A trace, and where it is shown.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    id: String,
    url: String,
}

impl Trace {
    /// Of these messages, as far as it is known where traces are shown.
    fn all_of(messages: &[Message], url_of: impl Fn(&str) -> Option<String>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for id in messages
            .iter()
            .filter_map(|message| message.trace_id.as_ref())
        {
            let is_new = !all.iter().any(|trace| trace.id == *id);
            if let Some(url) = url_of(id).filter(|_| is_new) {
                let id = id.clone();
                all.push(Self { id, url });
            }
        }
        all
    }
}

impl StatePart {
    fn trace_of(&self, message: &Message) -> Option<&Trace> {
        let id = message.trace_id.as_ref()?;
        self.traces.iter().find(|trace| trace.id == *id)
    }
}

/// What may be done now.
#[derive(Template)]
#[template(path = "operations.html")]
struct OperationsPart {
    operations: Vec<Operation>,
    seq: i64,
    steps: Vec<Step>,
    actor: Option<String>,
    may_act: bool,
}

/// What a person may do, or why not.
struct Operation {
    name: String,
    label: &'static str,
    about: &'static str,
    allowed: bool,
    because: String,
    action: String,
    key: String,
    curl: String,
}

impl Operation {
    fn of(saga: &Saga, allowed: &Allowed, base: &str) -> Self {
        let (label, about) = described(&allowed.name);
        let id = saga.summary.id;
        let body = json!({
            "operation": allowed.name, "actor": "you", "reason": "why",
            "expected_seq": saga.summary.seq,
        });
        let key = Uuid::now_v7().to_string();
        Self {
            label,
            about,
            allowed: allowed.allowed,
            because: allowed.because.clone().unwrap_or_default(),
            action: format!("/sagas/{id}/operations"),
            curl: format!(
                "curl -s -X POST {base}/v1/sagas/{id}/operations -H 'Content-Type: application/json' \
                 -H 'Idempotency-Key: {key}' -d '{body}'"
            ),
            key,
            name: allowed.name.clone(),
        }
    }

    /// What gives work up for good is an admin's.
    fn unless_given_up(mut self, may: bool) -> Self {
        let gives_up = matches!(self.name.as_str(), "abandon" | "skip_compensation");
        if gives_up && !may && self.allowed {
            self.allowed = false;
            self.because = "only an admin may: it gives work up for good".to_owned();
        }
        self
    }

    fn wants_step(&self) -> bool {
        matches!(
            self.name.as_str(),
            "retry" | "complete_step" | "skip_compensation"
        )
    }

    /// Whether it cannot be taken back.
    fn is_grave(&self) -> bool {
        matches!(
            self.name.as_str(),
            "cancel" | "abandon" | "complete_step" | "skip_compensation"
        )
    }
}

pub(crate) fn described(name: &str) -> (&'static str, &'static str) {
    match name {
        "pause" => (
            "Pause",
            "It sends nothing until it is resumed. Answers still count.",
        ),
        "resume" => ("Resume", "It goes on where it stopped."),
        "cancel" => ("Cancel", "It turns back, and what took effect is undone."),
        "retry" => ("Retry", "It does now what it waits to do again."),
        "complete_step" => (
            "Complete a step",
            "You say that a step took effect, and what it answered.",
        ),
        "skip_compensation" => (
            "Skip an undoing",
            "You say that a step needs no undoing any more.",
        ),
        "abandon" => ("Abandon", "It ends as it stands. What took effect stays."),
        "migrate" => (
            "Migrate",
            "It goes on under another version of its definition.",
        ),
        _ => ("Do it", "See the documentation of the API."),
    }
}

/// One saga
///
/// What it waits for, its timeline, graph, messages and history, live; what a person may do.
#[utoipa::path(get, path = "/sagas/{id}", tag = "pages", operation_id = "saga_page",
    params(("id" = Uuid, Path, description = "Which")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn page(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    headers: HeaderMap,
    visitor: Visitor,
) -> Response {
    match look(&dashboard, &visitor, &id, &base(&headers)).await {
        Ok(state) => show(&Page {
            frame: Frame::new(&dashboard, &visitor, "/sagas"),
            operations: OperationsPart::of(&state.saga, &visitor, &state.base),
            state,
        }),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}

/// Where a saga is
#[utoipa::path(get, path = "/sagas/{id}/state", tag = "pages", operation_id = "saga_state_part",
    params(("id" = Uuid, Path, description = "Which")),
    responses((status = 200, description = "A part of a page", content_type = "text/html",
        body = String)))]
pub(crate) async fn state(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    headers: HeaderMap,
    visitor: Visitor,
) -> Response {
    match look(&dashboard, &visitor, &id, &base(&headers)).await {
        Ok(part) => show(&part),
        Err(refused) => refuse_part(refused),
    }
}

/// What may be done to a saga
#[utoipa::path(get, path = "/sagas/{id}/operations", tag = "pages",
    operation_id = "saga_operations_part",
    params(("id" = Uuid, Path, description = "Which")),
    responses((status = 200, description = "A part of a page", content_type = "text/html",
        body = String)))]
pub(crate) async fn operations(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    headers: HeaderMap,
    visitor: Visitor,
) -> Response {
    let path = match path_of(&id) {
        Ok(path) => path,
        Err(refused) => return refuse_part(refused),
    };
    match dashboard.own().get::<Saga>(&visitor, &path).await {
        Ok(saga) => show(&OperationsPart::of(&saga, &visitor, &base(&headers))),
        Err(refused) => refuse_part(refused),
    }
}

impl OperationsPart {
    fn of(saga: &Saga, visitor: &Visitor, base: &str) -> Self {
        let allowed = saga.allowed_operations.iter();
        let allowed = allowed.map(|allowed| Operation::of(saga, allowed, base));
        let may_give_up = visitor.may(Role::Admin);
        let allowed = allowed.map(|operation| operation.unless_given_up(may_give_up));
        let mut operations: Vec<_> = allowed.collect();
        // What can be done first; otherwise as the API has it.
        operations.sort_by_key(|operation| !operation.allowed);
        Self {
            operations,
            seq: saga.summary.seq,
            steps: saga.steps.clone(),
            actor: visitor.name(),
            may_act: visitor.may(Role::Operator),
        }
    }
}

async fn look(
    dashboard: &Dashboard,
    visitor: &Visitor,
    id: &str,
    base: &str,
) -> Result<StatePart, Refused> {
    let path = path_of(id)?;
    let api = dashboard.own();
    let saga: Saga = api.get(visitor, &path).await?;
    let earlier = (saga.summary.seq - EVENTS).max(0);
    let paths = [
        format!("{path}/events?after={earlier}&limit={ASKED}"),
        format!("{path}/messages?after={earlier}&limit={ASKED}"),
        format!("{path}/graph?format=svg"),
    ];
    let (events, messages, graph) = join!(
        api.get::<Events>(visitor, &paths[0]),
        api.get::<Messages>(visitor, &paths[1]),
        api.text(visitor, &paths[2]),
    );
    let (events, messages) = (events?, messages?);
    let now = Utc::now();
    let waiting = saga.summary.waiting.as_ref();
    let (until, what) = match waiting {
        Some(waiting) => (waiting.until, waiting.what.as_str()),
        None => (None, ""),
    };
    Ok(StatePart {
        sentence: words::sentence(&saga.summary, now),
        then: words::then(what),
        until,
        started: words::moment(saga.summary.created_at, now),
        traces: Trace::all_of(&messages.messages, |id| dashboard.trace(id)),
        timeline: Timeline::of(
            &saga.steps,
            &events.events,
            saga.summary.ended_at.unwrap_or(now),
        ),
        graph,
        messages: messages.messages,
        unreadable: messages.unreadable,
        earlier,
        events: events.events,
        base: base.to_owned(),
        own: api.name().to_owned(),
        saga,
    })
}

/// In the API. An id that is none has no place there.
pub(crate) fn path_of(id: &str) -> Result<String, Refused> {
    let id: Uuid = id.parse().map_err(|_| Refused {
        status: 404,
        title: "Not found".to_owned(),
        detail: "there is no saga with this id".to_owned(),
    })?;
    Ok(format!("/sagas/{id}"))
}

/// How whoever looks reaches the API: the way he came.
fn base(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = match text("x-forwarded-proto") {
        Some("https") => "https",
        _ => "http",
    };
    let host = text("x-forwarded-host").or(text(HOST.as_str()));
    // It ends up in a command line: a host has no other characters.
    let is_host = |host: &&str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        !host.is_empty() && host.bytes().all(fits)
    };
    format!("{scheme}://{}", host.filter(is_host).unwrap_or("localhost"))
}
