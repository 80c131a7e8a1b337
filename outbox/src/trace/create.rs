//! The span of a message being enqueued.

use opentelemetry::{
    Context, KeyValue,
    global::{BoxedSpan, BoxedTracer},
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    Error,
    message::Message,
    telemetry::{TRACEPARENT, TRACESTATE},
    trace::{
        context::{read, written},
        tracer::{ERROR_TYPE, EVENT_TYPE, MESSAGE_ID, attributes, makes_spans, tracer},
    },
};

/// Messages about to be enqueued together, below the current span, or each below the context that
/// its caller gave it.
pub(crate) struct Creating {
    parent: Context,
    /// None where spans go nowhere.
    tracer: Option<BoxedTracer>,
}

impl Creating {
    /// Looks once at the current span, and whether spans go anywhere.
    pub(crate) fn new() -> Self {
        Self {
            tracer: Some(tracer()).filter(makes_spans),
            parent: tracing::Span::current().context(),
        }
    }

    /// Begins a message's span, and says what travels with it as `traceparent` and `tracestate`;
    /// nothing where there is no trace, and where the caller gave a context that is not recorded
    /// here: that one travels as it is.
    pub(crate) fn begin(&self, message: &Message) -> (Create, Option<(String, String)>) {
        let given = message.headers.get(TRACEPARENT).map(|traceparent| {
            let tracestate = message.headers.get(TRACESTATE).map(String::as_str);
            read(traceparent, tracestate).filter(SpanContext::is_sampled)
        });
        let given = match given {
            None => None,
            Some(Some(given)) if self.tracer.is_some() => {
                Some(Context::new().with_remote_span_context(given))
            }
            Some(_) => return (Create { span: None }, None),
        };
        let parent = given.as_ref().unwrap_or(&self.parent);
        let above = parent.span().span_context().clone();
        // Where the trace is not recorded there is nothing to add to it.
        let tracer = self.tracer.as_ref();
        let tracer = tracer.filter(|_| !above.is_valid() || above.is_sampled());
        let span = tracer.map(|tracer| {
            let mut described = attributes("create", &message.topic);
            described.push(KeyValue::new(MESSAGE_ID, message.id.to_string()));
            described.push(KeyValue::new(EVENT_TYPE, message.kind.clone()));
            let span = tracer
                .span_builder(format!("create {}", message.topic))
                .with_kind(SpanKind::Producer)
                .with_attributes(described);
            tracer.build_with_context(span, parent)
        });
        let travels = match &span {
            Some(span) => span.span_context().clone(),
            None => above,
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
