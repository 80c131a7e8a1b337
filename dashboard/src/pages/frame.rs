//! What is around every page, and how a page or a refusal becomes an answer.

use askama::Template;
use axum::{
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse, Redirect, Response},
};

use chassis::http::auth::Role;

use crate::{
    api::{Refused, Visitor},
    assets,
    house::Dashboard,
};

/// The frame of a page.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) service: String,
    /// Of the assets.
    pub(crate) version: String,
    /// The path in the navigation that leads here.
    pub(crate) at: &'static str,
    /// Who is logged in; nobody where nobody is asked.
    pub(crate) who: Option<String>,
    /// Whether he may change something.
    pub(crate) may_act: bool,
    /// Whether he may also see what people did, and do something to many sagas.
    pub(crate) may_all: bool,
}

impl Frame {
    pub(crate) fn new(dashboard: &Dashboard, visitor: &Visitor, at: &'static str) -> Self {
        Self {
            service: dashboard.own().name().to_owned(),
            version: format!("{:016x}", assets::VERSION),
            at,
            who: visitor.name(),
            may_act: visitor.may(Role::Operator),
            may_all: visitor.may(Role::Admin),
        }
    }

    /// Those that lead somewhere for whoever looks.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let audit = self.may_all.then_some(("/audit", "Audit"));
        [
            ("/", "Overview"),
            ("/sagas", "Sagas"),
            ("/bulk-operations", "Bulk"),
            ("/parked", "Parked"),
            ("/definitions", "Definitions"),
            ("/anomalies", "Anomalies"),
            ("/locks", "Locks"),
        ]
        .into_iter()
        .chain(audit)
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    frame: Frame,
    refused: Refused,
}

#[derive(Template)]
#[template(path = "refused.html")]
struct RefusedPart {
    refused: Refused,
}

/// A page, or a part of one.
pub(crate) fn show(template: &impl Template) -> Response {
    match template.render() {
        Ok(page) => Html(page).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A refusal as a page, with its status.
pub(crate) fn refuse(dashboard: &Dashboard, visitor: &Visitor, refused: Refused) -> Response {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let frame = Frame::new(dashboard, visitor, "");
    (status, show(&ProblemPage { frame, refused })).into_response()
}

/// A refusal for the middle of a page.
pub(crate) fn refuse_part(refused: Refused) -> Response {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_GATEWAY);
    (status, show(&RefusedPart { refused })).into_response()
}

/// Leads to another page, whoever asks.
pub(crate) fn lead(headers: &HeaderMap, path: &str) -> Response {
    match wants_part(headers) {
        true => [("HX-Redirect", path)].into_response(),
        false => Redirect::to(path).into_response(),
    }
}

/// Whether the script asks, for a part of a page; without it a browser wants a whole one.
pub(crate) fn wants_part(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request")
}
