//! The shop while parts of it die, and topics that say everything twice or say nonsense.
//!
//! Each test has the shop alone, and proves that its fault happened before it says that nothing came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use serde_json::{Value, json};
use testbed::shop::Department;
use testbed::{Kafka, Shop, until};
use uuid::Uuid;

use crate::shop::{
    self, Client, HEALED, House, Ledger, Notification, Order, SOON, assert_settled, counted,
    database,
};
use crate::topics::{self, Record};

/// How many customers order at the same time, each again once the last order has ended.
const CUSTOMERS: usize = 32;
/// How much a relay has published when it is killed: it is in the middle of its work.
const MID_STREAM: f64 = 20.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_mid_stream_loses_no_message() {
    let mut house = shop::shop_alone().await;
    let House { kafka, shop } = &mut *house;
    let client = Client::of(shop);
    let closing_time = Arc::new(AtomicBool::new(false));
    let customers: Vec<_> = (0..CUSTOMERS)
        .map(|_| {
            tokio::spawn(order_again_and_again(
                Client::of(shop),
                closing_time.clone(),
            ))
        })
        .collect();
    let mut unsent = 0;
    for _round in 0..3 {
        for department in [&mut shop.orders, &mut shop.payments] {
            is_streaming(department).await;
            unsent += kill_relay(department, kafka.bootstrap()).await;
            department.relay.start().expect("the relay starts again");
        }
    }
    is_streaming(&shop.orders).await;
    let in_flight = kill_relay_with_messages_in_flight(shop, kafka).await;
    shop.orders.relay.start().expect("the relay starts again");
    closing_time.store(true, Ordering::Relaxed);
    let mut ended = Vec::new();
    for order in in_flight {
        ended.push(client.ended(order.id, HEALED).await);
    }
    for customer in customers {
        ended.extend(customer.await.expect("every order of a customer ends"));
    }
    for order in &ended {
        assert_settled(&client, order).await;
    }
    let copies = assert_all_arrived(shop, kafka.bootstrap()).await;
    println!(
        "{} orders; unsent when a relay was killed: {unsent}; sent again: {copies}",
        ended.len()
    );
    let confirmed = ended.iter().filter(|order| order.status == "confirmed");
    assert!(confirmed.count() > 0, "no order was fulfilled");
}

#[tokio::test]
async fn order_service_killed_in_the_middle_of_its_sagas_ends_them_all() {
    let mut house = shop::shop_alone().await;
    let shop = &mut house.shop;
    let client = Client::of(shop);
    let customer = Uuid::now_v7();
    // Two kinds that take their time are under way for certain.
    let slow = [
        shop::paid_with(customer, "pm_timeout"),
        shop::delivered_to(customer, "99999"),
    ];
    let quick = (0..30).map(|n| {
        let postcode = if n % 3 == 0 { "00000" } else { "10115" };
        shop::delivered_to(customer, postcode)
    });
    let orders: Vec<_> = slow.into_iter().chain(quick).collect();
    let placed = join_all(orders.iter().map(|order| client.place(order))).await;
    shop.orders.service.kill().expect("order-service is killed");

    let running =
        sagas_in(shop, customer, "running").await + sagas_in(shop, customer, "compensating").await;
    assert!(
        running > 0,
        "every saga had ended before order-service was killed"
    );
    let answer = client.try_post(&shop::order(customer), None).await;
    assert!(
        answer.is_err(),
        "order-service answers although it was killed"
    );
    shop.orders
        .service
        .start()
        .expect("order-service starts again");
    shop.orders
        .wait_ready()
        .await
        .expect("order-service is ready");

    for (order, asked) in placed.iter().zip(&orders) {
        let order = client.ended(order.id, HEALED).await;
        assert_settled(&client, &order).await;
        let doomed =
            asked["payment_method"] == "pm_timeout" || asked["delivery"]["postcode"] == "00000";
        assert!(
            !doomed || order.status == "rejected",
            "{asked} became {order:?}"
        );
    }
    let ended =
        sagas_in(shop, customer, "completed").await + sagas_in(shop, customer, "compensated").await;
    assert_eq!(ended, orders.len() as i64);
}

