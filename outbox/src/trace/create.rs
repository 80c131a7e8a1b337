//! The span of a message being enqueued.

use opentelemetry::{
    Context, KeyValue,
    global::{BoxedSpan, BoxedTracer},
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    Error,
    message::Message,
    telemetry::TRACEPARENT,
    trace::{
        context::written,
        tracer::{ERROR_TYPE, EVENT_TYPE, MESSAGE_ID, attributes, makes_spans, tracer},
    },
};

/// Messages about to be enqueued together, below the current span.
pub(crate) struct Creating {
    parent: Context,
    /// None where spans go nowhere, and where the current trace is not recorded.
    tracer: Option<BoxedTracer>,
}

impl Creating {
    /// Looks once at the current span, and whether spans go anywhere.
    pub(crate) fn new() -> Self {
        let parent = tracing::Span::current().context();
        let current = parent.span().span_context().clone();
        let tracer = (!current.is_valid() || current.is_sampled()).then(tracer);
        Self {
            tracer: tracer.filter(makes_spans),
            parent,
        }
    }

    /// Begins a message's span, and says what travels with it as `traceparent` and `tracestate`;
    /// nothing where there is no trace, and where the caller gave a context of its own.
    pub(crate) fn begin(&self, message: &Message) -> (Create, Option<(String, String)>) {
        if message.headers.contains_key(TRACEPARENT) {
            return (Create { span: None }, None);
        }
        let span = self.tracer.as_ref().map(|tracer| {
            let mut described = attributes("create", &message.topic);
            described.push(KeyValue::new(MESSAGE_ID, message.id.to_string()));
            described.push(KeyValue::new(EVENT_TYPE, message.kind.clone()));
            let span = tracer
                .span_builder(format!("create {}", message.topic))
                .with_kind(SpanKind::Producer)
                .with_attributes(described);
            tracer.build_with_context(span, &self.parent)
        });
        let travels = match &span {
            Some(span) => span.span_context().clone(),
            None => self.parent.span().span_context().clone(),
        };
        let travels = travels.is_valid().then(|| written(&travels));
        (Create { span }, travels)
    }
}

/// The span of one message being enqueued: from before its insert until this value is gone.
pub(crate) struct Create {
    span: Option<BoxedSpan>,
}

impl Create {
    /// The message was not enqueued.
    pub(crate) fn failed(&mut self, error: &Error) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(ERROR_TYPE, error.word()));
            span.set_status(Status::error(""));
        }
    }
}
