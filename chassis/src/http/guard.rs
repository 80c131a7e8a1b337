//! What stands around every router.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{Instrument, Span, field};

use crate::http::problem::{Kind, Problem};
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

/// The router with problems for 404 and 405, limits of size, time and number, panics caught, and a
/// span and metrics for each request. Call it last: it guards the routes that are there.
pub fn guard(router: impl Into<Router>) -> Router {
    guard_with(router, CONCURRENCY)
}

/// [`guard`] with another limit than [`CONCURRENCY`].
pub fn guard_with(router: impl Into<Router>, concurrency: usize) -> Router {
    let places = Arc::new(Semaphore::new(concurrency));
    let router: Router = router.into();
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn_with_state(places, watch))
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn method_not_allowed(method: Method) -> Problem {
    let detail = format!("{method} is not possible here; the Allow header lists what is");
    Problem::new(Kind::METHOD_NOT_ALLOWED, detail)
}

async fn watch(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = bounded(request.method());
    let route = match request.extensions().get::<MatchedPath>() {
        Some(pattern) => pattern.as_str().to_owned(),
        None => "unmatched".to_owned(),
    };
    let span = span(method, &route, request.headers());
    let place = places.try_acquire();
    let response = match place.is_ok() || ALWAYS.contains(&route.as_str()) {
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
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    span.in_scope(|| tracing::debug!(elapsed = ?started.elapsed(), %status, "answered"));
    let labels = [
        ("method", method.to_owned()),
        ("route", route),
        ("status", status.as_str().to_owned()),
    ];
    metrics::counter!(names::HTTP_REQUESTS, &labels).increment(1);
    metrics::histogram!(names::HTTP_REQUEST_DURATION, &labels).record(started.elapsed());
    response
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
