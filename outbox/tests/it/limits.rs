//! What a topic takes is known before the business commits, and is what the broker really takes.

use std::{sync::Arc, time::Instant};

use futures::future::BoxFuture;
use outbox::{
    Error, Message,
    broker::{
        Broker, DEFAULT_MAX_BYTES, Deliveries, Embedded, Kafka, OnPoison, Producer, Subscription,
        Topic, Tuning,
    },
    outgoing::{self, Config},
};
use rdkafka::{
    ClientConfig,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::world::{Oracle, SOON, World};

/// What every record is taken to have beside what its sender put into it.
const ENVELOPE: usize = 1024;

/// Neither lz4 nor the broker makes these fewer.
fn incompressible(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

async fn create(topic: &str, max_bytes: &str) {
    let bootstrap = testbed::kafka().await.bootstrap();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap();
    let topic =
        NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", max_bytes);
    let created = admin.create_topics([&topic], &AdminOptions::new()).await;
    created.unwrap().pop().unwrap().unwrap();
}

/// Name, limit, policy.
async fn noted(pool: &PgPool) -> Vec<(String, Option<i32>, String)> {
    sqlx::query_as("select name, max_bytes, on_poison from outbox.topic order by name")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_let_in_is_taken_by_the_broker_and_one_byte_more_is_refused() {
    let world = World::kafka("limits").await;
    let run = Uuid::now_v7().simple();
    let topics = [
        (format!("limits.small.{run}"), 10_000),
        (format!("limits.large.{run}"), 10_000_000),
    ];
    for (topic, limit) in &topics {
        create(topic, &limit.to_string()).await;
    }
    // They exist: declaring them leaves the broker's settings alone.
    let declared = topics.clone().map(|(topic, _)| Topic::new(topic, 1));
    outbox::declare(&world.pool, &*world.broker, &declared)
        .await
        .unwrap();

    let sized = |topic: &str, bytes: usize| {
        let rest = ENVELOPE + 2 * "key".len() + "test.sized.v1".len();
        let payload = incompressible(bytes - rest);
        Message::raw(topic, "key", "test.sized.v1", payload)
    };
    for (topic, limit) in &topics {
        let mut tx = world.pool.begin().await.unwrap();
        let error = outbox::enqueue(&mut tx, &sized(topic, limit + 1)).await;
        let error = error.unwrap_err().to_string();
        let named = format!("has {} bytes", limit + 1);
        let limit = format!("{topic} takes at most {limit}");
        assert!(error.contains(&named) && error.contains(&limit), "{error}");
    }
    for (topic, limit) in &topics {
        world.send(&[sized(topic, *limit)]).await;
    }
    // Past the door, larger than the limit without any margin: the limits are real.
    for (topic, limit) in &topics {
        sqlx::query(
            "insert into outbox.log (message_id, topic, key, kind, payload)
             values ($1, $2, 'poison', 'test.sized.v1', $3)",
        )
        .bind(Uuid::now_v7())
        .bind(topic)
        .bind(incompressible(*limit))
        .execute(&world.pool)
        .await
        .unwrap();
    }
    let mut session = world.pool.acquire().await.unwrap();
    let limits = outgoing::largest_and_smallest_limit(&mut session).await;
    let limits = limits.unwrap();
    assert_eq!(limits, (10_000_000, 10_000));
    let tuning = Tuning::default().for_limits(limits);
    let relay = world.relay(Config {
        tuning,
        ..Config::default()
    });
    for (topic, limit) in &topics {
        let mut oracle = Oracle::new(&*world.broker, topic);
        oracle.wait_for(1).await;
        let taken = oracle.seen[0].payload.as_ref().unwrap();
        assert_eq!(taken, sized(topic, *limit).payload.as_ref().unwrap());
    }
    testbed::until(SOON, "both poisons are parked", async || {
        let parked: Vec<(String, String)> =
            sqlx::query_as("select key, class from outbox.parked order by seq")
                .fetch_all(&world.pool)
                .await
                .unwrap();
        let poison = ("poison".to_owned(), "poison".to_owned());
        assert!(parked.iter().all(|row| *row == poison), "{parked:?}");
        (parked.len() == 2).then_some(())
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_is_noted_and_a_changed_limit_is_noticed() {
    let world = World::kafka("declared").await;
    let run = Uuid::now_v7().simple();
    let names = ["a", "b"].map(|name| format!("declared.{name}.{run}"));
    create(&names[0], "5000").await;
    let topics = [
        Topic::new(&names[0], 2).on_poison(OnPoison::SkipMessage),
        Topic::new(&names[1], 2),
    ];
    for _ in 0..2 {
        outbox::declare(&world.pool, &*world.broker, &topics)
            .await
            .unwrap();
        // The second did not exist, and has Kafka's default.
        let expected = vec![
            (names[0].clone(), Some(5000), "skip-message".to_owned()),
            (names[1].clone(), Some(1_048_588), "block-key".to_owned()),
        ];
        assert_eq!(noted(&world.pool).await, expected);
    }
    for (_, _, policy) in noted(&world.pool).await {
        assert_eq!(policy.parse::<OnPoison>().unwrap().as_str(), policy);
    }

    // As if the limits had been others when they were asked for, and a topic were gone.
    sqlx::query("update outbox.topic set max_bytes = 17")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("insert into outbox.topic (name, max_bytes) values ('nowhere', 19)")
        .execute(&world.pool)
        .await
        .unwrap();
    let mut session = world.pool.acquire().await.unwrap();
    outgoing::refresh_limits(&mut session, &*world.broker)
        .await
        .unwrap();
    let limits: Vec<_> = noted(&world.pool).await.into_iter().map(|t| t.1).collect();
    assert_eq!(limits, [Some(5000), Some(1_048_588), Some(19)]);

    // A later declaration wins; a broker that says nothing changes no limit.
    let other = Arc::new(Silent(Embedded::start().unwrap()));
    outbox::declare(&world.pool, &*other, &[Topic::new(&names[0], 2)])
        .await
        .unwrap();
    let first = &noted(&world.pool).await[0];
    assert_eq!((first.1, first.2.as_str()), (Some(5000), "block-key"));
}

#[tokio::test]
async fn a_broker_says_what_it_knows() {
    let kafka = Kafka::new(testbed::kafka().await.bootstrap()).unwrap();
    let missing = vec![format!("missing.{}", Uuid::now_v7().simple())];
    let limits = kafka.limits(&missing).await.unwrap();
    assert_eq!(limits, [(missing[0].clone(), None)]);
    assert_eq!(kafka.limits(&[]).await.unwrap(), []);
    let embedded = Embedded::start().unwrap();
    let limits = embedded.limits(&missing).await.unwrap();
    assert_eq!(limits, [(missing[0].clone(), Some(DEFAULT_MAX_BYTES))]);
    // Nobody listens there.
    let away = format!("127.0.0.1:{}", testbed::free_port());
    let error = Kafka::new(away).unwrap().limits(&missing).await;
    let error = error.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_producer_follows_the_limits_of_the_topics() {
    let world = World::embedded("extremes").await;
    let mut session = world.pool.acquire().await.unwrap();
    let mut limits = async || {
        outgoing::largest_and_smallest_limit(&mut session)
            .await
            .unwrap()
    };
    assert_eq!(limits().await, (DEFAULT_MAX_BYTES, DEFAULT_MAX_BYTES));
    // A topic whose limit nobody knows has the default.
    for (sql, expected) in [
        (
            "insert into outbox.topic values ('a', null)",
            (DEFAULT_MAX_BYTES, DEFAULT_MAX_BYTES),
        ),
        (
            "insert into outbox.topic values ('b', 3000)",
            (DEFAULT_MAX_BYTES, 3000),
        ),
        (
            "insert into outbox.topic values ('c', 3000000)",
            (3_000_000, 3000),
        ),
        (
            "delete from outbox.topic where name = 'b'",
            (3_000_000, DEFAULT_MAX_BYTES),
        ),
    ] {
        sqlx::query(sql).execute(&world.pool).await.unwrap();
        assert_eq!(limits().await, expected, "{sql}");
    }
    let tuning = Tuning::default();
    let usual = tuning.clone().for_limits((1_048_588, 1_048_588));
    assert_eq!(
        (usual.max_record_bytes, usual.batch_bytes),
        (1_048_588, tuning.batch_bytes)
    );
    let wide = tuning.clone().for_limits((3_000_000, 3000));
    assert_eq!((wide.max_record_bytes, wide.batch_bytes), (3_000_000, 3000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_the_largest_limit_that_kafka_has_keeps_no_relay_from_sending() {
    let world = World::embedded("largest").await;
    sqlx::raw_sql("insert into outbox.topic values ('a', 2147483647)")
        .execute(&world.pool)
        .await
        .unwrap();
    let relay = world.relay(Config::default());
    world.send(&[world.message("k", 1)]).await;
    world.oracle().wait_for(1).await;
    relay.stop().await;
    let tuning = Tuning::default().for_limits((2_147_483_647, 2_147_483_647));
    assert_eq!(tuning.max_record_bytes, Tuning::MAX_RECORD_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_was_lowered_under_a_leader_makes_smaller_batches_and_parks_nothing() {
    let world = World::kafka("lowered").await;
    let topic = format!("{}.narrow", world.topic);
    create(&topic, "1000000").await;
    let declared = [Topic::new(&topic, 1)];
    outbox::declare(&world.pool, &*world.broker, &declared)
        .await
        .unwrap();
    let mut relay = world.relay(Config::default());
    relay.leading().await;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", testbed::kafka().await.bootstrap())
        .create()
        .unwrap();
    let lower =
        AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "40000");
    let altered = admin.alter_configs([&lower], &AdminOptions::new()).await;
    altered.unwrap().pop().unwrap().unwrap();
    // Different ones, or a batch of them would be small all the same.
    let noise = incompressible(200 * 2_000);
    let message = |n: usize| {
        let mut payload = noise[n % 200 * 2_000..][..2_000].to_vec();
        payload[..8].copy_from_slice(&n.to_be_bytes());
        Message::raw(&topic, "k", "test.sized.v1", payload)
    };
    // The broker takes a moment to be as it was told.
    let (mut sent, began) = (0, Instant::now());
    while noted(&world.pool).await[0].1 != Some(40_000) {
        assert!(began.elapsed() < SOON, "the limit is not noted");
        let batch: Vec<_> = (sent..sent + 200).map(message).collect();
        world.send(&batch).await;
        sent += batch.len();
        let mut oracle = Oracle::new(&*world.broker, &topic);
        oracle.wait_for(sent).await;
    }
    let mut oracle = Oracle::new(&*world.broker, &topic);
    oracle.wait_for(sent).await;
    let numbers = oracle.seen.iter().map(|record| {
        let number = &record.payload.as_ref().unwrap()[..8];
        usize::from_be_bytes(number.try_into().unwrap())
    });
    let numbers: Vec<_> = numbers.collect();
    assert_eq!(numbers, (0..sent).collect::<Vec<_>>(), "in order");
    let parked = "select count(*) from outbox.parked";
    assert_eq!(world.count(parked).await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_refuses_the_relays_clock_has_its_messages_held_and_not_parked_for_good() {
    let world = World::kafka("timestamps").await;
    let topic = format!("{}.clock", world.topic);
    // Whatever takes a moment to arrive is too old for it.
    world
        .create_topic(&topic, "message.timestamp.before.max.ms", "0")
        .await;
    let mut message = world.message("k", 1);
    message.topic.clone_from(&topic);
    world.send(&[message, world.message("k", 2)]).await;
    let relay = world.relay(Config::default());
    world.oracle().wait_for(1).await;
    world.wait_for_unsent(&[("held", 1)]).await;
    let reason: String = sqlx::query_scalar("select reason from outbox.parked")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(reason.contains("InvalidTimestamp"), "{reason}");
    relay.stop().await;
}

#[tokio::test]
async fn a_topic_that_exists_needs_no_right_to_create_topics() {
    // The embedded broker refuses CreateTopics to everybody.
    let embedded = Embedded::start().unwrap();
    let there = [Topic::new("there", 1)];
    embedded.ensure_topics(&there).await.unwrap();
    let kafka = Kafka::new(embedded.bootstrap()).unwrap();
    kafka.ensure_topics(&there).await.unwrap();
    let missing = kafka.ensure_topics(&[Topic::new("missing", 1)]).await;
    assert!(missing.is_err());
}

/// A broker that does not answer what its topics take.
struct Silent(Embedded);

impl Broker for Silent {
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        self.0.ensure_topics(topics)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.0.ping()
    }

    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: Deliveries,
    ) -> Result<Box<dyn Producer>, Error> {
        self.0.producer(tuning, deliveries)
    }

    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        self.0.subscribe(group, topics)
    }
}

#[test]
fn the_docs_list_each_sql_state_as_it_is_classified() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failure-modes.md");
    let page = std::fs::read_to_string(page).unwrap();
    for (state, fault, what) in outbox::fault::STATES {
        let fault = format!("{fault:?}").to_lowercase();
        let row = format!("| `{state}` | {fault} | {what} |");
        assert!(page.contains(&row), "docs/failure-modes.md lacks: {row}");
    }
}