#[tokio::test]
async fn every_message_delivered_twice_changes_nothing() {
    let house = shop::shop_alone().await;
    let House { kafka, shop } = &*house;
    let client = Client::of(shop);
    let customer = Uuid::now_v7();
    let orders = [
        shop::order(customer),
        shop::paid_with(customer, "pm_card_declined"),
        shop::delivered_to(customer, "00000"),
        shop::delivered_to(customer, "99999"),
        shop::paid_with(customer, "pm_flaky"),
    ];
    let placed = join_all(orders.iter().map(|order| client.place(order))).await;
    for order in &placed {
        assert_settled(&client, &client.ended(order.id, SOON).await).await;
    }
    assert_all_arrived(shop, kafka.bootstrap()).await;
    let before = Picture::of(shop, &client, &placed).await;
    let counted_before = duplicates(shop, &client).await;

    let ours = sent(shop).await;
    let mut expected = BTreeMap::new();
    for topic in topics::ALL {
        let mut records = topics::read(kafka.bootstrap(), topic).await;
        // What other tests put there is not the shop's.
        records.retain(|record| record.id().is_some_and(|id| ours.contains_key(&id)));
        assert!(!records.is_empty(), "nothing was ever sent to {topic}");
        expected.insert(topic, records.len() as f64);
        topics::write(kafka.bootstrap(), records).await;
    }
    until(
        HEALED,
        "every consumer to meet every duplicate",
        async || {
            let counted = duplicates(shop, &client).await;
            let met =
                |(topic, copies): (&&str, &f64)| counted[topic] - counted_before[topic] >= *copies;
            expected.iter().all(met).then_some(())
        },
    )
    .await;

    let after = Picture::of(shop, &client, &placed).await;
    assert_eq!(before, after);
    // And the shop goes on.
    let order = client.place(&shop::order(customer)).await;
    let order = client.ended(order.id, SOON).await;
    assert_eq!(order.status, "confirmed");
}

#[tokio::test]
async fn nonsense_on_any_topic_is_parked_with_its_reason_while_orders_go_on() {
    let house = shop::shop_alone().await;
    let House { kafka, shop } = &*house;
    let client = Client::of(shop);
    let key = format!("nonsense-{}", Uuid::now_v7());
    let nonsense: Vec<Record> = topics::ALL
        .iter()
        .flat_map(|topic| nonsense(topic, &key))
        .collect();
    let each = nonsense.len() / topics::ALL.len();
    topics::write(kafka.bootstrap(), nonsense).await;
    // In the same partitions, behind it: each key has one, and these are many keys.
    let orders: Vec<_> = (0..12).map(|_| shop::order(Uuid::now_v7())).collect();
    let placed = join_all(orders.iter().map(|order| client.place(order))).await;
    for order in placed {
        let order = client.ended(order.id, SOON).await;
        assert_eq!(order.status, "confirmed");
        assert_settled(&client, &order).await;
    }
    for (topic, department, consumer) in consumers(shop) {
        // Who names the kinds it handles skips the one that nobody knows, and parks what is behind it.
        let skips = consumer == "notification-service";
        let each = each - usize::from(skips);
        let what = format!("all nonsense of {topic} to be parked");
        let parked = until(SOON, &what, async || {
            let parked = parked(department, topic, &key).await;
            (parked.len() >= each).then_some(parked)
        });
        let parked = parked.await;
        assert_eq!(parked.len(), each, "{parked:?}");
        let is_unknown = |parked: &&Parked| parked.kind.as_deref() == Some(UNKNOWN_KIND);
        let unknown = parked.iter().filter(is_unknown).count();
        assert_eq!(unknown, usize::from(!skips), "{parked:?}");
        for parked in parked {
            assert_eq!(parked.consumer, consumer);
            // All of it has one key: where order matters, the later waits behind the first.
            let waits = parked.class == "blocked" && consumer == "notification-service";
            let expected = waits || ["unreadable", "refused"].contains(&parked.class.as_str());
            assert!(expected && parked.reason.contains(' '), "{parked:?}");
            assert!(
                !parked.reason.contains("{broken"),
                "a payload is in {parked:?}"
            );
        }
        let text = client
            .get(&format!("{}/metrics", department.service_url))
            .await
            .text()
            .await;
        let text = text.expect("text");
        let consumer = format!("consumer=\"{consumer}\"");
        let messages =
            |outcome| counted(&text, "inbox_messages_total", &[consumer.as_str(), outcome]);
        assert!(messages("outcome=\"parked\"") >= each as f64, "{text}");
        assert!(!skips || messages("outcome=\"skipped\"") >= 1.0, "{text}");
        department
            .wait_ready()
            .await
            .expect("nonsense makes nobody unready");
    }
}

