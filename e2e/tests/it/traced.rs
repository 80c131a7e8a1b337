//! One trace from a request to the last letter: the shop's processes export their spans to a
//! collector in this test, which looks at the whole tree.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use testbed::collector::{Ask, Collector, Made, Mood, Span, SpanKind};
use testbed::shop::Options;
use testbed::{Kafka, Shop, until};
use uuid::Uuid;

use crate::shop::{Client, SOON, delivered_to, order, paid_with};

/// An order that is fulfilled. Of spans with one parent those come first whose line does: `create`,
/// `process`, what the sagas do, `send`.
const FULFILLED: &str = "\
POST /v1/orders [order-service]
  create orders.events [order-service] order.placed.v1
    process orders.events [notification-service] order.placed.v1
    send orders.events [relay]
  saga.start [order-service]
    create payments.commands [order-service] payment.authorize.v1
      process payments.commands [payment-service] payment.authorize.v1
      saga.command [payment-service] authorize-payment action deferred
      saga.command [payment-service] authorize-payment action succeeded
        create orders.replies [payment-service] payment.authorized.v1
          process orders.replies [order-service] payment.authorized.v1
          saga.reply [order-service] authorize-payment action succeeded
            create deliveries.commands [order-service] delivery.schedule.v1
              process deliveries.commands [delivery-service] delivery.schedule.v1
              saga.command [delivery-service] schedule-delivery action succeeded
                create orders.replies [delivery-service] delivery.scheduled.v1
                  process orders.replies [order-service] delivery.scheduled.v1
                  saga.reply [order-service] schedule-delivery action succeeded
                    create payments.commands [order-service] payment.capture.v1
                      process payments.commands [payment-service] payment.capture.v1
                      saga.command [payment-service] capture-payment action succeeded
                        create orders.replies [payment-service] payment.captured.v1
                          process orders.replies [order-service] payment.captured.v1
                          saga.reply [order-service] capture-payment action succeeded
                            create deliveries.commands [order-service] delivery.hand_over.v1
                              process deliveries.commands [delivery-service] delivery.hand_over.v1
                              saga.command [delivery-service] hand-over action succeeded
                                create orders.replies [delivery-service] delivery.handed_over.v1
                                  process orders.replies [order-service] delivery.handed_over.v1
                                  saga.reply [order-service] hand-over action succeeded
                                    create orders.events [order-service] order.confirmed.v1
                                      process orders.events [notification-service] order.confirmed.v1
                                      send orders.events [relay]
                                  send orders.replies [relay]
                              send deliveries.commands [relay]
                          send orders.replies [relay]
                      send payments.commands [relay]
                  send orders.replies [relay]
              send deliveries.commands [relay]
          send orders.replies [relay]
      send payments.commands [relay]
";

/// An order that cannot be delivered: its payment is released.
const TURNED_BACK: &str = "\
POST /v1/orders [order-service]
  create orders.events [order-service] order.placed.v1
    process orders.events [notification-service] order.placed.v1
    send orders.events [relay]
  saga.start [order-service]
    create payments.commands [order-service] payment.authorize.v1
      process payments.commands [payment-service] payment.authorize.v1
      saga.command [payment-service] authorize-payment action deferred
      saga.command [payment-service] authorize-payment action succeeded
        create orders.replies [payment-service] payment.authorized.v1
          process orders.replies [order-service] payment.authorized.v1
          saga.reply [order-service] authorize-payment action succeeded
            create deliveries.commands [order-service] delivery.schedule.v1
              process deliveries.commands [delivery-service] delivery.schedule.v1
              saga.command [delivery-service] schedule-delivery action failed
                create orders.replies [delivery-service] saga.refused.v1
                  process orders.replies [order-service] saga.refused.v1
                  saga.reply [order-service] schedule-delivery action failed
                    create payments.commands [order-service] payment.release.v1
                      process payments.commands [payment-service] payment.release.v1
                      saga.command [payment-service] authorize-payment compensation compensated
                        create orders.replies [payment-service] saga.compensated.v1
                          process orders.replies [order-service] saga.compensated.v1
                          saga.reply [order-service] authorize-payment compensation compensated
                            create orders.events [order-service] order.rejected.v1
                              process orders.events [notification-service] order.rejected.v1
                              send orders.events [relay]
                          send orders.replies [relay]
                      saga.command [payment-service] authorize-payment compensation deferred
                      send payments.commands [relay]
                  send orders.replies [relay]
              send deliveries.commands [relay]
          send orders.replies [relay]
      send payments.commands [relay]
";

