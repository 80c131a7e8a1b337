//! Going on with a message's trace where a batch is handled together.

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    message::Received,
    telemetry::{TRACEPARENT, TRACESTATE},
    trace::context::{read, written},
};

/// Puts `span` below the message's `create` span, for a [`BatchHandler`](crate::BatchHandler) that
/// does one message's part of the work in it. Returns the headers with which messages caused by it
/// carry the trace on; where no trace is recorded, those that came.
#[must_use]
pub fn follow(span: &tracing::Span, message: &Received) -> Vec<(&'static str, String)> {
    match message.header(TRACEPARENT) {
        Some(traceparent) => go_on(span, traceparent, message.header(TRACESTATE)),
        None => Vec::new(),
    }
}

/// As [`follow`], from a `traceparent` that was kept: for work that a message caused and that is
/// done later, a retry for example.
#[must_use]
pub fn resume(span: &tracing::Span, traceparent: &str) -> Vec<(&'static str, String)> {
    go_on(span, traceparent, None)
}

fn go_on(
    span: &tracing::Span,
    traceparent: &str,
    tracestate: Option<&str>,
) -> Vec<(&'static str, String)> {
    let Some(came) = read(traceparent, tracestate) else {
        return Vec::new();
    };
    // Fails only where there is no OpenTelemetry layer.
    let _ = span.set_parent(Context::new().with_remote_span_context(came.clone()));
    let ours = of(span);
    headers(if ours.is_valid() { &ours } else { &came })
}

/// The headers with which messages caused by what is done in `span` carry its trace on, for many
/// that are enqueued at once and have different causes. None where there is no trace.
#[must_use]
pub fn carry(span: &tracing::Span) -> Vec<(&'static str, String)> {
    let ours = of(span);
    match ours.is_valid() {
        true => headers(&ours),
        false => Vec::new(),
    }
}

fn of(span: &tracing::Span) -> SpanContext {
    span.context().span().span_context().clone()
}

fn headers(travels: &SpanContext) -> Vec<(&'static str, String)> {
    let (traceparent, tracestate) = written(travels);
    let mut headers = vec![(TRACEPARENT, traceparent)];
    if !tracestate.is_empty() {
        headers.push((TRACESTATE, tracestate));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    const CAME: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn received(headers: &[(&str, &str)]) -> Received {
        let message = Message::raw("topic", "key", "kind.v1", Vec::new());
        Received {
            id: message.id,
            topic: message.topic,
            partition: 0,
            offset: 0,
            key: message.key,
            kind: message.kind,
            source: String::new(),
            time: None,
            payload: message.payload,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn without_a_tracer_what_came_travels_on() {
        let span = tracing::Span::none();
        let message = received(&[(TRACEPARENT, CAME), (TRACESTATE, "vendor=one")]);
        let headers = follow(&span, &message);
        let expected = [
            (TRACEPARENT, CAME.to_owned()),
            (TRACESTATE, "vendor=one".to_owned()),
        ];
        assert_eq!(headers, expected);
        assert_eq!(resume(&span, CAME), [(TRACEPARENT, CAME.to_owned())]);
    }

    #[test]
    fn no_trace_begins_here() {
        let span = tracing::Span::none();
        assert_eq!(follow(&span, &received(&[])), []);
        assert_eq!(follow(&span, &received(&[(TRACEPARENT, "nonsense")])), []);
        assert_eq!(resume(&span, "nonsense"), []);
        assert_eq!(carry(&span), []);
    }
}
