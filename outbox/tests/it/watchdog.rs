//! A client that has stopped delivering is given up; an idle topic and a broker that is away are not
//! taken for one.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use outbox::{
    Consumer, Error,
    broker::{
        Backlog, Broker, Deliveries, Embedded, Producer, Record, Subscription, Topic, Tuning,
    },
    incoming::{Config, OnPoison},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    reading::{Effects, Reading, config},
    world::{SOON, World},
};

/// One partition; clients of it deliver as told.
#[derive(Default)]
struct Script {
    /// What the broker has.
    log: Mutex<Vec<Record>>,
    handled: Mutex<i64>,
    clients: AtomicUsize,
    /// Nothing is delivered beyond this.
    stuck_at: Mutex<Option<i64>>,
    away: AtomicBool,
    /// What the broker refuses.
    refused: Mutex<Option<String>>,
    /// Looks at where the partition ends; and how many there had been when the last client came.
    looks: AtomicUsize,
    looks_before: AtomicUsize,
}

struct Scripted {
    embedded: Embedded,
    script: Arc<Script>,
}

impl Broker for Scripted {
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        self.embedded.ensure_topics(topics)
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.embedded.ping()
    }
    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: Deliveries,
    ) -> Result<Box<dyn Producer>, Error> {
        self.embedded.producer(tuning, deliveries)
    }
    fn subscribe(&self, _: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        let clients = self.script.clients.fetch_add(1, Ordering::SeqCst);
        if clients > 0 {
            // A new client is healthy.
            *self.script.stuck_at.lock().unwrap() = None;
        }
        let looks = self.script.looks.load(Ordering::SeqCst);
        self.script.looks_before.store(looks, Ordering::SeqCst);
        let from = *self.script.handled.lock().unwrap();
        let log = self.script.log.lock().unwrap();
        Ok(Box::new(Client {
            topic: topics[0].clone(),
            script: Arc::clone(&self.script),
            position: Mutex::new(from),
            queue: Mutex::new(log.iter().filter(|r| r.offset >= from).cloned().collect()),
        }))
    }
}

struct Client {
    topic: String,
    script: Arc<Script>,
    position: Mutex<i64>,
    queue: Mutex<VecDeque<Record>>,
}

impl Subscription for Client {
    fn poll(&self, timeout: Duration) -> Result<Option<Record>, Error> {
        let stuck_at = *self.script.stuck_at.lock().unwrap();
        let mut position = self.position.lock().unwrap();
        if stuck_at.is_none_or(|stuck_at| *position < stuck_at)
            && let Some(record) = self.queue.lock().unwrap().pop_front()
        {
            *position = record.offset + 1;
            return Ok(Some(record));
        }
        drop(position);
        // As a client waits.
        std::thread::sleep(timeout.min(Duration::from_millis(5)));
        Ok(None)
    }
    fn set_paused(&self, _: &str, _: i32, _: bool) {}
    fn has_joined(&self) -> bool {
        true
    }
    fn refused(&self) -> Option<String> {
        self.script.refused.lock().unwrap().clone()
    }
    fn take_revoked(&self) -> Vec<(String, i32)> {
        Vec::new()
    }
    fn assignment(&self, _: &str, _: i32) -> Option<u64> {
        Some(1)
    }
    fn handled(&self, _: &str, _: i32, _: u64, next_offset: i64) {
        *self.script.handled.lock().unwrap() = next_offset;
    }
    fn backlog(&self) -> Result<Vec<Backlog>, Error> {
        self.script.looks.fetch_add(1, Ordering::SeqCst);
        if self.script.away.load(Ordering::SeqCst) {
            return Err(Error::Broker("scripted".to_owned()));
        }
        Ok(vec![Backlog {
            topic: self.topic.clone(),
            partition: 0,
            position: *self.position.lock().unwrap(),
            handled: *self.script.handled.lock().unwrap(),
            paused: false,
            end: i64::try_from(self.script.log.lock().unwrap().len()).unwrap(),
        }])
    }
    fn leave(&self) {}
}

const PATIENCE: Duration = Duration::from_millis(200);

/// A world with these numbers in its topic, and a reader of it.
async fn reading(name: &str, numbers: i64, script: Script) -> (World, Arc<Script>, Reading) {
    let script = Arc::new(script);
    let broker = Scripted {
        embedded: Embedded::start().unwrap(),
        script: Arc::clone(&script),
    };
    let world = World::with(name, Arc::new(broker)).await;
    let record = |n: i64| Record {
        topic: world.topic.clone(),
        partition: 0,
        offset: n,
        timestamp_ms: 0,
        key: None,
        payload: Some(format!("{{\"n\": {n}}}").into_bytes()),
        headers: [
            ("ce_specversion", "1.0"),
            ("ce_type", "test.counted.v1"),
            ("ce_source", "/test"),
            ("ce_id", &Uuid::now_v7().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec())))
        .to_vec(),
    };
    *script.log.lock().unwrap() = (0..numbers).map(record).collect();
    let config = Config {
        stalled_after: PATIENCE,
        ..config(OnPoison::BlockKey)
    };
    let reading = Reading::with(&world, Effects::default(), config);
    (world, script, reading)
}

