//! One message's spans, and what is not in them.

use std::collections::HashSet;

use opentelemetry::trace::{TraceContextExt, TraceFlags};
use outbox::{
    Error, Handler, Message, Received, broker::Topic, incoming::OnPoison, outgoing::Config,
};
use sqlx::PgTransaction;
use testbed::collector::{Ask, Collector, Mood, Span, SpanKind};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use crate::{
    observing::child::{self, say},
    reading::{Effects, Reading, config},
    world::{Counted, World},
};

/// What nobody may see.
pub(super) const CANARY: &str = "kanarienvogel";

/// A message with the canary in every place that holds something private.
pub(super) fn secret(topic: &str, n: i64) -> Message {
    let payload = format!(r#"{{"n":{n},"card":"{CANARY}"}}"#).into_bytes();
    Message::raw(topic, format!("{CANARY}-{n}"), "test.counted.v1", payload)
        .with_header("authorization", CANARY)
}

/// Handles numbers; the first is answered with another.
struct Answers {
    effects: Effects,
    topic: String,
}

impl Handler for Answers {
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        self.effects.handle(tx, message).await?;
        if message.decode::<Counted>()?.n == 1 {
            tracing::info!("answering");
            let answer = secret(&self.topic, 100);
            outbox::enqueue(tx, &answer).await?;
        }
        Ok(())
    }
}

/// In the child: a message and its answer, one that fails at first, one that is refused by its
/// handler, one that the broker refuses, and many at once.
pub(super) async fn life() {
    let world = World::kafka("observed").await;
    let effects = Effects::refusing([3]);
    effects.flaky.lock().unwrap().insert(2, 1);
    let (topic, small) = (&world.topic, format!("small.{}", Uuid::now_v7().simple()));
    let bulk = format!("bulk.{}", Uuid::now_v7().simple());
    world
        .create_topic(&small, "max.message.bytes", "3000")
        .await;
    let topics = [Topic::new(bulk.as_str(), 2)];
    world.broker.ensure_topics(&topics).await.unwrap();
    let answers = Answers {
        effects,
        topic: topic.clone(),
    };
    let reading = Reading::with(&world, answers, config(OnPoison::SkipMessage));
    let relay = world.relay(Config::default());

    let span = tracing::info_span!("request");
    say("request", span.context().span().span_context().span_id());
    async {
        for n in 1..=3 {
            let message = secret(topic, n);
            say("message", message.id);
            world.send(&[message]).await;
            if n == 1 {
                // Alone in its batch, so that no neighbour's failure makes it be handled again.
                world.wait_for_effects(&[1, 100]).await;
            }
        }
        // What the broker refuses makes the relay send again what is on its way with it.
        world.wait_for_effects(&[1, 2, 100]).await;
        let mut poison = secret(&small, 4);
        poison.payload = Some(incompressible(9_000));
        world.send(&[poison]).await;
        let many: Vec<_> = (0..300).map(|n| secret(&bulk, n)).collect();
        world.send(&many).await;
    }
    .instrument(span)
    .await;
    say("topic", topic);
    say("small", &small);
    say("bulk", &bulk);
    say("group", world.reader());
    world.wait_for_unsent(&[("poison", 1)]).await;
    let mut oracle = crate::world::Oracle::new(&*world.broker, &bulk);
    oracle.wait_for(300).await;
    testbed::until(crate::world::SOON, "3 is parked", async || {
        (world.sick().await.len() == 1).then_some(())
    })
    .await;
    reading.stop().await;
    relay.stop().await;
}

