//! The running shop, and a client that speaks to it as anybody would: by REST.
//!
//! One shop for all tests of this binary, on a broker of its own, because topics and consumer groups belong to a broker.
//! Scenarios share it; a test that hurts it has it alone.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use chassis::http::auth::{Role, mint};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::NamedTempFile;
use testbed::shop::{Department, Options};
use testbed::{Kafka, Process, Shop, free_port, until};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use uuid::Uuid;

/// How long a step of a saga may take here. Short, because one scenario has to wait for it, twice.
const STEP_TIMEOUT: &str = "2s";
/// How long anything may take that is not a fault.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How long a shop may take to be itself again: a killed consumer's partitions wait ten seconds for it.
pub(crate) const HEALED: Duration = Duration::from_secs(60);

/// What an order of [`order`] costs.
pub(crate) const TOTAL: i64 = 2500;
/// Who receives the parcel: stands in every payload, and must stand in no log and no metric.
pub(crate) const RECIPIENT: &str = "Wilhelmine Ohnegleichen";

/// The shop and its broker.
pub(crate) struct House {
    pub(crate) kafka: Kafka,
    pub(crate) shop: Shop,
}

static HOUSE: OnceCell<RwLock<House>> = OnceCell::const_new();

/// The shop, shared.
pub(crate) async fn shop() -> RwLockReadGuard<'static, House> {
    house().await.read().await
}

/// The shop, alone and whole: what an earlier test left dead is started.
pub(crate) async fn shop_alone() -> RwLockWriteGuard<'static, House> {
    let mut house = house().await.write().await;
    house.kafka.resume().expect("the broker goes on");
    for department in house.shop.departments_mut() {
        for process in [&mut department.relay, &mut department.service] {
            if !process.is_running() {
                process.start().expect("a process starts again");
            }
        }
        department
            .wait_ready()
            .await
            .expect("the department is ready");
    }
    house
}

async fn house() -> &'static RwLock<House> {
    HOUSE.get_or_init(async || RwLock::new(open().await)).await
}

async fn open() -> House {
    let kafka = Kafka::start().await.expect("a broker");
    let logs = testbed::target_folder().join("e2e-logs");
    // What an earlier run left.
    let _ = std::fs::remove_dir_all(&logs);
    let options = Options {
        prefix: format!("e2e_{}_", Uuid::now_v7().simple()),
        step_timeout: Some(STEP_TIMEOUT.to_owned()),
        logs: Some(logs),
        ..Options::default()
    };
    let shop = Shop::start(testbed::postgres().await, &kafka, options).await;
    let shop = shop.unwrap_or_else(|error| panic!("{error:#}"));
    House { kafka, shop }
}

/// An order of one customer that goes well.
pub(crate) fn order(customer: Uuid) -> Value {
    json!({
        "customer_id": customer,
        "currency": "EUR",
        "items": [{"sku": "BOOK-1", "quantity": 2, "unit_price": 1250}],
        "payment_method": "pm_card_visa",
        "delivery": {
            "name": RECIPIENT,
            "street": "Chausseestraße 1",
            "postcode": "10115",
            "city": "Berlin",
            "country": "DE",
        },
    })
}

/// An order paid with this token.
pub(crate) fn paid_with(customer: Uuid, payment_method: &str) -> Value {
    let mut order = order(customer);
    order["payment_method"] = payment_method.into();
    order
}

/// An order delivered there.
pub(crate) fn delivered_to(customer: Uuid, postcode: &str) -> Value {
    let mut order = order(customer);
    order["delivery"]["postcode"] = postcode.into();
    order
}

/// What order-service says of an order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) total: i64,
    pub(crate) saga_id: Uuid,
    pub(crate) customer_id: Uuid,
}

/// What payment-service says of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Payment {
    pub(crate) id: Uuid,
    pub(crate) status: String,
    pub(crate) amount: i64,
}

/// What delivery-service says of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) status: String,
    pub(crate) tracking: Option<String>,
}

