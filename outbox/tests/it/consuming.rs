//! P4 and P7 on the way in: one effect per message; what cannot be handled is kept, the rest flow.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use outbox::{
    Consumer, Error, Handler, Received,
    broker::{Kafka, Outgoing, Tuning},
    incoming::Config,
};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use sqlx::{Connection, PgConnection, PgTransaction, postgres::PgPoolOptions};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{Counted, SOON, World};

/// Inserts each number; fails as told.
#[derive(Clone, Default)]
struct Effects {
    /// Number to how often it still fails transiently; `u32::MAX` means always.
    flaky: Arc<Mutex<HashMap<i64, u32>>>,
    panics_at: Option<i64>,
    swallows_at: Option<i64>,
}

impl Handler for Effects {
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let Counted { n } = message.decode()?;
        sqlx::query("insert into effect values ($1)")
            .bind(n)
            .execute(&mut **tx)
            .await?;
        assert_ne!(Some(n), self.panics_at, "scripted");
        if Some(n) == self.swallows_at {
            // A handler that takes any error for "already done": the transaction is aborted.
            let _ = sqlx::query("insert into nowhere values (1)")
                .execute(&mut **tx)
                .await;
        }
        if let Some(left) = self.flaky.lock().unwrap().get_mut(&n)
            && *left > 0
        {
            *left = left.saturating_sub(u32::from(*left != u32::MAX));
            return Err(Error::transient("scripted"));
        }
        Ok(())
    }
}