/// Neither lz4 nor the broker makes these fewer.
pub(super) fn incompressible(length: usize) -> Vec<u8> {
    let hashed = || Uuid::new_v5(&Uuid::NAMESPACE_OID, Uuid::now_v7().as_bytes());
    let random = std::iter::repeat_with(hashed).flat_map(Uuid::into_bytes);
    [CANARY.as_bytes().to_vec(), random.take(length).collect()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_request_through_create_send_and_process_and_shows_no_content() {
    let collector = Collector::start(Mood::Takes).await.unwrap();
    let environment = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=bl%75e"),
        ("OTEL_SERVICE_NAME", "shop"),
    ];
    let left = child::run("life", Some(&collector), &environment).await;
    assert_eq!(collector.header("x-tenant").as_deref(), Some("blue"));
    let protobuf = collector.header("content-type");
    assert_eq!(protobuf.as_deref(), Some("application/x-protobuf"));
    assert!(collector.services().iter().all(|name| name == "shop"));

    let topic = left.one("topic");
    let [first, second, third] = left.all("message")[..] else {
        panic!("three messages")
    };
    let creates = collector.named(&format!("create {topic}"));
    let processes = collector.named(&format!("process {topic}"));
    let sends = collector.named(&format!("send {topic}"));
    let of = |spans: &[Span], id: &str| -> Vec<Span> {
        let mut spans = spans.to_vec();
        spans.retain(|span| span.attribute("messaging.message.id").as_deref() == Some(id));
        spans
    };

    // The message that went well.
    let [request] = &collector.named("request")[..] else {
        panic!("one request")
    };
    assert_eq!(hex(&request.span_id), left.one("request"));
    let [create] = &of(&creates, first)[..] else {
        panic!("one create")
    };
    assert_eq!(create.kind(), SpanKind::Producer);
    assert_eq!(create.parent_span_id, request.span_id);
    assert_eq!(create.trace_id, request.trace_id);
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "create"),
        ("messaging.operation.name", "create"),
        ("messaging.destination.name", topic),
        ("cloudevents.event_type", "test.counted.v1"),
    ] {
        assert_eq!(create.attribute(name).as_deref(), Some(value), "{name}");
    }
    assert!(!create.failed());

    let carried = |send: &&Span| send.linked().contains(&create.span_id);
    let [send] = sends.iter().filter(carried).collect::<Vec<_>>()[..] else {
        panic!("one send: {sends:#?}")
    };
    assert_eq!(send.kind(), SpanKind::Client);
    assert_eq!(send.trace_id, create.trace_id);
    assert_eq!(
        send.parent_span_id,
        send.linked()[0],
        "the first it carried"
    );
    let count = format!("{}i", send.links.len());
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "send"),
        ("messaging.operation.name", "send"),
        ("messaging.destination.name", topic),
        ("messaging.batch.message_count", &count),
    ] {
        assert_eq!(send.attribute(name).as_deref(), Some(value), "{name}");
    }
    assert!(!send.failed() && send.end_time_unix_nano >= send.start_time_unix_nano);

    let [process] = &of(&processes, first)[..] else {
        panic!("one process")
    };
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert_eq!(process.parent_span_id, create.span_id);
    assert_eq!(process.trace_id, create.trace_id);
    assert_eq!(process.linked(), std::slice::from_ref(&create.span_id));
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "process"),
        ("messaging.operation.name", "process"),
        ("messaging.destination.name", topic),
        ("messaging.consumer.group.name", left.one("group")),
        ("cloudevents.event_type", "test.counted.v1"),
    ] {
        assert_eq!(process.attribute(name).as_deref(), Some(value), "{name}");
    }
    let partition = process.attribute("messaging.destination.partition.id");
    partition
        .unwrap()
        .parse::<i32>()
        .expect("a string of a number");
    let offset = process.attribute("messaging.kafka.offset").unwrap();
    assert!(offset.ends_with('i'), "an integer: {offset}");
    assert!(!process.failed() && process.attribute("error.type").is_none());
    assert!(process.start_time_unix_nano >= create.start_time_unix_nano);

    // What the handler did stands below it: its own message, in the same trace.
    let answered = |span: &&Span| span.parent_span_id == process.span_id;
    let answers: Vec<_> = creates.iter().filter(answered).collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].trace_id, request.trace_id);

    // Failures say their sort, and nothing else.
    let errors = |id: &str| -> Vec<Option<String>> {
        let mut tries = of(&processes, id);
        tries.sort_by_key(|span| span.start_time_unix_nano);
        for span in &tries {
            assert_eq!(span.failed(), span.attribute("error.type").is_some());
            assert_eq!(
                span.status.as_ref().map_or("", |status| &status.message),
                ""
            );
        }
        tries
            .iter()
            .map(|span| span.attribute("error.type"))
            .collect()
    };
    let flaky = errors(second);
    assert!(flaky.contains(&Some("transient".to_owned())), "{flaky:?}");
    assert_eq!(flaky.last(), Some(&None), "it was handled in the end");
    let refused = errors(third);
    assert_eq!(refused.last(), Some(&Some("permanent".to_owned())));
    let poison = collector.named(&format!("send {}", left.one("small")));
    assert!(
        !poison.is_empty() && poison.iter().all(Ask::failed),
        "{poison:#?}"
    );
    let error = poison.last().unwrap().attribute("error.type");
    assert_eq!(error.as_deref(), Some("too_large"));

    // Many messages are several spans, none with more links than are kept.
    let many = collector.named(&format!("send {}", left.one("bulk")));
    assert!(
        many.iter()
            .all(|send| send.links.len() <= 128 && send.dropped_links_count == 0)
    );
    let linked: HashSet<_> = many.iter().flat_map(Ask::linked).collect();
    assert_eq!(linked.len(), 300);

    // A log line inside of a span is no part of it.
    assert!(left.log.contains("answering"));
    assert!(collector.spans().iter().all(|span| span.events.is_empty()));

    // And nobody has seen the content. That this looks in the right places is shown by what it finds.
    assert!(collector.has_seen(topic) && left.log.contains(topic));
    assert!(left.metrics.contains("outbox_published_total"));
    assert!(!collector.has_seen(CANARY), "in a span");
    assert!(!left.log.contains(CANARY), "in the log");
    assert!(!left.metrics.contains(CANARY), "in /metrics");
}

