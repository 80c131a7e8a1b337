//! The routes that describe the others.

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::auth::{Access, Policy};
use crate::http::problem::Problem;
use crate::http::reference::document::complete;
use crate::http::reference::page::Page;
use crate::http::reference::problems::{Problems, Section, sections};

const STYLE: &str = include_str!("../../../templates/style.css");
/// Nothing runs and nothing is fetched but the style sheet beside the page.
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// A router with what its description says of who may call it.
#[derive(Debug, Clone)]
pub struct Described {
    pub(in crate::http) router: Router,
    pub(in crate::http) policy: Policy,
}

impl Described {
    /// Which route needs which role.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether everybody may call every route.
    pub(in crate::http) fn is_public(&self) -> bool {
        self.policy
            .routes()
            .all(|(_, _, access)| access == Access::Public)
    }
}

/// Without a description: where callers are asked who they are, nobody may call it.
impl From<Router> for Described {
    fn from(router: Router) -> Self {
        let policy = Policy::default();
        Self { router, policy }
    }
}

impl From<Described> for Router {
    fn from(described: Described) -> Self {
        described.router
    }
}

/// The document and the page, ready to be sent.
#[derive(Clone, Default)]
struct Reference {
    document: axum::body::Bytes,
    page: axum::body::Bytes,
}

/// The router, with the routes that describe it, in the service's name. Call it when all its
/// routes are there.
pub fn described(name: &str, about: &str, version: &str, router: OpenApiRouter) -> Described {
    let own = OpenApiRouter::<Reference>::new()
        .routes(routes!(document))
        .routes(routes!(page))
        .routes(routes!(style))
        .routes(routes!(problems))
        .routes(routes!(problem));
    let (own, described) = own.split_for_parts();
    let (router, mut document) = router.split_for_parts();
    document.merge(described);
    complete(&mut document, name, about, version);
    let policy = Policy::of(&document);
    let json = serde_json::to_value(&document).unwrap_or_default();
    let page = Page::of(&json).render().unwrap_or_default();
    let reference = Reference {
        document: json.to_string().into(),
        page: page.into(),
    };
    Described {
        router: router.merge(own.with_state(reference)),
        policy,
    }
}

/// This API, for programs
///
/// OpenAPI 3.1, generated from the code of the routes.
#[utoipa::path(get, path = "/openapi.json", tag = "about", operation_id = "openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json",
        body = serde_json::Value)))]
async fn document(State(reference): State<Reference>) -> Response {
    let kind = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (kind, reference.document).into_response()
}

/// This API, for people
#[utoipa::path(get, path = "/docs", tag = "about", operation_id = "docs", security(()),
    responses((status = 200, description = "A page without script", content_type = "text/html",
        body = String)))]
async fn page(State(reference): State<Reference>) -> Response {
    html(reference.page)
}

/// How the pages look
#[utoipa::path(get, path = "/docs/style.css", tag = "about", operation_id = "style", security(()),
    responses((status = 200, description = "The style sheet", content_type = "text/css",
        body = String)))]
async fn style() -> Response {
    let kind = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (kind, STYLE).into_response()
}

/// What problems there are
#[utoipa::path(get, path = "/problems", tag = "about", operation_id = "problems", security(()),
    responses((status = 200, description = "A page without script", content_type = "text/html",
        body = String)))]
async fn problems() -> Result<Response, Problem> {
    show(sections())
}

/// What a problem means
///
/// Where the `type` of a problem leads.
#[utoipa::path(get, path = "/problems/{slug}", tag = "about", operation_id = "problem", security(()),
    params(("slug" = String, Path, description = "The last part of the type",
        example = "not-found")),
    responses((status = 200, description = "A page without script", content_type = "text/html",
        body = String)))]
async fn problem(Path(slug): Path<String>) -> Result<Response, Problem> {
    let found = sections()
        .into_iter()
        .filter(|section| section.slug == slug);
    let found: Vec<Section> = found.collect();
    match found.is_empty() {
        true => Err(Problem::not_found("there is no such kind of problem")),
        false => show(found),
    }
}

fn show(sections: Vec<Section>) -> Result<Response, Problem> {
    let page = Problems { sections }.render().map_err(Problem::internal)?;
    Ok(html(page.into()))
}

fn html(page: axum::body::Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, page).into_response()
}
