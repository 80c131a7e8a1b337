//! The spans of messages on their way to the broker.

use std::time::SystemTime;

use opentelemetry::{
    Context, KeyValue,
    global::BoxedTracer,
    trace::{Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer},
};

use crate::{
    broker::{Failure, refusal},
    outgoing::table::Logged,
    telemetry::TRACESTATE,
    trace::{
        context::{read, says_sampled},
        tracer::{ERROR_TYPE, MESSAGE_COUNT, attributes, makes_spans, tracer},
    },
};

/// Most links of one span, as SDKs keep by default.
const MAX_LINKS: usize = 128;

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