/// In the child: messages of a trace that begins here, and of one that came in recorded.
pub(super) async fn quiet() {
    let world = World::embedded("quiet").await;
    let relay = world.relay(Config::default());
    let reading = Reading::start(&world, &Effects::default());
    let ours = tracing::info_span!("request");
    world
        .send(&[secret(&world.topic, 1)])
        .instrument(ours)
        .await;
    world.send(&[secret(&world.topic, 2)]).await;
    let theirs = tracing::info_span!("request");
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    chassis::telemetry::continue_trace(&theirs, Some(header), None);
    let sampled = theirs.context().span().span_context().trace_flags() == TraceFlags::SAMPLED;
    say("continues", sampled);
    world
        .send(&[secret(&world.topic, 3)])
        .instrument(theirs)
        .await;
    world.wait_for_effects(&[1, 2, 3]).await;
    reading.stop().await;
    relay.stop().await;
    let traceparents: Vec<Option<String>> =
        sqlx::query_scalar("select traceparent from outbox.log order by seq")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    for traceparent in traceparents {
        say("traceparent", traceparent.unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_no_trace_begins_and_one_that_came_in_goes_on() {
    let left = child::run("quiet", None, &[]).await;
    let [ours, none, theirs] = left.all("traceparent")[..] else {
        panic!("three messages")
    };
    assert!(ours.ends_with("-00"), "{ours}");
    assert_eq!(none, "", "no span, no context");
    assert_eq!(left.one("continues"), "true");
    assert!(theirs.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    assert!(theirs.ends_with("-01"), "{theirs}");
    assert!(left.one("flushed_in_ms").parse::<u64>().unwrap() < 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sampler_leaves_out_makes_no_span() {
    let collector = Collector::start(Mood::Takes).await.unwrap();
    let sampler = [("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
    let left = child::run("quiet", Some(&collector), &sampler).await;
    let [ours, none, theirs] = left.all("traceparent")[..] else {
        panic!("three messages")
    };
    assert!(ours.ends_with("-00") && none.ends_with("-00") && theirs.ends_with("-01"));
    let spans = collector.spans();
    let (trace, _) = theirs[3..].split_once('-').unwrap();
    assert!(
        spans.iter().all(|span| hex(&span.trace_id) == trace),
        "{spans:#?}"
    );
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    let kinds: Vec<_> = names.iter().map(|name| name.split(' ').next()).collect();
    let expected = ["create", "process", "request", "send"].map(Some);
    assert_eq!(kinds, expected);
}

/// A context that a caller passes on by itself: recorded, and not.
const GIVEN: [&str; 2] = [
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00",
];

/// In the child: messages whose callers gave a context, enqueued together inside of another trace.
pub(super) async fn given() {
    let world = World::embedded("given").await;
    let [recorded, not] = GIVEN;
    let messages = [
        secret(&world.topic, 1).with_header("traceparent", recorded),
        secret(&world.topic, 2).with_header("traceparent", not),
        secret(&world.topic, 3),
    ];
    let span = tracing::info_span!("request");
    say("request", span.context().span().span_context().span_id());
    world.send(&messages).instrument(span).await;
    let traceparents: Vec<String> =
        sqlx::query_scalar("select traceparent from outbox.log order by seq")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    for traceparent in traceparents {
        say("traceparent", traceparent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_the_caller_gave_is_the_parent_of_create_where_it_is_recorded() {
    let collector = Collector::start(Mood::Takes).await.unwrap();
    let left = child::run("given", Some(&collector), &[]).await;
    let mut creates = collector.spans();
    creates.retain(|span| span.name.starts_with("create "));
    creates
        .sort_by_key(|span| span.parent_span_id != [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
    let [below_given, below_request] = &creates[..] else {
        panic!("{creates:#?}")
    };
    let told = |span: &Span| format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
    assert_eq!(hex(&below_given.parent_span_id), GIVEN[0][36..52]);
    assert_eq!(hex(&below_request.parent_span_id), left.one("request"));
    let expected = [&told(below_given), GIVEN[1], &told(below_request)];
    assert_eq!(left.all("traceparent"), expected);
    assert!(told(below_given).starts_with(&GIVEN[0][..36]));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