struct Reading {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Reading {
    fn start(world: &World, effects: &Effects) -> Self {
        let config = Config {
            attempts: 4,
            backoff: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            ..Config::default()
        };
        let name = format!("reader-{}", world.database.name);
        let broker = Arc::clone(&world.broker);
        // Its sessions have a name, so that a test can kill them and no others.
        let options = world.database.options().unwrap().application_name("reader");
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .connect_lazy_with(options);
        let topics = [world.topic.as_str()];
        let consumer = Consumer::new(&name, &topics, pool, broker, effects.clone()).with(config);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { consumer.run(token).await });
        Self { shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl World {
    async fn effects(&self) -> Vec<i64> {
        let sql = "select n from effect order by n";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    async fn wait_for_effects(&self, expected: &[i64]) {
        testbed::until(SOON, &format!("the effects {expected:?}"), async || {
            let effects = self.effects().await;
            assert!(effects.len() <= expected.len(), "too many: {effects:?}");
            (effects == expected).then_some(())
        })
        .await;
    }

    /// The class and reason of everything parked on the way in.
    async fn sick(&self) -> Vec<(String, String)> {
        sqlx::query_as(
            "select class, reason from outbox.inbox_parked order by topic, partition, \"offset\"",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Sends a message past the relay, as often as told.
    async fn produce(&self, message: &outbox::Message, times: usize) {
        let (sender, mut deliveries) = mpsc::unbounded_channel();
        let producer = self
            .broker
            .producer(
                &Tuning {
                    linger_ms: 0.0,
                    queue_kib: 1024,
                    ..Tuning::default()
                },
                sender,
            )
            .unwrap();
        let id = message.id.to_string();
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", id.as_str()),
            ("ce_source", "/test"),
            ("ce_type", message.kind.as_str()),
        ];
        for token in 0..times {
            let record = Outgoing {
                topic: &message.topic,
                key: &message.key,
                payload: message.payload.as_deref(),
                headers: &headers,
            };
            producer.send(token, record).unwrap();
            deliveries.recv().await.unwrap().result.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_delivered_three_times_has_one_effect() {
    let world = World::kafka("thrice").await;
    for n in 0..20 {
        world.produce(&world.message(&format!("k{n}"), n), 3).await;
    }
    let reading = Reading::start(&world, &Effects::default());
    let expected: Vec<_> = (0..20).collect();
    world.wait_for_effects(&expected).await;
    reading.stop().await;
    // A consumer whose offsets are lost reads everything again; the inbox knows it all.
    let again = Consumer::new(
        &format!("reader-{}", world.database.name),
        &[&world.topic],
        world.pool.clone(),
        Arc::new(FromTheStart(
            Kafka::new(testbed::kafka().await.bootstrap()).unwrap(),
        )),
        Effects::default(),
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let mut joined = again.joined();
    let task = tokio::spawn(async move { again.run(token).await });
    tokio::time::timeout(SOON, joined.wait_for(|r| *r))
        .await
        .expect("reads again")
        .unwrap();
    world.produce(&world.message("k0", 20), 1).await;
    let expected: Vec<_> = (0..=20).collect();
    world.wait_for_effects(&expected).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

/// The same broker under another group, which begins at the earliest offset.
struct FromTheStart(Kafka);

impl outbox::broker::Broker for FromTheStart {
    fn ensure_topics<'a>(
        &'a self,
        topics: &'a [outbox::broker::Topic],
    ) -> futures::future::BoxFuture<'a, Result<(), Error>> {
        self.0.ensure_topics(topics)
    }
    fn ping(&self) -> futures::future::BoxFuture<'_, Result<(), Error>> {
        self.0.ping()
    }
    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: outbox::broker::Deliveries,
    ) -> Result<Box<dyn outbox::broker::Producer>, Error> {
        self.0.producer(tuning, deliveries)
    }
    fn subscribe(
        &self,
        group: &str,
        topics: &[String],
    ) -> Result<Box<dyn outbox::broker::Subscription>, Error> {
        self.0.subscribe(&format!("{group}-again"), topics)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_every_sort_is_parked_with_its_reason_and_the_rest_flow_on() {
    let world = World::kafka("poison_in").await;
    let effects = Effects {
        panics_at: Some(13),
        swallows_at: Some(14),
        ..Effects::default()
    };
    world.produce(&world.message("k", 1), 1).await;

    let mut invalid_json = world.message("k", 0);
    invalid_json.payload = Some(b"{nonsense".to_vec());
    let mut null = world.message("k", 0);
    null.payload = None;
    let mut empty = world.message("k", 0);
    empty.payload = Some(vec![]);
    let mut unknown_kind = world.message("k", 0);
    unknown_kind.kind = "test.unheard_of.v9".to_owned();
    let mut deep = world.message("k", 0);
    deep.payload = Some([b"[".repeat(100_000), b"]".repeat(100_000)].concat());
    let panics = world.message("k", 13);
    let swallows = world.message("k", 14);
    let ours = [
        &invalid_json,
        &null,
        &empty,
        &unknown_kind,
        &deep,
        &panics,
        &swallows,
    ];
    for sick in ours {
        world.produce(sick, 1).await;
    }
    // Bytes of strangers, with the client itself: no headers, a header and a key that are not
    // UTF-8, ten thousand headers.
    let raw: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", testbed::kafka().await.bootstrap())
        .create()
        .unwrap();
    let header = |name: &'static str, value: &'static [u8]| Header {
        key: name,
        value: Some(value),
    };
    let many = (0..10_000).fold(OwnedHeaders::new(), |h, _| h.insert(header("x", b"y")));
    let strange = OwnedHeaders::new().insert(header("ce_id", b"\xff\xfe"));
    for headers in [OwnedHeaders::new(), strange, many] {
        let record = BaseRecord::to(&world.topic)
            .key("k")
            .payload(&b"\xff\x00"[..])
            .headers(headers);
        raw.send(record).map_err(|(error, _)| error).unwrap();
    }
    let record = BaseRecord::to(&world.topic)
        .key(&b"\xff"[..])
        .payload("")
        .partition(0);
    raw.send(record).map_err(|(error, _)| error).unwrap();
    raw.flush(SOON).unwrap();
    world.produce(&world.message("k", 2), 1).await;

    let reading = Reading::start(&world, &effects);
    world.wait_for_effects(&[1, 2]).await;
    testbed::until(SOON, "eleven sick messages", async || {
        (world.sick().await.len() == 11).then_some(())
    })
    .await;
    let sick = world.sick().await;
    let count = |class: &str| sick.iter().filter(|(c, _)| c == class).count();
    assert_eq!((count("refused"), count("unreadable")), (7, 4), "{sick:?}");
    let reasons: Vec<_> = sick.iter().map(|(_, reason)| reason.as_str()).collect();
    for part in [
        "line 1 column",
        "is null",
        "expected the kind",
        "panicked",
        "current transaction is aborted",
        "ce_specversion is missing",
        "not UTF-8",
    ] {
        assert!(
            reasons.iter().any(|reason| reason.contains(part)),
            "{part}: {reasons:?}"
        );
    }
    assert!(
        !reasons.iter().any(|reason| reason.contains("nonsense")),
        "no payload in a reason"
    );
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_heals_and_a_lasting_one_is_parked_when_its_budget_is_spent() {
    let world = World::embedded("budget").await;
    let effects = Effects::default();
    effects
        .flaky
        .lock()
        .unwrap()
        .extend([(3, 2), (5, u32::MAX)]);
    let relay = world.relay(Default::default());
    let messages: Vec<_> = (0..10).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    let reading = Reading::start(&world, &effects);
    world.wait_for_effects(&[0, 1, 2, 3, 4, 6, 7, 8, 9]).await;
    assert_eq!(effects.flaky.lock().unwrap()[&3], 0, "the fault fired");
    assert_eq!(
        world.sick().await,
        [("exhausted".to_owned(), "scripted".to_owned())]
    );
    let attempts = world
        .count("select attempts::bigint from outbox.inbox_parked")
        .await;
    assert_eq!(attempts, 4);
    reading.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_database_sessions_use_up_no_budget() {
    let world = World::embedded("storm").await;
    let relay = world.relay(Default::default());
    let reading = Reading::start(&world, &Effects::default());
    let storm = {
        let options = world.database.options().unwrap();
        tokio::spawn(async move {
            let connect = <PgConnection as Connection>::connect_with(&options);
            let mut connection = connect.await.unwrap();
            let mut killed = 0;
            // Only sessions in the middle of something.
            while killed < 10 {
                killed += sqlx::query(
                    "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and application_name = 'reader'
                       and state <> 'idle'",
                )
                .execute(&mut connection)
                .await
                .unwrap()
                .rows_affected();
            }
        })
    };
    let mut sent = 0;
    while !storm.is_finished() {
        world
            .send(&[world.message(&format!("k{}", sent % 3), sent)])
            .await;
        sent += 1;
    }
    storm.await.unwrap();
    world.wait_for_effects(&(0..sent).collect::<Vec<_>>()).await;
    assert_eq!(world.sick().await, []);
    reading.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_parks_nothing() {
    let world = World::embedded("readonly").await;
    let reading = Reading::start(&world, &Effects::default());
    world.produce(&world.message("k", 1), 1).await;
    world.wait_for_effects(&[1]).await;
    // As after a failover to a standby: every session of the reader is on a read-only server. The
    // session that says so is older than the setting, which takes hold of new ones only.
    let name = &world.database.name;
    let mut operator = world.pool.acquire().await.unwrap();
    let mut read_only = async |setting: &str| {
        let sql = format!(
            "alter database {name} set default_transaction_read_only = {setting};
             select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'reader'"
        );
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::raw_sql(sql).execute(&mut *operator).await.unwrap();
    };
    read_only("on").await;
    world.produce(&world.message("k", 2), 1).await;
    testbed::until(SOON, "the reader is refused", async || {
        let refused = "select count(*) from pg_stat_activity
                       where datname = current_database() and application_name = 'reader'
                         and query like '%outbox.inbox%'";
        (world.count(refused).await > 0).then_some(())
    })
    .await;
    assert_eq!(world.effects().await, [1], "the fault fired");
    read_only("off").await;
    world.wait_for_effects(&[1, 2]).await;
    assert_eq!(world.sick().await, []);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_readers_share_the_partitions_and_a_rebalance_repeats_no_effect() {
    let world = World::kafka("rebalance").await;
    let relay = world.relay(Default::default());
    let first = Reading::start(&world, &Effects::default());
    let send = async |from: i64, to: i64| {
        for n in from..to {
            world
                .send(&[world.message(&format!("k{}", n % 16), n)])
                .await;
        }
    };
    send(0, 100).await;
    world.wait_for_effects(&(0..100).collect::<Vec<_>>()).await;
    let second = Reading::start(&world, &Effects::default());
    send(100, 300).await;
    world.wait_for_effects(&(0..300).collect::<Vec<_>>()).await;
    first.stop().await;
    send(300, 400).await;
    world.wait_for_effects(&(0..400).collect::<Vec<_>>()).await;
    assert_eq!(world.sick().await, []);
    second.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_goes_on_where_the_message_came_from() {
    // Without a subscriber there is no current span, so the header given is what must arrive.
    let world = World::embedded("trace").await;
    let relay = world.relay(Default::default());
    let seen = Arc::new(Mutex::new(None));
    struct Look(Arc<Mutex<Option<Received>>>);
    impl Handler for Look {
        async fn handle(&self, _: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
            *self.0.lock().unwrap() = Some(message.clone());
            Ok(())
        }
    }
    let reader = Consumer::new(
        &format!("look-{}", Uuid::now_v7().simple()),
        &[&world.topic],
        world.pool.clone(),
        Arc::clone(&world.broker),
        Look(Arc::clone(&seen)),
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let task = tokio::spawn(async move { reader.run(token).await });
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let message = world
        .message("k", 1)
        .with_header("traceparent", traceparent);
    world.send(std::slice::from_ref(&message)).await;
    let received = testbed::until(SOON, "the message", async || seen.lock().unwrap().clone()).await;
    assert_eq!(received.id, message.id);
    assert_eq!(received.header("traceparent"), Some(traceparent));
    assert_eq!(received.source, "/outbox");
    assert!(received.time.is_some());
    shutdown.cancel();
    task.await.unwrap().unwrap();
    relay.stop().await;
}