/// What notification-service recorded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Notification {
    pub(crate) event_id: Uuid,
    pub(crate) customer_id: Uuid,
    pub(crate) template: String,
    pub(crate) text: String,
}

/// All money at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) accounts: Vec<Account>,
    pub(crate) holds: Vec<Hold>,
    pub(crate) total: i64,
    pub(crate) totals: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Account {
    pub(crate) account: String,
    pub(crate) balance: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Hold {
    pub(crate) order_id: Uuid,
    pub(crate) amount: i64,
}

/// One event of a saga's history.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) seq: i64,
    pub(crate) event: Value,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next_cursor: Option<String>,
}

/// Asks the shop.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(crate) orders: String,
    pub(crate) payments: String,
    pub(crate) deliveries: String,
    pub(crate) notifications: String,
}

impl Client {
    /// A client of this shop. One per test: connections belong to a test's runtime.
    pub(crate) fn of(shop: &Shop) -> Client {
        Client {
            http: testbed::http(Duration::from_secs(20)),
            orders: shop.orders.service_url.clone(),
            payments: shop.payments.service_url.clone(),
            deliveries: shop.deliveries.service_url.clone(),
            notifications: shop.notifications.service_url.clone(),
        }
    }

    /// As [`of`](Self::of), with orders asked for at this gateway.
    pub(crate) fn through(shop: &Shop, gateway: &str) -> Client {
        Client {
            orders: gateway.to_owned(),
            ..Client::of(shop)
        }
    }

    pub(crate) async fn get(&self, url: &str) -> Response {
        self.http.get(url).send().await.expect("an answer")
    }

    /// The content of a 200.
    pub(crate) async fn read<T: DeserializeOwned>(&self, url: &str) -> T {
        let answer = self.get(url).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        assert_eq!(status, StatusCode::OK, "{url}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
    }

    /// Posts to `/v1/orders`. An error is an answer that did not come.
    pub(crate) async fn try_post(
        &self,
        order: &Value,
        key: Option<&str>,
    ) -> Result<Response, reqwest::Error> {
        let request = self
            .http
            .post(format!("{}/v1/orders", self.orders))
            .json(order);
        let request = match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        };
        request.send().await
    }

    pub(crate) async fn post(&self, order: &Value, key: Option<&str>) -> Response {
        self.try_post(order, key).await.expect("an answer")
    }

    /// Places an order within a trace. It must be taken.
    pub(crate) async fn place_within(&self, traceparent: &str, order: &Value) -> Order {
        let request = self
            .http
            .post(format!("{}/v1/orders", self.orders))
            .header("traceparent", traceparent)
            .json(order);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.json().await.expect("an order")
    }

