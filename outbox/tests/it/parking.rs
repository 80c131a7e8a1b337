//! P7 on the way out: one sick message or topic stops no other, and an outage parks nothing.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use outbox::{
    Error,
    broker::{
        Broker, Deliveries, Delivery, Embedded, Failure, FailureClass, Outgoing, Producer,
        SendError, Subscription, Topic, Tuning,
    },
    outgoing::Config,
};

use crate::world::{SOON, World};

/// The embedded broker behind a script of refusals. As Kafka does, it refuses a whole batch for
/// one sick record: here, the sick one and the two sent before it.
struct Scripted {
    embedded: Embedded,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    /// Payloads that are refused.
    sick: Mutex<HashSet<Vec<u8>>>,
    /// Whether every delivery fails because of an outage.
    outage: AtomicBool,
    producers: AtomicUsize,
    refusals: AtomicUsize,
}

struct ScriptedProducer {
    inner: Box<dyn Producer>,
    deliveries: Deliveries,
    script: Arc<Script>,
    recent: Mutex<Vec<usize>>,
}

impl Producer for ScriptedProducer {
    fn send(&self, token: usize, record: Outgoing<'_>) -> Result<(), SendError> {
        let refuse = |token, class| {
            self.script.refusals.fetch_add(1, Ordering::SeqCst);
            let failure = Failure {
                class,
                reason: "scripted".to_owned(),
            };
            let _ = self.deliveries.send(Delivery {
                token,
                result: Err(failure),
            });
        };
        if self.script.outage.load(Ordering::SeqCst) {
            refuse(token, FailureClass::Outage);
            return Ok(());
        }
        let mut recent = self.recent.lock().unwrap();
        if self
            .script
            .sick
            .lock()
            .unwrap()
            .contains(record.payload.unwrap_or_default())
        {
            for token in recent.drain(..) {
                refuse(token, FailureClass::Record);
            }
            refuse(token, FailureClass::Record);
            return Ok(());
        }
        // Held back until two more have come or the queue is looked at again: a batch.
        recent.push(token);
        if recent.len() > 2 {
            recent.remove(0);
        }
        self.inner.send(token, record)
    }

    fn abandon(self: Box<Self>) {
        self.inner.abandon();
    }
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
        self.script.producers.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(ScriptedProducer {
            inner: self.embedded.producer(tuning, deliveries.clone())?,
            deliveries,
            script: Arc::clone(&self.script),
            recent: Mutex::default(),
        }))
    }
    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        self.embedded.subscribe(group, topics)
    }
}

async fn scripted(name: &str) -> (World, Arc<Script>) {
    let script = Arc::new(Script::default());
    let broker = Scripted {
        embedded: Embedded::start().unwrap(),
        script: Arc::clone(&script),
    };
    (World::with(name, Arc::new(broker)).await, script)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_alone_is_parked_and_its_neighbours_in_the_batch_are_sent() {
    let (world, script) = scripted("poison").await;
    for sick in [30, 31, 70] {
        script
            .sick
            .lock()
            .unwrap()
            .insert(format!(r#"{{"n":{sick}}}"#).into_bytes());
    }
    let messages: Vec<_> = (0..100).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(97).await;
    let healthy: Vec<_> = (0..100).filter(|n| ![30, 31, 70].contains(n)).collect();
    assert_eq!(oracle.numbers(), healthy, "in order");
    assert!(
        script.refusals.load(Ordering::SeqCst) >= 6,
        "the fault fired"
    );
    let parked: Vec<(Vec<u8>, String, String)> =
        sqlx::query_as("select payload, class, reason from outbox.parked order by seq")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    let row = |n: i64| {
        (
            format!(r#"{{"n":{n}}}"#).into_bytes(),
            "poison".into(),
            "scripted".into(),
        )
    };
    assert_eq!(parked, [row(30), row(31), row(70)]);

    // The cursor moved past them: a successor does not meet them again.
    relay.stop().await;
    let before = script.refusals.load(Ordering::SeqCst);
    let relay = world.relay(Config::default());
    world.send(&[world.message("k", 100)]).await;
    oracle.wait_for(98).await;
    assert_eq!(script.refusals.load(Ordering::SeqCst), before);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_parks_nothing_and_loses_nothing() {
    let (world, script) = scripted("outage").await;
    let messages: Vec<_> = (0..50).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    let lease = std::time::Duration::from_millis(400);
    // Long enough that the pauses between producers grow beyond the lease.
    script.outage.store(true, Ordering::SeqCst);
    let relay = world.relay(Config {
        lease,
        ..Config::default()
    });
    testbed::until(SOON, "seven producers given up", async || {
        (script.producers.load(Ordering::SeqCst) > 7).then_some(())
    })
    .await;
    let epoch = world.count("select epoch from outbox.relay").await;
    script.outage.store(false, Ordering::SeqCst);
    let mut oracle = world.oracle();
    oracle.wait_for(50).await;
    assert_eq!(oracle.numbers(), (0..50).collect::<Vec<_>>());
    assert_eq!(epoch, 1, "the leader kept its lease");
    assert_eq!(world.count("select count(*) from outbox.parked").await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_held_while_others_flow_and_sent_in_order_when_it_appears() {
    let world = World::kafka("held").await;
    let missing = format!("{}.missing", world.topic);
    let never = format!("{}.never", world.topic);
    let lost = |topic: &String, n| {
        let mut message = world.message("k", n);
        message.topic.clone_from(topic);
        message
    };
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    // A topic that never comes has more messages waiting than are tried at once.
    let hopeless: Vec<_> = (0..30).map(|n| lost(&never, n)).collect();
    world.send(&hopeless).await;
    world.send(&[lost(&missing, 1), lost(&missing, 2)]).await;
    let held = async |wanted: i64| {
        testbed::until(SOON, &format!("{wanted} messages are held"), async || {
            (world
                .count("select count(*) from outbox.parked where class = 'held'")
                .await
                == wanted)
                .then_some(())
        })
        .await;
    };
    held(32).await;
    // While they are held the others flow as if nothing were.
    let before = std::time::Instant::now();
    for n in 0..100 {
        world
            .send(&[world.message("k", n), lost(&missing, 3 + n)])
            .await;
    }
    oracle.wait_for(100).await;
    assert!(
        before.elapsed() < std::time::Duration::from_secs(4),
        "{:?}",
        before.elapsed()
    );

    world
        .broker
        .ensure_topics(&[Topic::new(missing.clone(), 1)])
        .await
        .unwrap();
    let mut healed = crate::world::Oracle::new(&*world.broker, &missing);
    world.send(&[lost(&missing, 103)]).await;
    healed.wait_for(103).await;
    assert_eq!(healed.numbers(), (1..=103).collect::<Vec<_>>(), "in order");
    held(30).await;
    // Held no longer: what comes now is not parked first.
    world.send(&[lost(&missing, 104)]).await;
    healed.wait_for(104).await;
    relay.stop().await;
}