/// An order whose payment is never answered: what a timer does stands on the same trace.
const GIVEN_UP: &str = "\
POST /v1/orders [order-service]
  create orders.events [order-service] order.placed.v1
    process orders.events [notification-service] order.placed.v1
    send orders.events [relay]
  saga.start [order-service]
    create payments.commands [order-service] payment.authorize.v1
      process payments.commands [payment-service] payment.authorize.v1
      saga.command [payment-service] authorize-payment action deferred
      saga.command [payment-service] authorize-payment action silent
      send payments.commands [relay]
    saga.timer [order-service] authorize-payment
    saga.timer [order-service] authorize-payment
      create payments.commands [order-service] payment.authorize.v1
        process payments.commands [payment-service] payment.authorize.v1
        saga.command [payment-service] authorize-payment action deferred
        saga.command [payment-service] authorize-payment action silent
        send payments.commands [relay]
      saga.timer [order-service] authorize-payment
        create payments.commands [order-service] payment.release.v1
          process payments.commands [payment-service] payment.release.v1
          saga.command [payment-service] authorize-payment compensation null_compensated
            create orders.replies [payment-service] saga.null_compensated.v1
              process orders.replies [order-service] saga.null_compensated.v1
              saga.reply [order-service] authorize-payment compensation null_compensated
                create orders.events [order-service] order.rejected.v1
                  process orders.events [notification-service] order.rejected.v1
                  send orders.events [relay]
              send orders.replies [relay]
          send payments.commands [relay]
";

/// Who asks, in the first place.
const CALLER: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_one_trace_from_its_request_to_the_last_letter_and_so_is_one_that_turns_back() {
    let collector = Collector::start(Mood::Takes).await.expect("a collector");
    let kafka = Kafka::start().await.expect("a broker");
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url().as_str()),
        ("RUST_LOG", "info,chassis=debug,saga=debug"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = Options {
        prefix: format!("e2e_traced_{}_", Uuid::now_v7().simple()),
        step_timeout: Some("2s".to_owned()),
        environment: environment.to_vec(),
        ..Options::default()
    };
    let shop = Shop::start(testbed::postgres().await, &kafka, options).await;
    let mut shop = shop.unwrap_or_else(|error| panic!("{error:#}"));
    let client = Client::of(&shop);

    // One after the other, so that each message travels alone.
    let fulfilled = place(&client, &order(Uuid::now_v7()), "confirmed").await;
    let turned_back = place(&client, &delivered_to(Uuid::now_v7(), "00000"), "rejected").await;
    let silent = paid_with(Uuid::now_v7(), "pm_timeout");
    let given_up = place(&client, &silent, "rejected").await;
    assert_lines_name(&shop, &fulfilled);
    end(&mut shop).await;

    let made = collector.made();
    assert_eq!(collector.garbage(), 0);
    for (trace, expected) in [
        (&fulfilled, FULFILLED),
        (&turned_back, TURNED_BACK),
        (&given_up, GIVEN_UP),
    ] {
        let spans: Vec<&Made> = made
            .iter()
            .filter(|made| trace_of(made) == *trace)
            .collect();
        let tree = tree(&spans);
        assert_eq!(
            tree,
            expected,
            "this is not the tree; the difference:\n{}",
            difference(expected, &tree)
        );
        spans.iter().for_each(|made| assert_described(made, &spans));
    }
    let elsewhere = made.iter().filter(|made| {
        let ours = [&fulfilled, &turned_back, &given_up].contains(&&trace_of(made));
        // Who asks whether they are ready, and reads what became of an order; and each try at an
        // external effect, which is a trace of its own and names its saga.
        let others = ["GET ", "saga.external"];
        !ours && !others.iter().any(|other| made.span.name.starts_with(other))
    });
    let elsewhere: Vec<_> = elsewhere.map(line).collect();
    assert!(elsewhere.is_empty(), "in other traces: {elsewhere:#?}");
}

/// Places an order within a trace of its own and waits for its last letter. Returns the trace.
async fn place(client: &Client, order: &Value, ends: &str) -> String {
    let trace = Uuid::now_v7().simple().to_string();
    let order = client
        .place_within(&format!("00-{trace}-{CALLER}-01"), order)
        .await;
    assert_eq!(client.ended(order.id, SOON).await.status, ends);
    let url = format!("{}/v1/sagas/{}/messages", client.orders, order.saga_id);
    let told: Value = client.read(&url).await;
    let messages = told["messages"].as_array().expect("messages");
    assert!(
        messages.iter().all(|message| message["trace_id"] == trace),
        "{told:#}"
    );
    until(SOON, "the last letter", async || {
        let letters = client.notifications_of(order.id).await;
        let last = |template: &str| template.ends_with(ends);
        letters
            .iter()
            .any(|letter| last(&letter.template))
            .then_some(())
    })
    .await;
    trace
}

/// Ends every process as an orchestrator does, so that all of its spans are here.
async fn end(shop: &mut Shop) {
    for department in shop.departments_mut() {
        for process in [&mut department.relay, &mut department.service] {
            let status = process.terminate(SOON).await.expect("it runs");
            assert!(status.success(), "{status}");
        }
    }
}