    /// Posts bytes that may be anything.
    pub(crate) async fn post_raw(&self, content_type: Option<&str>, body: String) -> Response {
        let request = self
            .http
            .post(format!("{}/v1/orders", self.orders))
            .body(body);
        let request = match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        };
        request.send().await.expect("an answer")
    }

    /// Places an order that is right.
    pub(crate) async fn place(&self, order: &Value) -> Order {
        let answer = self.post(order, None).await;
        assert_eq!(
            answer.status(),
            StatusCode::CREATED,
            "{}",
            answer.text().await.unwrap_or_default()
        );
        answer.json().await.expect("an order")
    }

    pub(crate) async fn order(&self, id: Uuid) -> Order {
        self.read(&format!("{}/v1/orders/{id}", self.orders)).await
    }

    /// The order, once its saga has ended.
    pub(crate) async fn ended(&self, id: Uuid, deadline: Duration) -> Order {
        until(deadline, &format!("the end of order {id}"), async || {
            let order = self.order(id).await;
            (order.status != "pending").then_some(order)
        })
        .await
    }

    pub(crate) async fn orders_of(&self, customer: Uuid) -> Vec<Order> {
        let url = format!("{}/v1/orders?customer_id={customer}&limit=200", self.orders);
        self.read::<Page<Order>>(&url).await.items
    }

    pub(crate) async fn saga(&self, id: Uuid) -> Value {
        self.read(&format!("{}/v1/sagas/{id}", self.orders)).await
    }

    /// A saga's whole history.
    pub(crate) async fn events(&self, saga: Uuid) -> Vec<Recorded> {
        let url = format!("{}/v1/sagas/{saga}/events?limit=1000", self.orders);
        let mut answer: Value = self.read(&url).await;
        let events: Vec<Recorded> =
            serde_json::from_value(answer["events"].take()).expect("events");
        assert!(
            events
                .iter()
                .map(|event| event.seq)
                .eq(1..=events.len() as i64),
            "a gap in {events:?}"
        );
        events
    }

    /// Asks for an operation on a saga, each time anew.
    pub(crate) async fn operate(&self, saga: Uuid, body: &Value) -> Response {
        let url = format!("{}/v1/sagas/{saga}/operations", self.orders);
        let request = self.http.post(url).json(body);
        let request = request.header("Idempotency-Key", Uuid::now_v7().to_string());
        request.send().await.expect("an answer")
    }

    pub(crate) async fn payments_of(&self, order: Uuid) -> Vec<Payment> {
        let url = format!("{}/v1/payments?order_id={order}", self.payments);
        self.read::<Page<Payment>>(&url).await.items
    }

    pub(crate) async fn deliveries_of(&self, order: Uuid) -> Vec<Delivery> {
        let url = format!("{}/v1/deliveries?order_id={order}", self.deliveries);
        self.read::<Page<Delivery>>(&url).await.items
    }

    pub(crate) async fn notifications_of(&self, order: Uuid) -> Vec<Notification> {
        let url = format!("{}/v1/notifications?order_id={order}", self.notifications);
        self.read::<Page<Notification>>(&url).await.items
    }

    /// The ledger, which sums to zero whenever somebody looks.
    pub(crate) async fn ledger(&self) -> Ledger {
        let ledger: Ledger = self.read(&format!("{}/v1/ledger", self.payments)).await;
        assert_eq!(ledger.total, 0, "money appeared or vanished: {ledger:?}");
        assert!(
            ledger.totals.iter().all(|total| total["total"] == 0),
            "{ledger:?}"
        );
        ledger
    }
}

impl Ledger {
    /// The accounts of a customer, by the word before the id.
    pub(crate) fn accounts_of(&self, customer: Uuid) -> BTreeMap<String, i64> {
        let of_customer = self.accounts.iter().filter_map(|account| {
            let (kind, id) = account.account.split_once(':')?;
            (id == customer.to_string()).then(|| (kind.to_owned(), account.balance))
        });
        of_customer.collect()
    }

    /// What is held for an order.
    pub(crate) fn held_for(&self, order: Uuid) -> i64 {
        let holds = self.holds.iter().filter(|hold| hold.order_id == order);
        holds.map(|hold| hold.amount).sum()
    }
}

/// What a history comes to: the facts, without the attempts that a slow machine may need more of.
pub(crate) fn story(events: &[Recorded]) -> Vec<String> {
    let told = [
        "action_succeeded",
        "action_failed",
        "action_unknown",
        "round_planned",
        "compensation_started",
        "step_compensated",
        "step_null_compensated",
        "parked",
        "completed",
        "compensated",
    ];
    let text = |event: &Recorded, field: &str| event.event[field].as_str().map(str::to_owned);
    let facts = events.iter().filter_map(|event| {
        let kind = text(event, "type").filter(|kind| told.contains(&kind.as_str()))?;
        Some(match text(event, "step") {
            Some(step) => format!("{kind} {step}"),
            None => kind,
        })
    });
    facts.collect()
}

