use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use testbed::gateway::Options;
use testbed::{Gateway, Process, free_port, http, signal, until};
use uuid::Uuid;

use crate::shop::{self, Client, HEALED, House, SOON, assert_settled, counted};

/// How many post, and how many read, at the same time.
const CALLERS: usize = 6;
/// How often the instance is killed.
const KILLS: usize = 3;
/// How many calls of each kind it has answered before.
const SERVED: f64 = 20.0;
/// For so many looks nothing was answered: every caller waits for the instance that froze.
const STANDSTILL: usize = 10;

/// What the callers share.
#[derive(Default)]
struct Rush {
    is_over: AtomicBool,
    answered: AtomicUsize,
}

/// A second order-service of the shop, to be killed again and again.
struct Second {
    process: Process,
    url: String,
}

impl Second {
    async fn start(house: &House) -> Second {
        let port = free_port();
        let process = Process::new("order-service").expect("the program");
        let mut process = process
            .env("DATABASE_URL", &house.shop.orders.database_url)
            .env("KAFKA_BROKERS", house.kafka.bootstrap())
            .env("LISTEN", format!("127.0.0.1:{port}"));
        process.start().expect("a second order-service starts");
        let url = format!("http://127.0.0.1:{port}");
        process.wait_ready(&url).await.expect("it is ready");
        Second { process, url }
    }

    /// Freezes it once it has answered calls of both kinds, and kills it when every caller waits for it.
    async fn kill_with_calls_in_its_hands(&mut self, rush: &Rush) {
        let client = http(SOON);
        let serves = async || {
            let metrics = client.get(format!("{}/metrics", self.url)).send().await;
            let metrics = metrics.ok()?.text().await.ok()?;
            let served =
                |method: &str| counted(&metrics, "http_requests_total", &[method, "/v1/orders"]);
            let (posts, reads) = (served("method=\"POST\""), served("method=\"GET\""));
            (posts >= SERVED && reads >= SERVED).then_some(())
        };
        until(SOON, "the second order-service to serve", serves).await;
        signal(self.process.pid().expect("it runs"), "STOP").expect("it freezes");
        let (seen, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let stands_still = async || {
            let answered = rush.answered.load(Ordering::Relaxed);
            if seen.swap(answered, Ordering::Relaxed) != answered {
                looks.store(0, Ordering::Relaxed);
            }
            (looks.fetch_add(1, Ordering::Relaxed) >= STANDSTILL).then_some(())
        };
        until(SOON, "every caller to wait for it", stands_still).await;
        self.process.kill().expect("it is killed");
    }

    async fn start_again(&mut self) {
        self.process.start().expect("it starts again");
        let ready = self.process.wait_ready(&self.url).await;
        ready.expect("it is ready");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_order_services_is_killed_and_no_call_that_may_be_repeated_fails() {
    let house = shop::shop_alone().await;
    let mut second = Second::start(&house).await;
    let mut options = Options::of(&house.shop);
    options.orders.push(second.url.clone());
    let gateway = Gateway::start(options).await.expect("a gateway");

    let (customer, rush) = (Uuid::now_v7(), Arc::new(Rush::default()));
    let client = || Client::through(&house.shop, gateway.url());
    let posting: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(post(client(), customer, rush.clone())))
        .collect();
    let reading: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(read(client(), customer, rush.clone())))
        .collect();
    for _ in 0..KILLS {
        second.kill_with_calls_in_its_hands(&rush).await;
        second.start_again().await;
    }
    rush.is_over.store(true, Ordering::Relaxed);
    let (mut placed, mut reads) = (Vec::new(), 0);
    for caller in posting {
        placed.extend(caller.await.expect("no post with a key fails"));
    }
    for caller in reading {
        reads += caller.await.expect("no read fails");
    }

    let (posts_again, reads_again) = (sent_again(&gateway, "POST"), sent_again(&gateway, "GET"));
    println!(
        "{} orders and {reads} reads over {KILLS} kills; sent again: {posts_again} posts, {reads_again} reads",
        placed.len()
    );
    assert!(posts_again >= KILLS, "no kill met a post under way");
    assert!(reads_again >= KILLS, "no kill met a read under way");
    // Each key is one order, whatever was sent twice.
    let mut ids = placed.clone();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), placed.len(), "two keys became one order");
    assert_eq!(count_of(&house, customer).await, placed.len());
    let client = Client::of(&house.shop);
    for id in placed.iter().rev().take(20) {
        let order = client.ended(*id, HEALED).await;
        assert_settled(&client, &order).await;
    }
}

/// Places orders, each under a key of its own, and takes nothing but 201 for an answer.
async fn post(client: Client, customer: Uuid, rush: Arc<Rush>) -> Vec<Uuid> {
    let mut placed = Vec::new();
    while !rush.is_over.load(Ordering::Relaxed) {
        let key = Uuid::now_v7().to_string();
        let answer = client.post(&cheap(customer), Some(&key)).await;
        let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
        assert_eq!(status, 201, "{body}");
        let order: Value = serde_json::from_str(&body).expect("an order");
        let id = order["id"].as_str().and_then(|id| id.parse().ok());
        placed.push(id.expect("its id"));
        rush.answered.fetch_add(1, Ordering::Relaxed);
    }
    placed
}

/// Lists orders, and takes nothing but 200 for an answer.
async fn read(client: Client, customer: Uuid, rush: Arc<Rush>) -> usize {
    let url = format!("{}/v1/orders?customer_id={customer}&limit=5", client.orders);
    let mut reads = 0;
    while !rush.is_over.load(Ordering::Relaxed) {
        let answer = client.get(&url).await;
        let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
        assert_eq!(status, 200, "{body}");
        reads += 1;
        rush.answered.fetch_add(1, Ordering::Relaxed);
    }
    reads
}

/// So cheap that a customer's credit lasts for all of them.
fn cheap(customer: Uuid) -> Value {
    let mut order = shop::order(customer);
    order["items"][0]["quantity"] = 1.into();
    order["items"][0]["unit_price"] = 1.into();
    order
}

/// How many calls the gateway sent more than once.
fn sent_again(gateway: &Gateway, method: &str) -> usize {
    let log = gateway.output();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let again = lines.filter(|line| {
        line["request"]["method"] == method && line["retries"].as_i64().unwrap_or(0) > 0
    });
    again.count()
}

async fn count_of(house: &House, customer: Uuid) -> usize {
    let mut orders = shop::database(&house.shop.orders).await;
    let ids: Vec<Uuid> = sqlx::query_scalar("select id from orders.orders where customer_id = $1")
        .bind(customer)
        .fetch_all(&mut orders)
        .await
        .expect("the orders");
    ids.len()
}
