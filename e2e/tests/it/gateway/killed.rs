use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::gateway::Options;
use testbed::{Gateway, Process, free_port, http, signal, until};
use uuid::Uuid;

use crate::shop::{self, Client, HEALED, House, SOON, assert_settled, counted};

/// How many post, and how many read, at the same time.
const CALLERS: usize = 6;
/// How often the instance is killed: at least, and at most until it had calls of both kinds in its hands.
const KILLS: (usize, usize) = (2, 10);
/// How many calls of each kind it has answered before.
const SERVED: f64 = 20.0;
/// So many calls of each kind have waited so long: some for the instance that froze.
const STUCK: (usize, Duration) = (2, Duration::from_secs(1));

/// What the callers share.
struct Rush {
    is_over: AtomicBool,
    posts: UnderWay,
    reads: UnderWay,
}

/// Since when each caller of a kind has waited for its answer.
#[derive(Default)]
struct UnderWay([Mutex<Option<Instant>>; CALLERS]);

impl UnderWay {
    fn begin(&self, caller: usize) {
        *self.0[caller].lock().expect("a caller") = Some(Instant::now());
    }

    fn end(&self, caller: usize) {
        *self.0[caller].lock().expect("a caller") = None;
    }

    fn are_stuck(&self) -> bool {
        let (wanted, time) = STUCK;
        let since = |caller: &Mutex<Option<Instant>>| *caller.lock().expect("a caller");
        let stuck = self.0.iter().filter_map(since);
        stuck.filter(|since| since.elapsed() >= time).count() >= wanted
    }
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

    /// Freezes it once it has answered calls of both kinds, and kills it when callers of both wait for it.
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
        let stuck = async || {
            let stuck = rush.posts.are_stuck() && rush.reads.are_stuck();
            stuck.then_some(())
        };
        until(SOON, "calls of both kinds to wait for it", stuck).await;
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

    let customer = Uuid::now_v7();
    let rush = Arc::new(Rush {
        is_over: AtomicBool::new(false),
        posts: UnderWay::default(),
        reads: UnderWay::default(),
    });
    let client = || Client::through(&house.shop, gateway.url());
    let posting: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(post(caller, client(), customer, rush.clone())))
        .collect();
    let reading: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(read(caller, client(), customer, rush.clone())))
        .collect();
    let (at_least, at_most) = KILLS;
    let met_both = || sent_again(&gateway, "POST") > 0 && sent_again(&gateway, "GET") > 0;
    let mut kills = 0;
    while kills < at_least || kills < at_most && !met_both() {
        second.kill_with_calls_in_its_hands(&rush).await;
        second.start_again().await;
        kills += 1;
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
        "{} orders and {reads} reads over {kills} kills; sent again: {posts_again} posts, {reads_again} reads",
        placed.len()
    );
    assert!(posts_again > 0, "no kill met a post under way");
    assert!(reads_again > 0, "no kill met a read under way");
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
async fn post(caller: usize, client: Client, customer: Uuid, rush: Arc<Rush>) -> Vec<Uuid> {
    let mut placed = Vec::new();
    while !rush.is_over.load(Ordering::Relaxed) {
        let key = Uuid::now_v7().to_string();
        rush.posts.begin(caller);
        let answer = client.post(&cheap(customer), Some(&key)).await;
        let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
        assert_eq!(status, 201, "{body}");
        let order: Value = serde_json::from_str(&body).expect("an order");
        let id = order["id"].as_str().and_then(|id| id.parse().ok());
        placed.push(id.expect("its id"));
        rush.posts.end(caller);
    }
    placed
}

/// Lists orders, and takes nothing but 200 for an answer.
async fn read(caller: usize, client: Client, customer: Uuid, rush: Arc<Rush>) -> usize {
    let url = format!("{}/v1/orders?customer_id={customer}&limit=5", client.orders);
    let mut reads = 0;
    while !rush.is_over.load(Ordering::Relaxed) {
        rush.reads.begin(caller);
        let answer = client.get(&url).await;
        let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
        assert_eq!(status, 200, "{body}");
        reads += 1;
        rush.reads.end(caller);
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
