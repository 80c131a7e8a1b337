//! `/sagas`: the list, filtered by its URL.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use chrono::{DateTime, Utc};

use crate::{
    api::{Count, Counted, Refused, Sagas, Summary, Visitor},
    house::Dashboard,
    pages::{
        filter::Filter,
        filters,
        frame::{Frame, refuse, refuse_part, show},
    },
    words,
};

/// Which filters select sagas: in the list, and for what is done to many.
pub(crate) const SELECTION: [&str; 10] = [
    "definition",
    "version",
    "status",
    "business_key",
    "business_key_prefix",
    "tag",
    "waiting_for",
    "stuck_for",
    "created_after",
    "created_before",
];
/// What never changes of a saga, and so what the stream of the list can be filtered by.
const LASTING: [&str; 7] = [
    "definition",
    "version",
    "business_key",
    "business_key_prefix",
    "tag",
    "created_after",
    "created_before",
];
const STATUSES: [&str; 6] = [
    "running",
    "compensating",
    "parked",
    "completed",
    "compensated",
    "abandoned",
];

/// The name in the URL, the label, and an example.
type Field = (&'static str, &'static str, &'static str);

#[derive(Template)]
#[template(path = "sagas.html")]
struct Page {
    frame: Frame,
    filter: Filter,
    query: String,
    lasting: String,
    /// Where something is done to all of these.
    bulk: String,
    live: bool,
    fields: [Field; 4],
    waits: [(&'static str, &'static str); 8],
    stuck: [&'static str; 5],
    chips: Chips,
    rows: Rows,
}

#[derive(Template)]
#[template(path = "rows.html")]
struct Rows {
    rows: Vec<Row>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "chips.html")]
struct Chips {
    chips: Vec<Chip>,
}

struct Row {
    at: String,
    until: Option<DateTime<Utc>>,
    started: String,
    moved: String,
    saga: Summary,
}

/// A status to choose.
struct Chip {
    label: &'static str,
    tone: &'static str,
    link: String,
    is_on: bool,
    count: Option<Counted>,
}

/// The list of sagas
///
/// Takes the filters of `GET /v1/sagas`, and lives as long as it is looked at.
#[utoipa::path(get, path = "/sagas", tag = "pages", operation_id = "sagas_page",
    params(
        ("status" = Option<String>, Query, description = "As in GET /v1/sagas, and so the other filters"),
        ("definition" = Option<String>, Query, description = "Of that definition"),
        ("business_key" = Option<String>, Query, description = "With that business key"),
        ("waiting_for" = Option<String>, Query, description = "That wait for that"),
        ("stuck_for" = Option<String>, Query, description = "That have not moved for so long"),
        ("cursor" = Option<String>, Query, description = "Of the link to older ones")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn list(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let filter = asked(query.as_deref());
    let rows = match find(&dashboard, &visitor, &filter).await {
        Ok(found) => found,
        Err(refused) => return refuse(&dashboard, &visitor, refused),
    };
    show(&Page {
        frame: Frame::new(&dashboard, &visitor, "/sagas"),
        query: filter.query(),
        lasting: filter.only(&LASTING).after_path(),
        bulk: format!(
            "/bulk-operations/new{}",
            filter.only(&SELECTION).after_path()
        ),
        // Older pages do not change by themselves.
        live: filter.get("cursor").is_empty(),
        fields: [
            ("definition", "Definition", "order-fulfilment"),
            ("business_key", "Business key", "exactly"),
            ("business_key_prefix", "Key begins with", ""),
            ("tag", "Tag", "name:value"),
        ],
        waits: [
            ("reply", "an answer"),
            ("backoff", "the next attempt"),
            ("round", "the next round"),
            ("probe", "what became of it"),
            ("lock", "a lock"),
            ("late_reply", "a late answer"),
            ("person", "a person"),
            ("relay", "the relay"),
        ],
        stuck: ["10s", "1m", "10m", "1h", "1d"],
        chips: Chips::of(&filter, None),
        rows,
        filter,
    })
}

/// The rows of the list
#[utoipa::path(get, path = "/sagas/rows", tag = "pages", operation_id = "sagas_rows_part",
    responses((status = 200, description = "A part of a page", content_type = "text/html",
        body = String)))]
pub(crate) async fn rows(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let filter = asked(query.as_deref());
    match find(&dashboard, &visitor, &filter).await {
        Ok(found) => show(&found),
        Err(refused) => refuse_part(refused),
    }
}

/// The list's filters, and which page of it.
fn asked(query: Option<&str>) -> Filter {
    Filter::of(query, &[&SELECTION[..], &["limit", "cursor"]].concat())
}

/// The statuses with their counts
#[utoipa::path(get, path = "/sagas/chips", tag = "pages", operation_id = "sagas_chips_part",
    responses((status = 200, description = "A part of a page", content_type = "text/html",
        body = String)))]
pub(crate) async fn chips_part(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let filter = asked(query.as_deref());
    let others = filter.without(&["status", "cursor", "limit"]);
    let path = format!("/sagas/count{}", others.after_path());
    match dashboard.own().get::<Count>(&visitor, &path).await {
        Ok(count) => show(&Chips::of(&filter, Some(&count))),
        Err(refused) => refuse_part(refused),
    }
}

async fn find(dashboard: &Dashboard, visitor: &Visitor, filter: &Filter) -> Result<Rows, Refused> {
    let path = format!("/sagas{}", filter.after_path());
    let found: Sagas = dashboard.own().get(visitor, &path).await?;
    let now = Utc::now();
    let next = found.next_cursor.map(|cursor| {
        let next = filter.with("cursor", &cursor);
        format!("/sagas{}", next.after_path())
    });
    Ok(Rows {
        rows: found.items.into_iter().map(|saga| row(saga, now)).collect(),
        next,
    })
}

fn row(saga: Summary, now: DateTime<Utc>) -> Row {
    Row {
        at: words::sentence(&saga, now),
        until: saga.waiting.as_ref().and_then(|waiting| waiting.until),
        started: words::moment(saga.created_at, now),
        moved: format!("{} ago", words::between(saga.updated_at, now)),
        saga,
    }
}

impl Chips {
    fn of(filter: &Filter, count: Option<&Count>) -> Self {
        let on = filter.get("status");
        let chip = |status: &'static str| Chip {
            label: match status {
                "" => "all",
                status => status,
            },
            tone: words::tone(status),
            link: format!(
                "/sagas{}",
                filter
                    .without(&["cursor"])
                    .with("status", status)
                    .after_path()
            ),
            is_on: on == status,
            count: count.map(|count| match status {
                "" => count.total(),
                status => count.of(status),
            }),
        };
        let chips = std::iter::once("").chain(STATUSES).map(chip).collect();
        Self { chips }
    }
}
