//! `/parked`: what could not be sent or handled, of every service.

use askama::Template;
use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use chassis::http::auth::Role;

use crate::{
    api::{ParkedList, Refused, Shown, Visitor},
    house::Dashboard,
    pages::{
        each::{self, Group},
        filter::Filter,
        filters,
        frame::{Frame, refuse, show},
    },
};

/// What `GET /v1/parked` is asked.
pub(crate) const ASKED: [&str; 5] = ["class", "topic", "key", "consumer", "side"];
const KNOWN: [&str; 7] = [
    "service", "cursor", "class", "topic", "key", "consumer", "side",
];

#[derive(Template)]
#[template(path = "parked.html")]
struct Page {
    frame: Frame,
    filter: Filter,
    names: Vec<String>,
    classes: [&'static str; 6],
    groups: Vec<Group<ParkedList>>,
    actor: Option<String>,
    may_discard: bool,
}

#[derive(Template)]
#[template(path = "parked_one.html")]
struct OnePage {
    frame: Frame,
    service: String,
    shown: Shown,
}

/// What could not be sent or handled
///
/// Of this service and its neighbours; filtered as `GET /v1/parked`.
#[utoipa::path(get, path = "/parked", tag = "pages", operation_id = "parked_page",
    params(
        ("service" = Option<String>, Query, description = "Only of that service"),
        ("class" = Option<String>, Query, description = "As in GET /v1/parked, and so the other filters"),
        ("topic" = Option<String>, Query, description = "Of that topic"),
        ("key" = Option<String>, Query, description = "With that key"),
        ("cursor" = Option<String>, Query, description = "Of the link to more")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn list(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let filter = Filter::of(query.as_deref(), &KNOWN);
    let groups = each::ask(&dashboard, &visitor, &filter, &ASKED, "/parked").await;
    show(&Page {
        frame: Frame::new(&dashboard, &visitor, "/parked"),
        names: each::names(&dashboard),
        classes: [
            "poison",
            "held",
            "unreadable",
            "refused",
            "exhausted",
            "blocked",
        ],
        groups,
        actor: visitor.name(),
        may_discard: visitor.may(Role::Admin),
        filter: filter.without(&["cursor"]),
    })
}

/// One parked message
#[utoipa::path(get, path = "/parked/{service}/{id}", tag = "pages", operation_id = "parked_message_page",
    params(
        ("service" = String, Path, description = "Whose", example = "order-service"),
        ("id" = String, Path, description = "Which", example = "outbox-12",
            pattern = "^(outbox|inbox)-(0|[1-9][0-9]{0,17})$"),
        ("payload" = Option<bool>, Query, description = "Show its payload too")),
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn one(
    State(dashboard): State<Dashboard>,
    Path((service, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    visitor: Visitor,
) -> Response {
    let asked = Filter::of(query.as_deref(), &["payload"]);
    let path = path_of(&id).map(|path| format!("{path}{}", asked.after_path()));
    let shown = match (dashboard.service(&service), path) {
        (Some(api), Ok(path)) => api.get(&visitor, &path).await,
        (None, _) => Err(unknown("service")),
        (_, Err(refused)) => Err(refused),
    };
    match shown {
        Ok(shown) => show(&OnePage {
            frame: Frame::new(&dashboard, &visitor, "/parked"),
            service,
            shown,
        }),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}

/// In the API. Nothing else of a path may come in by it.
pub(crate) fn path_of(id: &str) -> Result<String, Refused> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match !id.is_empty() && id.bytes().all(fits) {
        true => Ok(format!("/parked/{id}")),
        false => Err(unknown("message")),
    }
}

pub(crate) fn unknown(what: &str) -> Refused {
    Refused {
        status: 404,
        title: "Not found".to_owned(),
        detail: format!("there is no such {what}"),
    }
}
