//! What stands around every router.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{Instrument, Span, field};

use crate::http::auth::{Auth, Caller, Door, admit};
use crate::http::problem::Problem;
use crate::http::reference::Described;
use crate::names;
use crate::telemetry::continue_trace;

/// How large a body may be, in bytes, where a route does not set its own
/// [`DefaultBodyLimit`].
pub const BODY_LIMIT: usize = 64 * 1024;
/// How long a handler may take to begin its answer. A stream that has begun may go on.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How many requests may be under way at once; one more is answered 503. Many times what the pool
/// serves, so it is met only when answers no longer keep up with questions.
pub const CONCURRENCY: usize = 512;
/// What is answered however much is under way: whoever asks these asks because of that.
const ALWAYS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What a browser is told with every answer, unless the handler has told it something else: that
/// it is what it says it is, belongs into no frame and to no other page, and that nobody learns of
/// the way here. No answer has a header of CORS: pages of other origins read nothing.
const FOR_BROWSERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The router with problems for 404 and 405, limits of size, time and number, panics caught, a
/// span and metrics for each request, and headers for browsers. Nobody is asked who he is: see
/// [`guard_described`]. Call it last: it guards the routes that are there.
pub fn guard(router: impl Into<Router>) -> Router {
    guard_with(router, CONCURRENCY)
}

/// [`guard`] with another limit than [`CONCURRENCY`].
pub fn guard_with(router: impl Into<Router>, concurrency: usize) -> Router {
    within(router.into(), concurrency, |router| router)
}

/// [`guard`] with a door before the routes: who asks must be known to `auth` and have the role
/// that the description of the route says.
pub fn guard_described(described: impl Into<Described>, auth: Auth) -> Router {
    let Described { router, policy } = described.into();
    let door = Arc::new(Door { policy, auth });
    within(router, CONCURRENCY, |router| {
        router.layer(from_fn_with_state(door, admit))
    })
}

fn within(router: Router, concurrency: usize, with_door: impl FnOnce(Router) -> Router) -> Router {
    let places = Arc::new(Semaphore::new(concurrency));
    let router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_LIMIT));
    with_door(router).layer(from_fn_with_state(places, watch))
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::method_not_allowed(&method)
}

async fn watch(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = bounded(request.method());
    let route = match request.extensions().get::<MatchedPath>() {
        Some(pattern) => pattern.as_str().to_owned(),
        None => "unmatched".to_owned(),
    };
    let span = span(method, &route, request.headers());
    let is_api = request.uri().path().starts_with("/v1");
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let client = client.map(|ConnectInfo(address)| address.ip());
    let forwarded_for = forwarded_for(request.headers());
    let place = places.try_acquire();
    let mut response = match place.is_ok() || ALWAYS.contains(&route.as_str()) {
        true => {
            answer(next.run(request), &route)
                .instrument(span.clone())
                .await
        }
        false => {
            let detail = "too many requests are under way";
            Problem::unavailable(detail, Duration::from_secs(1)).into_response()
        }
    };
    drop(place);
    tell_browsers(response.headers_mut(), is_api);
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    let caller = response.extensions().get::<Caller>();
    let caller = caller.map(|caller| caller.name.as_str());
    span.in_scope(|| {
        let elapsed = started.elapsed();
        // Probes come every second and tell nothing.
        match ALWAYS.contains(&route.as_str()) {
            true => tracing::debug!(?elapsed, %status, "answered"),
            false => tracing::info!(
                method, route, %status, ?elapsed, caller, client = client.map(field::display), forwarded_for,
                "answered"
            ),
        }
    });
    let labels = [
        ("method", method.to_owned()),
        ("route", route),
        ("status", status.as_str().to_owned()),
    ];
    metrics::counter!(names::HTTP_REQUESTS, &labels).increment(1);
    metrics::histogram!(names::HTTP_REQUEST_DURATION, &labels).record(started.elapsed());
    response
}

/// Who came through a proxy, as the proxy says, or whoever pretends to be one.
fn forwarded_for(headers: &HeaderMap) -> Option<String> {
    let said = headers.get("x-forwarded-for")?.to_str().ok()?;
    Some(said.chars().take(200).collect())
}

fn tell_browsers(headers: &mut HeaderMap, is_api: bool) {
    for (name, value) in FOR_BROWSERS {
        let entry = headers.entry(name);
        entry.or_insert(HeaderValue::from_static(value));
    }
    if is_api {
        // What is asked for with a token is nobody else's.
        let entry = headers.entry(header::CACHE_CONTROL);
        entry.or_insert(HeaderValue::from_static("no-store"));
    }
}

/// The handler's answer, or the problem of having none.
async fn answer(handler: impl Future<Output = Response>, route: &str) -> Response {
    match timeout(REQUEST_TIMEOUT, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => response,
        // Not the panic's words: they may quote a payload. The panic hook has told the place.
        Ok(Err(_)) => {
            metrics::counter!(names::HTTP_PANICS, "route" => route.to_owned()).increment(1);
            tracing::error!(route, "a handler panicked");
            Problem::internal_silently().into_response()
        }
        Err(_) => {
            tracing::warn!(route, limit = ?REQUEST_TIMEOUT, "a handler ran out of time");
            let detail = "the request took too long; whether it took effect is not known";
            Problem::unavailable(detail, Duration::from_secs(1)).into_response()
        }
    }
}

/// The request's span, a child of the caller's if the caller says so.
fn span(method: &'static str, route: &str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "http.request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
    );
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    continue_trace(&span, header("traceparent"), header("tracestate"));
    span
}

/// Clients may invent methods; label values they may not.
fn bounded(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
