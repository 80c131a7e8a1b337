//! The spans of a message, by OpenTelemetry's semantic conventions for messaging (1.43).
//!
//! | span | kind | made | parent | links |
//! |---|---|---|---|---|
//! | `create TOPIC` | producer | by `enqueue`, for each message | the span that enqueues | |
//! | `send TOPIC` | client | by the relay, for a page's messages of one topic | the first linked | the `create` spans, at most 128 |
//! | `process TOPIC` | consumer | by the consumer, around the handler, for each message | the `create` span | the `create` span |
//!
//! The context of `create` travels: in the row, then in the headers `traceparent` and `tracestate`.
//! The conventions ask a consumer for a *link*, because a batch has no one parent. A message is handled
//! alone here, so `create` is its parent too: one trace from the request to the last effect, sampled
//! or not as a whole. `send` is a client's span, because it makes no context of its own; it stands in the
//! trace of the first message it carried, so that the sampler's decision for that one holds for it.
//!
//! **Promised**: no payload, key or header in any of them. What is not sampled costs a look at one
//! byte of its `traceparent`. **Not promised**: a span for what SQL enqueues (its `traceparent`
//! is kept), or for a parked message that is sent later.
//!
//! `create` and `send` go to OpenTelemetry's global provider, which `chassis` sets only where spans
//! are exported; where there is none, the context of the span that enqueues travels. `process` is a
//! `tracing` span, so that whatever the handler does stands below it.

use std::time::SystemTime;

use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    global::{self, BoxedSpan, BoxedTracer},
    trace::{
        Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags,
        TraceId, TraceState, Tracer,
    },
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    Error,
    broker::{Failure, refusal},
    message::{Message, Received},
    outgoing::table::Logged,
    telemetry::{TRACEPARENT, TRACESTATE},
};

/// Most links of one span, as SDKs keep by default.
const MAX_LINKS: usize = 128;

const SYSTEM: &str = "messaging.system";
const OPERATION_TYPE: &str = "messaging.operation.type";
const OPERATION_NAME: &str = "messaging.operation.name";
const DESTINATION: &str = "messaging.destination.name";
const MESSAGE_ID: &str = "messaging.message.id";
const MESSAGE_COUNT: &str = "messaging.batch.message_count";
const GROUP: &str = "messaging.consumer.group.name";
const EVENT_TYPE: &str = "cloudevents.event_type";
const ERROR_TYPE: &str = "error.type";

/// The attributes that every one of these spans has.
fn attributes(operation: &'static str, topic: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new(SYSTEM, "kafka"),
        KeyValue::new(OPERATION_TYPE, operation),
        KeyValue::new(OPERATION_NAME, operation),
        KeyValue::new(DESTINATION, topic.to_owned()),
    ]
}

fn tracer() -> BoxedTracer {
    let version = env!("CARGO_PKG_VERSION");
    let scope = InstrumentationScope::builder("outbox").with_version(version);
    global::tracer_with_scope(scope.build())
}

// ---- the W3C form, https://www.w3.org/TR/trace-context/ ----

/// Reads the two headers; `None` when the first is not valid.
fn read(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let mut part = |length| {
        let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let part = parts.next()?;
        (part.len() == length && part.bytes().all(digit)).then_some(part)
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Only a later version may say more.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1),
        true,
        tracestate
            .and_then(|text| text.parse::<TraceState>().ok())
            .unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

/// Whether a `traceparent` says that its trace is recorded: one byte, looked at for every message.
fn says_sampled(traceparent: &str) -> bool {
    let last_of_flags = traceparent.as_bytes().get(54);
    last_of_flags.is_some_and(|digit| b"13579bdf".contains(digit))
}

/// `traceparent`, and `tracestate` or nothing.
fn written(context: &SpanContext) -> (String, String) {
    let traceparent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    );
    (traceparent, context.trace_state().header())
}

// ---- create ----

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

// ---- send ----

/// What the relay has on its way for traced messages. Does nothing where spans go nowhere.
pub(crate) struct Sends {
    tracer: Option<BoxedTracer>,
    page: u64,
    /// In the order of their first messages.
    batches: Vec<Batch>,
}

/// Messages of one topic and one page.
struct Batch {
    page: u64,
    topic: String,
    messages: i64,
    /// The last of them, by its token.
    last: usize,
    /// The traced ones, by their tokens.
    traced: Vec<(usize, SpanContext)>,
    began: SystemTime,
    ended: Option<SystemTime>,
    error: Option<&'static str>,
}

impl Sends {
    /// Looks once whether spans go anywhere.
    pub(crate) fn new() -> Self {
        let tracer = tracer();
        Self {
            tracer: makes_spans(&tracer).then_some(tracer),
            page: 0,
            batches: Vec::new(),
        }
    }

    /// What is sent from now on is of another page.
    pub(crate) fn page(&mut self) {
        self.page += 1;
    }

