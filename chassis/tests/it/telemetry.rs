use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get as on_get;
use chassis::config::{LogFilter, LogFormat};
use chassis::http::guard;
use chassis::telemetry;
use opentelemetry::trace::TraceContextExt;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::request::{get, send};

/// The telemetry of all tests here. Even a log that shows nothing must leave trace ids.
pub(crate) fn init() -> telemetry::Telemetry {
    telemetry::init(
        "test",
        LogFormat::Json,
        &"off".parse::<LogFilter>().unwrap(),
    )
    .unwrap()
}

async fn trace_id() -> String {
    let context = tracing::Span::current().context();
    let span = context.span();
    assert!(span.span_context().is_valid());
    span.span_context().trace_id().to_string()
}

#[tokio::test]
async fn a_second_init_returns_what_the_first_installed() {
    let (first, second) = (init(), init());
    metrics::counter!("chassis_test_total").increment(3);
    assert!(first.metrics().render().contains("chassis_test_total 3"));
    assert!(second.metrics().render().contains("chassis_test_total 3"));
    first.flush();
}

#[tokio::test]
async fn a_request_continues_its_callers_trace() {
    init();
    let router = guard(Router::new().route("/", on_get(trace_id)));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request =
        Request::get("/").header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let answer = send(&router, request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.body, trace);
}

#[tokio::test]
async fn a_request_without_a_trace_begins_one_of_its_own() {
    init();
    let router = guard(Router::new().route("/", on_get(trace_id)));
    let (first, second) = (get(&router, "/").await, get(&router, "/").await);
    assert_ne!(first.body, second.body);
    let request = Request::get("/").header("traceparent", "garbage");
    let answer = send(&router, request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}