// --- load ---

async fn order_again_and_again(client: Client, closing_time: Arc<AtomicBool>) -> Vec<Order> {
    let order = shop::order(Uuid::now_v7());
    let mut ended = Vec::new();
    while !closing_time.load(Ordering::Relaxed) {
        let placed = client.place(&order).await;
        ended.push(client.ended(placed.id, HEALED).await);
    }
    ended
}

async fn sagas_in(shop: &Shop, customer: Uuid, status: &str) -> i64 {
    sqlx::query_scalar(
        "select count(*) from saga.instance where data->>'customer_id' = $1::text and status = $2",
    )
    .bind(customer)
    .bind(status)
    .fetch_one(&mut database(&shop.orders).await)
    .await
    .expect("a count")
}

// --- messages ---

/// A message of an outbox: where it belongs, in which order.
struct Logged {
    topic: String,
    key: String,
    seq: i64,
}

/// Waits until a relay is in the middle of its work.
async fn is_streaming(department: &Department) {
    let http = testbed::http(SOON);
    let url = format!("{}/metrics", department.relay_url);
    until(
        HEALED,
        "the relay to be in the middle of its work",
        async || {
            let text = http.get(&url).send().await.ok()?.text().await.ok()?;
            (counted(&text, "outbox_published_total", &[]) >= MID_STREAM).then_some(())
        },
    )
    .await;
}

/// Kills a relay. Returns how many messages, committed before that, were not on their topics.
async fn kill_relay(department: &mut Department, bootstrap: &str) -> usize {
    let committed = logged(department).await;
    department.relay.kill().expect("the relay is killed");
    let there = on_topics(bootstrap).await;
    committed
        .keys()
        .filter(|id| !there.contains_key(id))
        .count()
}

/// Kills order-service's relay while it has messages in flight for certain: the broker is held still, so that what the relay
/// sends stays unacknowledged until it is dead. Returns the orders whose messages those were.
async fn kill_relay_with_messages_in_flight(shop: &mut Shop, kafka: &mut Kafka) -> Vec<Order> {
    let client = Client::of(shop);
    let order = shop::order(Uuid::now_v7());
    kafka.suspend().expect("the broker is held");
    let placed = join_all((0..8).map(|_| client.place(&order))).await;
    let ready = format!("{}/readyz", shop.orders.relay_url);
    until(
        SOON,
        "the relay to say that nothing is acknowledged",
        async || {
            let report: Value = client.get(&ready).await.json().await.ok()?;
            let why = report["checks"]["lease"]["detail"].as_str()?;
            why.contains("acknowledges nothing").then_some(())
        },
    )
    .await;
    shop.orders.relay.kill().expect("the relay is killed");
    kafka.resume().expect("the broker goes on");
    placed
}

