//! `/locks`: who holds what, and who waits.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};

use crate::{
    api::{Locks, Visitor},
    house::Dashboard,
    pages::{
        filter::Filter,
        filters,
        frame::{Frame, refuse, show},
    },
};

#[derive(Template)]
#[template(path = "locks.html")]
struct Page {
    frame: Frame,
    locks: Locks,
}

/// Claimed resources
#[utoipa::path(get, path = "/locks", tag = "pages", operation_id = "locks_page",
    params(("cursor" = Option<String>, Query, description = "Of the link to more")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn page(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let asked = Filter::of(query.as_deref(), &["cursor"]);
    let path = format!("/locks{}", asked.after_path());
    match dashboard.own().get::<Locks>(&visitor, &path).await {
        Ok(found) => show(&Page {
            frame: Frame::new(&dashboard, &visitor, "/locks"),
            locks: found,
        }),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}