    /// A message was given to the producer.
    pub(crate) fn sent(&mut self, token: usize, row: &Logged) {
        if self.tracer.is_none() {
            return;
        }
        let context = row.traceparent.as_deref().filter(|it| says_sampled(it));
        let context = context.and_then(|traceparent| {
            let headers = row.headers.as_ref();
            let state = headers.and_then(|headers| headers.0.get(TRACESTATE));
            read(traceparent, state.map(String::as_str))
        });
        let is_open = |batch: &&mut Batch| {
            let has_room = context.is_none() || batch.traced.len() < MAX_LINKS;
            batch.page == self.page && batch.topic == row.topic && has_room
        };
        let batch = match self.batches.iter_mut().rev().find(is_open) {
            Some(batch) => batch,
            None => self.batches.push_mut(Batch::new(self.page, &row.topic)),
        };
        batch.messages += 1;
        batch.last = token;
        batch.ended = None;
        batch.traced.extend(context.map(|context| (token, context)));
    }

    /// One of them was refused.
    pub(crate) fn refused(&mut self, token: usize, failure: &Failure) {
        let has = |batch: &&mut Batch| batch.traced.iter().any(|(traced, _)| *traced == token);
        if let Some(batch) = self.batches.iter_mut().find(has) {
            batch.error = Some(refusal(failure));
        }
    }

    /// Ends the spans of pages that are sent and settled: `is_past` tells of a token whether it is.
    pub(crate) fn settle(&mut self, is_past: impl Fn(usize) -> bool) {
        if self.batches.is_empty() {
            return;
        }
        let now = SystemTime::now();
        for batch in &mut self.batches {
            if batch.ended.is_none() && is_past(batch.last) {
                batch.ended = Some(now);
            }
        }
        let (page, tracer) = (self.page, &self.tracer);
        let is_done = |batch: &mut Batch| batch.page < page && batch.ended.is_some();
        for batch in self.batches.extract_if(.., is_done) {
            batch.export(tracer.as_ref());
        }
    }

    /// Everything on its way is given up.
    pub(crate) fn give_up(&mut self, failure: &Failure) {
        self.end_all(refusal(failure));
    }

    fn end_all(&mut self, error: &'static str) {
        for mut batch in self.batches.drain(..) {
            if batch.ended.is_none() {
                batch.error.get_or_insert(error);
            }
            batch.export(self.tracer.as_ref());
        }
    }
}

impl Drop for Sends {
    fn drop(&mut self) {
        self.end_all("lease_lost");
    }
}

impl Batch {
    fn new(page: u64, topic: &str) -> Self {
        Self {
            page,
            topic: topic.to_owned(),
            messages: 0,
            last: 0,
            traced: Vec::new(),
            began: SystemTime::now(),
            ended: None,
            error: None,
        }
    }

    /// Only now is there a span, with all its links, so that a sampler sees them.
    fn export(self, tracer: Option<&BoxedTracer>) {
        let (Some(tracer), Some((_, first))) = (tracer, self.traced.first()) else {
            return;
        };
        let parent = Context::new().with_remote_span_context(first.clone());
        let mut described = attributes("send", &self.topic);
        described.push(KeyValue::new(MESSAGE_COUNT, self.messages));
        described.extend(self.error.map(|error| KeyValue::new(ERROR_TYPE, error)));
        let links = self.traced.into_iter();
        let span = tracer
            .span_builder(format!("send {}", self.topic))
            .with_kind(SpanKind::Client)
            .with_start_time(self.began)
            .with_attributes(described)
            .with_links(links.map(|(_, to)| Link::with_context(to)).collect());
        let mut span = tracer.build_with_context(span, &parent);
        if self.error.is_some() {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(self.ended.unwrap_or_else(SystemTime::now));
    }
}

/// Whether anybody makes spans: what is without effect returns the parent's context, where telemetry
/// is suppressed too.
fn makes_spans(tracer: &BoxedTracer) -> bool {
    let id = (TraceId::from(1), SpanId::from(1));
    let parent = SpanContext::new(id.0, id.1, TraceFlags::default(), true, TraceState::NONE);
    let parent = Context::new()
        .with_remote_span_context(parent.clone())
        .with_telemetry_suppressed();
    let span = tracer.build_with_context(tracer.span_builder("probe"), &parent);
    span.span_context() != parent.span().span_context()
}

// ---- process ----

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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_as_it_was_written() {
        let context = read(GOOD, Some("vendor=one")).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(written(&context), (GOOD.into(), "vendor=one".into()));
        assert!(says_sampled(GOOD));
        let quiet = GOOD.replace("-01", "-00");
        assert!(!read(&quiet, None).unwrap().is_sampled());
        assert!(!says_sampled(&quiet));
        let later = format!("cc{}-what-comes", &GOOD[2..]);
        assert!(read(&later, None).is_some(), "a later version's first part");
        let state = read(GOOD, Some("not a state")).unwrap();
        assert_eq!(state.trace_state().header(), "", "one is as good as none");
    }

    #[test]
    fn what_is_no_context_is_none() {
        let cases = [
            "",
            "00-1-2-01",
            "garbage",
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-more"),
            &format!("{GOOD}x"),
            &format!("cc{}x", &GOOD[2..]),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('f', "ß"),
            &GOOD[..54],
        ];
        for case in cases {
            assert_eq!(read(case, None), None, "{case}");
        }
    }
}