impl Script {
    /// Waits until the watchdog has looked so often again.
    async fn looked(&self, times: usize) {
        let from = self.looks.load(Ordering::SeqCst);
        testbed::until(SOON, "the watchdog looks", async || {
            (self.looks.load(Ordering::SeqCst) >= from + times).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_delivering_is_replaced() {
    replace_a_stuck_client("stalled").await;
}

pub(crate) async fn replace_a_stuck_client(name: &str) {
    let script = Script {
        stuck_at: Mutex::new(Some(3)),
        ..Script::default()
    };
    *script.refused.lock().unwrap() = Some("scripted".to_owned());
    let (world, script, reading) = reading(name, 10, script).await;
    let started = Instant::now();
    world.wait_for_effects(&(0..10).collect::<Vec<_>>()).await;
    assert!(started.elapsed() >= PATIENCE);
    assert_eq!(script.clients.load(Ordering::SeqCst), 2);
    // And the new one is left alone.
    script.looked(12).await;
    assert_eq!(script.clients.load(Ordering::SeqCst), 2);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_topic_and_a_broker_that_is_away_are_no_reason() {
    let script = Script {
        stuck_at: Mutex::new(Some(3)),
        ..Script::default()
    };
    let (world, script, reading) = reading("away", 10, script).await;
    // It has begun to stand still when the broker goes away.
    script.looked(2).await;
    script.away.store(true, Ordering::SeqCst);
    world.wait_for_effects(&[0, 1, 2]).await;
    // Three times its patience.
    script.looked(12).await;
    assert_eq!(script.clients.load(Ordering::SeqCst), 1);
    // Back, and still nothing comes: now it is the client's fault.
    let looks = script.looks.load(Ordering::SeqCst);
    script.away.store(false, Ordering::SeqCst);
    world.wait_for_effects(&(0..10).collect::<Vec<_>>()).await;
    assert_eq!(script.clients.load(Ordering::SeqCst), 2);
    let before = script.looks_before.load(Ordering::SeqCst);
    assert!(
        before >= looks + 4,
        "patience begins anew: {looks} {before}"
    );
    // Idle.
    script.looked(12).await;
    assert_eq!(script.clients.load(Ordering::SeqCst), 2);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_a_consumer_is_told_at_any_time_and_while_it_lasts() {
    let (world, script, mut reading) = reading("refused", 3, Script::default()).await;
    world.wait_for_effects(&[0, 1, 2]).await;
    assert_eq!(*reading.refused.borrow(), None);
    let word = "GroupAuthorizationFailed (Broker: Group authorization failed)";
    for told in [Some(word.to_owned()), None, Some(word.to_owned())] {
        script.refused.lock().unwrap().clone_from(&told);
        let waited = tokio::time::timeout(SOON, reading.refused.wait_for(|now| *now == told)).await;
        waited.expect("told in time").unwrap();
    }
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_has_the_brokers_words_for_as_long_as_it_refuses() {
    let script = Arc::new(Script::default());
    let broker = Scripted {
        embedded: Embedded::start().unwrap(),
        script: Arc::clone(&script),
    };
    let world = World::with("unready", Arc::new(broker)).await;
    let readiness = chassis::health::Readiness::new();
    let gate = readiness.gate("start", "the database");
    let topics = [world.topic.as_str()];
    let (pool, broker) = (world.pool.clone(), Arc::clone(&world.broker));
    let consumer = Consumer::new("unready", &topics, pool, broker, Effects::default());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let broker = Arc::clone(&world.broker);
    let consuming = tokio::spawn(async move {
        outbox::service::consume(consumer, (&broker, &[]), gate, stop).await
    });
    let until_it_says = async |what: &str| {
        testbed::until(SOON, what, async || {
            let report = serde_json::to_string(&readiness.report().await).unwrap();
            report.contains(what).then_some(())
        })
        .await;
    };
    until_it_says("\"ready\"").await;
    for _ in 0..2 {
        *script.refused.lock().unwrap() = Some("TopicAuthorizationFailed".to_owned());
        until_it_says("the consumer group: TopicAuthorizationFailed").await;
        *script.refused.lock().unwrap() = None;
        until_it_says("\"ready\"").await;
    }
    shutdown.cancel();
    consuming.await.unwrap().unwrap();
}
