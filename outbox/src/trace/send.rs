//! The spans of messages on their way to the broker.

use std::time::SystemTime;

use opentelemetry::{
    Context, KeyValue,
    global::BoxedTracer,
    trace::{Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer},
};

use crate::{
    broker::{Failure, refusal},
    outgoing::logged::Logged,
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
            let state = headers.and_then(|headers| headers.get(TRACESTATE));
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

    /// Everything on its way is given up for this reason; it is said before [`Sends::rewind`].
    pub(crate) fn give_up(&mut self, failure: &Failure) {
        self.end_all(refusal(failure));
    }

    /// Everything on its way will be sent again, whatever the reason; to be told before the tokens of
    /// all that are settled by it.
    pub(crate) fn rewind(&mut self) {
        self.end_all("sent_again");
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

impl Default for Sends {
    fn default() -> Self {
        Self::new()
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

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, ready},
        sync::{Arc, Mutex},
    };

    use chrono::Utc;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SdkTracerProvider, SpanData, SpanExporter},
    };
    use uuid::Uuid;

    use super::*;
    use crate::broker::FailureClass;

    #[derive(Debug, Clone, Default)]
    struct Seen(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Seen {
        fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
            self.0.lock().unwrap().extend(batch);
            ready(Ok(()))
        }
    }

    impl Seen {
        /// Topic, number of links and error of each.
        fn spans(&self) -> Vec<(String, usize, Option<String>)> {
            let spans = self.0.lock().unwrap();
            let error = |span: &SpanData| {
                let mut attributes = span.attributes.iter();
                let error = attributes.find(|attribute| attribute.key.as_str() == ERROR_TYPE);
                error.map(|attribute| attribute.value.to_string())
            };
            let seen = |span: &SpanData| (span.name.to_string(), span.links.len(), error(span));
            spans.iter().map(seen).collect()
        }
    }

    fn sends() -> (Sends, Seen) {
        let seen = Seen::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(seen.clone())
            .build();
        let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
        assert!(makes_spans(&tracer));
        assert_eq!(seen.spans(), [], "the question leaves nothing behind");
        let sends = Sends {
            tracer: Some(tracer),
            page: 0,
            batches: Vec::new(),
        };
        (sends, seen)
    }

    fn row(topic: &str, flags: &str) -> Logged {
        Logged {
            seq: 1,
            message_id: Uuid::nil(),
            topic: topic.to_owned(),
            key: String::new(),
            kind: "test.v1".to_owned(),
            payload: None,
            traceparent: Some(format!(
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"
            )),
            headers: None,
            created_at: Utc::now(),
            flaw: None,
        }
    }

    #[test]
    fn a_page_and_topic_is_a_span_once_all_of_it_is_settled() {
        let (mut sends, seen) = sends();
        sends.page();
        for (token, topic) in ["a", "b", "a"].into_iter().enumerate() {
            sends.sent(token, &row(topic, "01"));
        }
        sends.sent(3, &row("quiet", "00"));
        sends.settle(|token| token < 4);
        assert_eq!(seen.spans(), [], "more of the page may come");
        sends.page();
        sends.settle(|token| token < 1);
        let spans = [("send a".into(), 2, None), ("send b".into(), 1, None)];
        assert_eq!(seen.spans(), spans);
    }

    #[test]
    fn what_is_sent_again_has_failed_for_its_reason() {
        let (mut sends, seen) = sends();
        sends.page();
        sends.sent(0, &row("settled", "01"));
        sends.settle(|token| token < 1);
        sends.sent(1, &row("a", "01"));
        sends.rewind();
        sends.sent(2, &row("b", "01"));
        let failure = Failure {
            class: FailureClass::Outage,
            reason: String::new(),
        };
        sends.give_up(&failure);
        sends.rewind();
        // Whatever came after the tokens of a former life.
        sends.settle(|_| true);
        sends.sent(3, &row("c", "01"));
        drop(sends);
        let error = |error: &str| Some(error.to_owned());
        let spans = [
            ("send settled".into(), 1, None),
            ("send a".into(), 1, error("sent_again")),
            ("send b".into(), 1, error("outage")),
            ("send c".into(), 1, error("lease_lost")),
        ];
        assert_eq!(seen.spans(), spans);
    }
}