/// Log lines of a request and of handlers, of other processes too, name the trace.
fn assert_lines_name(shop: &Shop, trace: &str) {
    for (service, message) in [
        ("order-service", "answered"),
        ("payment-service", "command settled"),
        ("order-service", "reply handled"),
    ] {
        let log = std::fs::read_to_string(shop.logs().join(format!("{service}.log")));
        let log = log.expect("a log");
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut lines = lines.filter(|line: &Value| line["message"] == message);
        assert!(
            lines.any(|line| line["trace_id"] == trace),
            "{service} does not name {trace} where it says {message}"
        );
    }
}

/// The spans below the caller's, as text.
fn tree(spans: &[&Made]) -> String {
    let mut below: HashMap<String, Vec<&Made>> = HashMap::new();
    for made in spans {
        let parent = hex(&made.span.parent_span_id);
        below.entry(parent).or_default().push(made);
    }
    let mut text = String::new();
    draw(CALLER, 0, &mut below, &mut text);
    let mut orphans: Vec<_> = below.into_values().flatten().map(line).collect();
    orphans.sort();
    for orphan in orphans {
        text.push_str(&format!("orphan: {orphan}\n"));
    }
    text
}

fn draw(parent: &str, depth: usize, below: &mut HashMap<String, Vec<&Made>>, text: &mut String) {
    let mut children = below.remove(parent).unwrap_or_default();
    children.sort_by_key(|made| line(made));
    for made in children {
        text.push_str(&format!("{}{}\n", "  ".repeat(depth), line(made)));
        draw(&hex(&made.span.span_id), depth + 1, below, text);
    }
}

fn line(made: &Made) -> String {
    let span = &made.span;
    let told = ["cloudevents.event_type", "step", "phase", "outcome"];
    let told = told.iter().filter_map(|name| span.attribute(name));
    let told: String = told.map(|value| format!(" {value}")).collect();
    let failed = if span.failed() { " failed!" } else { "" };
    format!("{} [{}]{told}{failed}", span.name, made.service)
}

/// What a span says besides its place.
fn assert_described(made: &Made, all: &[&Made]) {
    let Made { service, span } = made;
    let (what, topic) = span.name.split_once(' ').unwrap_or((&span.name, ""));
    let is = |name: &str, value: &str| {
        let told = span.attribute(name);
        assert_eq!(told.as_deref(), Some(value), "{name} of {}", line(made));
    };
    let kind = match what {
        "POST" => SpanKind::Server,
        "create" => SpanKind::Producer,
        "send" => SpanKind::Client,
        "process" => SpanKind::Consumer,
        _ => SpanKind::Internal,
    };
    assert_eq!(span.kind(), kind, "{}", line(made));
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    if !["create", "send", "process"].contains(&what) {
        return;
    }
    is("messaging.system", "kafka");
    is("messaging.operation.type", what);
    is("messaging.operation.name", what);
    is("messaging.destination.name", topic);
    let create = |id: &[u8]| all.iter().find(|other| other.span.span_id == id);
    match what {
        "send" => is("messaging.batch.message_count", "1i"),
        "process" => {
            let group = match service.as_str() {
                "order-service" => "order-service.sagas",
                other => other,
            };
            is("messaging.consumer.group.name", group);
            let create = create(&span.parent_span_id).expect("a parent");
            let id = create.span.attribute("messaging.message.id");
            is("messaging.message.id", &id.expect("an id"));
        }
        _ => return assert_eq!(span.linked(), Vec::<Vec<u8>>::new()),
    }
    // Linked to what they carried or handled, which is their parent too.
    assert_eq!(span.linked(), std::slice::from_ref(&span.parent_span_id));
    let linked = create(&span.parent_span_id).expect("a parent");
    assert_eq!(linked.span.name, format!("create {topic}"));
}

fn trace_of(made: &Made) -> String {
    hex(&made.span.trace_id)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lines that only one of them has.
fn difference(expected: &str, found: &str) -> String {
    let only = |mark, these: &str, those: &str| {
        let those: HashSet<_> = those.lines().collect();
        let only = these.lines().filter(|line| !those.contains(line));
        only.map(|line| format!("{mark} {line}\n"))
            .collect::<String>()
    };
    only('-', expected, found) + &only('+', found, expected)
}

#[test]
fn a_tree_that_is_not_whole_is_seen() {
    let made = |id: u8, parent: &[u8], name: &str| Made {
        service: "s".to_owned(),
        span: Span {
            span_id: vec![id; 8],
            parent_span_id: parent.to_vec(),
            name: name.to_owned(),
            ..Span::default()
        },
    };
    let caller: Vec<u8> = vec![0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7];
    let (root, child) = (made(1, &caller, "root"), made(2, &[1; 8], "child"));
    let whole = tree(&[&child, &root]);
    assert_eq!(whole, "root [s]\n  child [s]\n");
    let torn = made(2, &[9; 8], "child");
    assert_eq!(tree(&[&torn, &root]), "root [s]\norphan: child [s]\n");
    assert_eq!(difference(&whole, "root [s]\n"), "-   child [s]\n");
}