async fn logged(department: &Department) -> HashMap<Uuid, Logged> {
    let rows: Vec<(Uuid, String, String, i64)> =
        sqlx::query_as("select message_id, topic, key, seq from outbox.log")
            .fetch_all(&mut database(department).await)
            .await
            .expect("the log");
    let entry = |(id, topic, key, seq)| (id, Logged { topic, key, seq });
    rows.into_iter().map(entry).collect()
}

/// Everything any department ever sent.
async fn sent(shop: &Shop) -> HashMap<Uuid, Logged> {
    let mut sent = HashMap::new();
    for department in shop.departments() {
        sent.extend(logged(department).await);
    }
    sent
}

/// The message ids on the topics, each with how often it is there.
async fn on_topics(bootstrap: &str) -> HashMap<Uuid, usize> {
    let mut there = HashMap::new();
    for topic in topics::ALL {
        for id in topics::read(bootstrap, topic)
            .await
            .iter()
            .filter_map(Record::id)
        {
            *there.entry(id).or_default() += 1;
        }
    }
    there
}

/// Asserts that every committed message is on its topic, and that the first copies of each key are in order. Returns how many
/// further copies there are.
async fn assert_all_arrived(shop: &Shop, bootstrap: &str) -> usize {
    until(HEALED, "every committed message to arrive", async || {
        let sent = sent(shop).await;
        let there = on_topics(bootstrap).await;
        sent.keys().all(|id| there.contains_key(id)).then_some(())
    })
    .await;
    let mut further = 0;
    for department in shop.departments() {
        further += assert_order(&logged(department).await, bootstrap).await;
    }
    further
}

async fn assert_order(logged: &HashMap<Uuid, Logged>, bootstrap: &str) -> usize {
    let topics: BTreeSet<&str> = logged
        .values()
        .map(|message| message.topic.as_str())
        .collect();
    let mut further = 0;
    for topic in topics {
        let (mut seen, mut last) = (BTreeSet::new(), HashMap::new());
        for record in topics::read(bootstrap, topic).await {
            let Some((id, message)) = record.id().and_then(|id| Some((id, logged.get(&id)?)))
            else {
                continue;
            };
            assert_eq!(message.topic, topic, "message {id} is on another topic");
            assert_eq!(
                record.key.as_deref(),
                Some(message.key.as_bytes()),
                "the key of message {id}"
            );
            if !seen.insert(id) {
                further += 1;
            } else if let Some(before) = last.insert(&message.key, message.seq) {
                assert!(
                    before < message.seq,
                    "message {id} of {topic} overtook one of its key"
                );
            }
        }
    }
    further
}

/// Each topic with the department whose service consumes it, and the consumer's name.
fn consumers(shop: &Shop) -> [(&'static str, &Department, &'static str); 4] {
    [
        (topics::PAYMENT_COMMANDS, &shop.payments, "payment-service"),
        (
            topics::DELIVERY_COMMANDS,
            &shop.deliveries,
            "delivery-service",
        ),
        (topics::ORDER_REPLIES, &shop.orders, "order-service.sagas"),
        (
            topics::ORDER_EVENTS,
            &shop.notifications,
            "notification-service",
        ),
    ]
}

/// The duplicates each consumer has counted, by topic.
async fn duplicates(shop: &Shop, client: &Client) -> BTreeMap<&'static str, f64> {
    let mut counts = BTreeMap::new();
    for (topic, department, consumer) in consumers(shop) {
        let text = client
            .get(&format!("{}/metrics", department.service_url))
            .await
            .text()
            .await;
        let consumer = format!("consumer=\"{consumer}\"");
        let labels = [consumer.as_str(), "outcome=\"duplicate\""];
        counts.insert(
            topic,
            counted(&text.expect("text"), "inbox_messages_total", &labels),
        );
    }
    counts
}

// --- what must not change ---

/// Everything that a repeated message could change.
#[derive(Debug, PartialEq)]
struct Picture {
    orders: Vec<Order>,
    histories: Vec<usize>,
    ledger: Ledger,
    /// Every delivery, and the places taken of each day.
    deliveries: Vec<Value>,
    notifications: Vec<Vec<Notification>>,
    all_notifications: i64,
}