/// Asserts that an order that has ended left things as an order with this end does, in all four services.
pub(crate) async fn assert_settled(client: &Client, order: &Order) {
    let id = order.id;
    let payments: Vec<_> = client
        .payments_of(id)
        .await
        .into_iter()
        .map(|p| p.status)
        .collect();
    let deliveries: Vec<_> = client
        .deliveries_of(id)
        .await
        .into_iter()
        .map(|d| d.status)
        .collect();
    match order.status.as_str() {
        "confirmed" => {
            assert_eq!(payments, ["captured"], "payment of {order:?}");
            assert_eq!(deliveries, ["handed_over"], "delivery of {order:?}");
            assert_eq!(order.reason, None);
        }
        "rejected" => {
            assert!(
                payments.iter().all(|status| status == "released"),
                "{payments:?} of {order:?}"
            );
            assert!(
                deliveries.iter().all(|status| status == "cancelled"),
                "{deliveries:?} of {order:?}"
            );
            let reason = order.reason.as_deref().unwrap_or_default();
            // A sentence, and none with the name of a step in it.
            assert!(
                reason.ends_with('.') && reason.contains(' ') && !reason.contains("-"),
                "{reason:?}"
            );
        }
        status => panic!("{status} is no end of an order"),
    }
    assert_eq!(
        client.ledger().await.held_for(id),
        0,
        "money is still held for {order:?}"
    );
    assert_notified(client, order).await;
}

/// Asserts that the customer is told of the order's beginning and end, each once.
async fn assert_notified(client: &Client, order: &Order) {
    let what = format!("both notifications of order {}", order.id);
    let told = until(SOON, &what, async || {
        let told = client.notifications_of(order.id).await;
        (told.len() >= 2).then_some(told)
    });
    let told = told.await;
    let templates: Vec<_> = told.iter().map(|n| n.template.as_str()).collect();
    assert_eq!(
        templates,
        ["order_placed", format!("order_{}", order.status).as_str()]
    );
    assert_ne!(told[0].event_id, told[1].event_id);
    assert!(
        told.iter().all(|n| n.customer_id == order.customer_id),
        "{told:?}"
    );
    if let Some(reason) = &order.reason {
        assert!(
            told[1].text.contains(reason),
            "{:?} does not say why: {reason}",
            told[1].text
        );
    }
}

/// A connection to a department's database, for what REST does not show.
pub(crate) async fn database(department: &Department) -> PgConnection {
    PgConnection::connect(&department.database_url)
        .await
        .expect("a connection")
}

/// The sum of a counter over the series whose labels contain all of `labels`.
pub(crate) fn counted(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let series = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = rest.rsplit_once(' ')?;
        let named =
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| found.contains(label));
        named.then(|| value.parse::<f64>().ok()).flatten()
    });
    series.sum()
}

/// One more order-service of the shop, which asks callers who they are.
pub(crate) struct Guarded {
    pub(crate) url: String,
    /// Of an admin.
    pub(crate) token: String,
    _process: Process,
    _file: NamedTempFile,
}

impl Guarded {
    pub(crate) async fn start(house: &House) -> Guarded {
        let minted = mint("ann", Role::Admin, None).expect("a token");
        let mut file = NamedTempFile::new().expect("a file");
        writeln!(file, "{}", minted.line).expect("it is written");
        let others = house.shop.departments().into_iter().skip(1);
        let others = others.map(|other| format!("{}={}", other.plan.service, other.service_url));
        let port = free_port();
        let process = Process::new("order-service").expect("the program");
        let mut process = process
            .env("DATABASE_URL", &house.shop.orders.database_url)
            .env("KAFKA_BROKERS", house.kafka.bootstrap())
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("STEP_TIMEOUT", STEP_TIMEOUT)
            .env("AUTH_TOKENS", file.path().display().to_string())
            .env("DASHBOARD_NEIGHBOURS", others.collect::<Vec<_>>().join(","));
        process.start().expect("a guarded order-service starts");
        let url = format!("http://127.0.0.1:{port}");
        process.wait_ready(&url).await.expect("it is ready");
        Guarded {
            url,
            token: minted.token,
            _process: process,
            _file: file,
        }
    }
}
