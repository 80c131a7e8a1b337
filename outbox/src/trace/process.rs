//! The span around a message being handled.

use opentelemetry::{
    Context, KeyValue,
    trace::{Status, TraceContextExt},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    Error,
    message::Received,
    telemetry::{TRACEPARENT, TRACESTATE},
    trace::{
        context::read,
        tracer::{ERROR_TYPE, GROUP, OPERATION_NAME, OPERATION_TYPE, SYSTEM},
    },
};

/// The span around the handling of one message, a `tracing` span with what a log line should show.
/// Where it is recorded it says the rest too.
pub(crate) fn process(message: &Received, consumer: &str) -> tracing::Span {
    let span = tracing::info_span!(
        "process",
        otel.kind = "consumer",
        messaging.destination.name = message.topic,
        // A string, by the conventions.
        messaging.destination.partition.id = %message.partition,
        messaging.kafka.offset = message.offset,
        messaging.message.id = %message.id,
        cloudevents.event_type = message.kind,
    );
    if span.is_disabled() {
        return span;
    }
    let created = message
        .header(TRACEPARENT)
        .and_then(|traceparent| read(traceparent, message.header(TRACESTATE)));
    if let Some(created) = created {
        let parent = Context::new().with_remote_span_context(created.clone());
        // Fails only where there is no OpenTelemetry layer.
        let _ = span.set_parent(parent);
        if created.is_sampled() {
            span.add_link(created);
        }
    }
    let context = span.context();
    let recorded = context.span();
    if recorded.is_recording() {
        recorded.update_name(format!("process {}", message.topic));
        recorded.set_attribute(KeyValue::new(SYSTEM, "kafka"));
        recorded.set_attribute(KeyValue::new(OPERATION_TYPE, "process"));
        recorded.set_attribute(KeyValue::new(OPERATION_NAME, "process"));
        recorded.set_attribute(KeyValue::new(GROUP, consumer.to_owned()));
    }
    span
}

/// The handler failed. What it said may quote the message, so only its sort is told.
pub(crate) fn process_failed(span: &tracing::Span, error: &Error) {
    span.set_attribute(ERROR_TYPE, error.word());
    span.set_status(Status::error(""));
}
