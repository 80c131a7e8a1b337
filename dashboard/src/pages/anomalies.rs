//! `/anomalies`: what should not have happened.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};

use crate::{
    api::{Anomalies, Visitor},
    house::Dashboard,
    pages::{
        filter::Filter,
        filters,
        frame::{Frame, refuse, show},
    },
};

#[derive(Template)]
#[template(path = "anomalies.html")]
struct Page {
    frame: Frame,
    anomalies: Anomalies,
}

/// What should not have happened
#[utoipa::path(get, path = "/anomalies", tag = "pages", operation_id = "anomalies_page",
    params(("cursor" = Option<String>, Query, description = "Of the link to more")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn page(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let asked = Filter::of(query.as_deref(), &["cursor"]);
    let path = format!("/anomalies{}", asked.after_path());
    match dashboard.own().get::<Anomalies>(&visitor, &path).await {
        Ok(found) => show(&Page {
            frame: Frame::new(&dashboard, &visitor, "/anomalies"),
            anomalies: found,
        }),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}
