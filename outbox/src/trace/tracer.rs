//! Who makes the spans, and what all of them say.

use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    global::{self, BoxedTracer},
    trace::{
        Span as _, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    },
};

pub(super) const SYSTEM: &str = "messaging.system";
pub(super) const OPERATION_TYPE: &str = "messaging.operation.type";
pub(super) const OPERATION_NAME: &str = "messaging.operation.name";
pub(super) const DESTINATION: &str = "messaging.destination.name";
pub(super) const MESSAGE_ID: &str = "messaging.message.id";
pub(super) const MESSAGE_COUNT: &str = "messaging.batch.message_count";
pub(super) const GROUP: &str = "messaging.consumer.group.name";
pub(super) const EVENT_TYPE: &str = "cloudevents.event_type";
pub(super) const ERROR_TYPE: &str = "error.type";

/// The attributes that every one of these spans has.
pub(super) fn attributes(operation: &'static str, topic: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new(SYSTEM, "kafka"),
        KeyValue::new(OPERATION_TYPE, operation),
        KeyValue::new(OPERATION_NAME, operation),
        KeyValue::new(DESTINATION, topic.to_owned()),
    ]
}

pub(super) fn tracer() -> BoxedTracer {
    let version = env!("CARGO_PKG_VERSION");
    let scope = InstrumentationScope::builder("outbox").with_version(version);
    global::tracer_with_scope(scope.build())
}

/// Whether anybody makes spans: what is without effect returns the parent's context, where telemetry
/// is suppressed too.
pub(super) fn makes_spans(tracer: &BoxedTracer) -> bool {
    let id = (TraceId::from(1), SpanId::from(1));
    let parent = SpanContext::new(id.0, id.1, TraceFlags::default(), true, TraceState::NONE);
    let parent = Context::new()
        .with_remote_span_context(parent.clone())
        .with_telemetry_suppressed();
    let span = tracer.build_with_context(tracer.span_builder("probe"), &parent);
    span.span_context() != parent.span().span_context()
}
