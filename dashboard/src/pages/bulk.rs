//! `/bulk-operations`: what was asked of many sagas, and how far it is.

use askama::Template;
use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use chassis::http::auth::Role;
use uuid::Uuid;

use crate::{
    api::{Bulk, BulkItem, BulkItems, Bulks, Refused, Visitor},
    house::Dashboard,
    pages::{
        filter::Filter,
        filters,
        frame::{Frame, refuse, refuse_part, show},
        parked::unknown,
    },
};

/// What `GET /v1/bulk-operations/{id}/items` is asked.
const KNOWN: [&str; 3] = ["result", "after", "limit"];

#[derive(Template)]
#[template(path = "bulks.html")]
struct Page {
    frame: Frame,
    rows: Rows,
}

#[derive(Template)]
#[template(path = "bulk_rows.html")]
struct Rows {
    bulks: Vec<Bulk>,
}

#[derive(Template)]
#[template(path = "bulk.html")]
struct OnePage {
    frame: Frame,
    progress: ProgressPart,
}

/// How far one is: asked for again until it has ended.
#[derive(Template)]
#[template(path = "bulk_progress.html")]
struct ProgressPart {
    bulk: Bulk,
    query: String,
    chips: [Chip; 6],
    items: Vec<BulkItem>,
    next: Option<String>,
    actor: Option<String>,
    may_stop: bool,
}

/// A result to choose.
struct Chip {
    label: &'static str,
    link: String,
    is_on: bool,
    count: i64,
}

/// What was asked of many sagas
#[utoipa::path(get, path = "/bulk-operations", tag = "pages", operation_id = "bulk_operations_page",
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn list(State(dashboard): State<Dashboard>, visitor: Visitor) -> Response {
    match newest(&dashboard, &visitor).await {
        Ok(rows) => show(&Page {
            frame: Frame::new(&dashboard, &visitor, "/bulk-operations"),
            rows,
        }),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}

/// The rows of that list
#[utoipa::path(get, path = "/bulk-operations/rows", tag = "pages",
    operation_id = "bulk_operations_rows_part",
    responses((status = 200, description = "A part of a page", content_type = "text/html",
        body = String)))]
pub(crate) async fn rows(State(dashboard): State<Dashboard>, visitor: Visitor) -> Response {
    match newest(&dashboard, &visitor).await {
        Ok(rows) => show(&rows),
        Err(refused) => refuse_part(refused),
    }
}

/// One bulk operation
///
/// How far it is, live, and what became of each saga.
#[utoipa::path(get, path = "/bulk-operations/{id}", tag = "pages", operation_id = "bulk_operation_page",
    params(
        ("id" = Uuid, Path, description = "Which"),
        ("result" = Option<String>, Query, description = "Only sagas with that result"),
        ("after" = Option<String>, Query, description = "Of the link to more")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn one(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    match look(&dashboard, &visitor, &id, query.as_deref()).await {
        Ok(progress) => show(&OnePage {
            frame: Frame::new(&dashboard, &visitor, "/bulk-operations"),
            progress,
        }),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}

/// How far a bulk operation is
#[utoipa::path(get, path = "/bulk-operations/{id}/progress", tag = "pages",
    operation_id = "bulk_operation_progress_part",
    params(("id" = Uuid, Path, description = "Which")),
    responses((status = 200, description = "A part of a page", content_type = "text/html",
        body = String)))]
pub(crate) async fn progress(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    match look(&dashboard, &visitor, &id, query.as_deref()).await {
        Ok(part) => show(&part),
        Err(refused) => refuse_part(refused),
    }
}

async fn newest(dashboard: &Dashboard, visitor: &Visitor) -> Result<Rows, Refused> {
    let found: Bulks = dashboard.own().get(visitor, "/bulk-operations").await?;
    Ok(Rows { bulks: found.items })
}

async fn look(
    dashboard: &Dashboard,
    visitor: &Visitor,
    id: &str,
    query: Option<&str>,
) -> Result<ProgressPart, Refused> {
    let path = path_of(id)?;
    let filter = Filter::of(query, &KNOWN);
    let api = dashboard.own();
    // The sagas first: a turn between the two questions shows in the second.
    let items = format!("{path}/items{}", filter.after_path());
    let items: BulkItems = api.get(visitor, &items).await?;
    let bulk: Bulk = api.get(visitor, &path).await?;
    let next = items.next_after.map(|after| {
        let next = filter.with("after", &after.to_string());
        format!("{path}{}", next.after_path())
    });
    Ok(ProgressPart {
        chips: chips(&bulk, &path, &filter),
        query: filter.after_path(),
        items: items.items,
        next,
        actor: visitor.name(),
        may_stop: bulk.is_running() && visitor.may(Role::Admin),
        bulk,
    })
}

fn chips(bulk: &Bulk, path: &str, filter: &Filter) -> [Chip; 6] {
    let sagas = &bulk.sagas;
    [
        ("", sagas.total),
        ("done", sagas.done),
        ("refused", sagas.refused),
        ("changed", sagas.changed),
        ("gone", sagas.gone),
        ("failed", sagas.failed),
    ]
    .map(|(result, count)| {
        let narrowed = filter.without(&["after"]).with("result", result);
        Chip {
            label: if result.is_empty() { "all" } else { result },
            link: format!("{path}{}", narrowed.after_path()),
            is_on: filter.is("result", result),
            count,
        }
    })
}

/// In the API and among the pages. An id that is none has no place there.
pub(crate) fn path_of(id: &str) -> Result<String, Refused> {
    let id: Uuid = id.parse().map_err(|_| unknown("bulk operation"))?;
    Ok(format!("/bulk-operations/{id}"))
}
