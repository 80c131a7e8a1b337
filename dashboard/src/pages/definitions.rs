//! `/definitions`: what kinds of sagas there are.

use askama::Template;
use axum::{extract::State, response::Response};

use crate::{
    api::{Definition, Definitions, Visitor},
    house::Dashboard,
    pages::{
        filters,
        frame::{Frame, refuse, show},
    },
};

#[derive(Template)]
#[template(path = "definitions.html")]
struct Page {
    frame: Frame,
    definitions: Vec<Definition>,
}

/// Every version of every definition, with its sagas
#[utoipa::path(get, path = "/definitions", tag = "pages", operation_id = "definitions_page",
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn page(State(dashboard): State<Dashboard>, visitor: Visitor) -> Response {
    match dashboard
        .own()
        .get::<Definitions>(&visitor, "/definitions")
        .await
    {
        Ok(found) => show(&Page {
            frame: Frame::new(&dashboard, &visitor, "/definitions"),
            definitions: found.items,
        }),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}