impl Picture {
    async fn of(shop: &Shop, client: &Client, placed: &[Order]) -> Picture {
        let mut picture = Picture {
            orders: Vec::new(),
            histories: Vec::new(),
            ledger: client.ledger().await,
            deliveries: rows(&shop.deliveries, DELIVERIES).await,
            notifications: Vec::new(),
            all_notifications: sqlx::query_scalar(
                "select count(*) from notifications.notification",
            )
            .fetch_one(&mut database(&shop.notifications).await)
            .await
            .expect("a count"),
        };
        for order in placed {
            picture.orders.push(client.order(order.id).await);
            picture
                .histories
                .push(client.events(order.saga_id).await.len());
            picture
                .notifications
                .push(client.notifications_of(order.id).await);
        }
        picture
    }
}

const DELIVERIES: &str = "select to_jsonb(d) from deliveries.delivery d
     union all select to_jsonb(d) from deliveries.day d order by 1";

async fn rows(department: &Department, sql: &'static str) -> Vec<Value> {
    let rows = sqlx::query_scalar(sql)
        .fetch_all(&mut database(department).await)
        .await;
    rows.expect("rows")
}

// --- nonsense ---

/// A kind that no consumer knows, in no version.
const UNKNOWN_KIND: &str = "order.teleported.v9";

/// A message that could not be handled.
#[derive(Debug, sqlx::FromRow)]
struct Parked {
    consumer: String,
    kind: Option<String>,
    class: String,
    reason: String,
}

async fn parked(department: &Department, topic: &str, key: &str) -> Vec<Parked> {
    sqlx::query_as(
        "select consumer, class, reason,
                (select convert_from(decode(header ->> 1, 'hex'), 'UTF8')
                 from jsonb_array_elements(headers) as header
                 where header ->> 0 = 'ce_type') as kind
         from outbox.inbox_parked where topic = $1 and key = $2",
    )
    .bind(topic)
    .bind(key.as_bytes())
    .fetch_all(&mut database(department).await)
    .await
    .expect("what is parked")
}

/// Ways for a record to be no message of the shop.
fn nonsense(topic: &str, key: &str) -> Vec<Record> {
    let kind = match topic {
        topics::PAYMENT_COMMANDS => "payment.authorize.v1",
        topics::DELIVERY_COMMANDS => "delivery.schedule.v1",
        topics::ORDER_REPLIES => "payment.authorized.v1",
        _ => "order.placed.v1",
    };
    let with = |headers: Vec<(String, Option<Vec<u8>>)>, payload: Option<&[u8]>| Record {
        topic: topic.to_owned(),
        partition: None,
        offset: None,
        key: Some(key.as_bytes().to_vec()),
        payload: payload.map(<[u8]>::to_vec),
        headers,
    };
    let named = |kind: &str| {
        let id = Uuid::now_v7();
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        vec![
            header("ce_specversion", "1.0"),
            header("ce_id", &id.to_string()),
            header("ce_type", kind),
            header("ce_source", "/nowhere"),
        ]
    };
    let not_utf8 = ("x".to_owned(), Some(vec![0xff, 0xfe, 0x00]));
    let deep = "[".repeat(10_000);
    let huge = json!({"order_id": "x".repeat(500_000)}).to_string();
    vec![
        with(vec![], Some(&[0x00, 0xff, 0x80])),
        with(vec![], None),
        with([named(kind), vec![not_utf8]].concat(), Some(b"{}")),
        with(named(UNKNOWN_KIND), Some(b"{}")),
        with(named(kind), Some(b"{broken")),
        with(named(kind), Some(b"")),
        with(named(kind), None),
        with(named(kind), Some(deep.as_bytes())),
        with(named(kind), Some(huge.as_bytes())),
    ]
}
