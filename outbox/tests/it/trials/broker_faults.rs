//! Kafka freezes, dies, forgets a topic, refuses one, breaks the producer; it is slow, and the backlog is long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use outbox::{
    Error,
    broker::{
        Broker, Deliveries, Described, Outgoing, Producer, SendError, Subscription, Topic, Tuning,
    },
    outgoing::Config,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminOptions, NewPartitions},
    mocking::MockCluster,
    producer::{BaseProducer, DefaultProducerContext, Producer as _},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use testbed::Kafka;

use super::{
    journal::Journal,
    load::{Load, Plan},
    reader::Reader,
    room::{HEALED, Room},
    tape::Tape,
    verdict::{arrivals, verdict},
};
use crate::world::{Oracle, SOON, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_delays_everything_and_inverts_nothing() {
    let trials = testbed::trials();
    let mut trial = trials.begin("Kafka frozen");
    let mut kafka = Kafka::start().await.unwrap();
    let room = Room::on("frozen_kafka", testbed::postgres().await, kafka.bootstrap()).await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    for _ in 0..trials.pick(1, 5) {
        let more = trial.random.within(20..200);
        tape.wait_for_more(usize::try_from(more).unwrap()).await;
        kafka.suspend().unwrap();
        // The length of the freeze is the fault: longer than most of a client's timeouts.
        tokio::time::sleep(trials.pick(Duration::from_secs(5), Duration::from_secs(65))).await;
        relay
            .wait_until_it_says("the broker acknowledges nothing")
            .await;
        kafka.resume().unwrap();
        let healed = SystemTime::now();
        trial.healed_after(tape.healed_after(healed).await);
    }
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_parks_nothing_and_gets_everything_when_it_is_back() {
    let trials = testbed::trials();
    let mut trial = trials.begin("Kafka away");
    let mut kafka = Kafka::start().await.unwrap();
    let room = Room::on("away", testbed::postgres().await, kafka.bootstrap()).await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let reader = Reader::start(&room);
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    for round in 0..trials.pick(1, 4) {
        let more = trial.random.within(20..200);
        tape.wait_for_more(usize::try_from(more).unwrap()).await;
        match round % 2 {
            0 => kafka.kill().unwrap(),
            _ => kafka.stop().await.unwrap(),
        }
        tokio::time::sleep(outage(round)).await;
        relay
            .wait_until_it_says("the broker acknowledges nothing")
            .await;
        assert_eq!(
            room.parked().await,
            [] as [String; 0],
            "an outage is nobody's fault"
        );
        kafka.restart().await.unwrap();
        let healed = SystemTime::now();
        trial.healed_after(tape.healed_after(healed).await);
    }
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    reader.finish(&room, verdict.messages).await;
    relay.stop().await;
}

/// The first of the long form is the longest: five minutes, or `TRIALS_OUTAGE` seconds.
fn outage(round: usize) -> Duration {
    let seconds = std::env::var("TRIALS_OUTAGE").ok();
    let longest = seconds.map_or(300, |seconds| seconds.parse().expect("a number of seconds"));
    match (testbed::trials().are_long(), round) {
        (false, _) => Duration::from_secs(2),
        (true, 0) => Duration::from_secs(longest),
        (true, _) => Duration::from_secs(30),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_made_again_gets_what_came_meanwhile() {
    let mut trial = testbed::trials().begin("topic deleted");
    let room = Room::shared("deleted").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    load.wait_for_more(100).await;
    load.stop(&room).await;
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let before = verdict(&room, &journal, &mut tape).await;

    let topic = room.topics[0].clone();
    let options = AdminOptions::new().operation_timeout(Some(SOON));
    let deleted = room.admin().delete_topics(&[&topic], &options).await;
    deleted.unwrap().remove(0).unwrap();
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    testbed::until(HEALED, "messages are held", async || {
        room.parked()
            .await
            .contains(&"held".to_owned())
            .then_some(())
    })
    .await;
    room.create_topic(&topic, 4, &[]).await;
    let healed = SystemTime::now();
    tape.rewind().await;
    trial.healed_after(tape.healed_after(healed).await);
    load.stop(&room).await;
    testbed::until(HEALED, "nothing is held any more", async || {
        room.parked().await.is_empty().then_some(())
    })
    .await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    assert!(verdict.messages > before.messages);
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_gets_more_partitions_loses_nothing_and_keeps_order_inside_each() {
    let mut trial = testbed::trials().begin("partitions added");
    let room = Room::shared("widened").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let reader = Reader::start(&room);
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    tape.wait_for_more(100).await;
    let wider = NewPartitions::new(&room.topics[0], 9);
    let options = AdminOptions::new().operation_timeout(Some(SOON));
    let widened = room.admin().create_partitions([&wider], &options).await;
    widened.unwrap().remove(0).unwrap();
    // The relay's client learns of it by its own metadata refresh.
    testbed::until(HEALED, "a new partition is used", async || {
        let (bootstrap, topic) = (room.bootstrap.clone(), room.topics[0].clone());
        let used = move || Tape::records_in(&bootstrap, &topic, 4..9);
        (tokio::task::spawn_blocking(used).await.unwrap() > 0).then_some(())
    })
    .await;
    tape.look_for_partitions().await;
    tape.wait_for_more(100).await;
    load.stop(&room).await;
    let verdict = arrivals(&room, &journal, &mut tape).await;
    let mut last = std::collections::HashMap::new();
    for arrival in &tape.arrivals {
        let last = last.entry((arrival.partition, &arrival.key)).or_insert(0);
        assert!(*last < arrival.n, "I4: {arrival:?} after {last}");
        *last = arrival.n;
    }
    trial.counted(verdict.messages, verdict.duplicates);
    reader.finish(&room, verdict.messages).await;
    relay.stop().await;
}

/// The embedded broker with its strings in our hands, and a count of the producers that sent to it.
struct Mock {
    /// Owns the cluster; nothing is produced through it.
    keeper: BaseProducer<DefaultProducerContext>,
    kafka: outbox::broker::Kafka,
    producers: Arc<AtomicUsize>,
}

impl Mock {
    fn start() -> Arc<Self> {
        let keeper: BaseProducer<DefaultProducerContext> = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .create()
            .unwrap();
        let bootstrap = keeper.client().mock_cluster().unwrap().bootstrap_servers();
        let kafka = outbox::broker::Kafka::new(bootstrap).unwrap();
        let producers = Arc::default();
        Arc::new(Self {
            keeper,
            kafka,
            producers,
        })
    }

    fn cluster(&self) -> MockCluster<'_, DefaultProducerContext> {
        self.keeper.client().mock_cluster().unwrap()
    }
}

impl Broker for Mock {
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        for topic in topics {
            let created = self
                .cluster()
                .create_topic(&topic.name, i32::from(topic.partitions), 1);
            created.unwrap();
        }
        Box::pin(async { Ok(()) })
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.kafka.ping()
    }
    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: Deliveries,
    ) -> Result<Box<dyn Producer>, Error> {
        Ok(Box::new(Counted {
            inner: self.kafka.producer(tuning, deliveries)?,
            first: AtomicBool::new(true),
            producers: Arc::clone(&self.producers),
        }))
    }
    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        self.kafka.subscribe(group, topics)
    }
    fn describe<'a>(
        &'a self,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Described>, Error>> {
        self.kafka.describe(topics)
    }
}

/// A producer that is counted when it sends for the first time: there are some in reserve, and one
/// for what is held.
struct Counted {
    inner: Box<dyn Producer>,
    first: AtomicBool,
    producers: Arc<AtomicUsize>,
}

impl Producer for Counted {
    fn send(&self, token: usize, record: Outgoing<'_>) -> Result<(), SendError> {
        let held = record.topic.ends_with(".forbidden");
        if !held && self.first.swap(false, Ordering::SeqCst) {
            self.producers.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.send(token, record)
    }

    fn abandon(self: Box<Self>) {
        self.inner.abandon();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_broken_for_good_is_replaced_and_nothing_is_lost_or_inverted() {
    let mock = Mock::start();
    let world = World::with("fatal", Arc::clone(&mock) as Arc<dyn Broker>).await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ];
    let mut sent = 0;
    for error in errors {
        for _ in 0..10 {
            world.send(&[world.message("k", sent)]).await;
            sent += 1;
        }
        mock.cluster()
            .request_errors(RDKafkaApiKey::Produce, &[error]);
        for _ in 0..40 {
            world.send(&[world.message("k", sent)]).await;
            sent += 1;
        }
        oracle.wait_for(usize::try_from(sent).unwrap()).await;
    }
    assert_eq!(oracle.numbers(), (0..sent).collect::<Vec<_>>());
    let producers = mock.producers.load(Ordering::SeqCst);
    assert!(producers > 1, "no producer was given up");
    assert_eq!(world.count("select count(*) from outbox.parked").await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_permitted_is_held_while_others_flow() {
    let mock = Mock::start();
    let world = World::with("forbidden", Arc::clone(&mock) as Arc<dyn Broker>).await;
    let forbidden = format!("{}.forbidden", world.topic);
    world
        .broker
        .ensure_topics(&[Topic::new(&forbidden, 1)])
        .await
        .unwrap();
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.cluster().topic_error(&forbidden, denied).unwrap();
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    let secret = |n| {
        let mut message = world.message("k", n);
        message.topic.clone_from(&forbidden);
        message
    };
    for n in 0..50 {
        world.send(&[world.message("k", n), secret(n)]).await;
    }
    oracle.wait_for(50).await;
    testbed::until(SOON, "fifty are held", async || {
        let held = "select count(*) from outbox.parked where class = 'held'";
        (world.count(held).await == 50).then_some(())
    })
    .await;
    for n in 50..100 {
        world.send(&[world.message("k", n), secret(n)]).await;
    }
    oracle.wait_for(100).await;
    assert_eq!(oracle.numbers(), (0..100).collect::<Vec<_>>());
    assert_eq!(
        mock.producers.load(Ordering::SeqCst),
        1,
        "the others keep their producer"
    );
    mock.cluster()
        .topic_error(&forbidden, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR)
        .unwrap();
    let mut healed = Oracle::new(&*world.broker, &forbidden);
    healed.wait_for(100).await;
    assert_eq!(healed.numbers(), (0..100).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_a_leader_stops_no_other() {
    let mock = Mock::start();
    let world = World::with("leaderless", Arc::clone(&mock) as Arc<dyn Broker>).await;
    let stuck = format!("{}.stuck", world.topic);
    let topics = [Topic::new(&stuck, 1)];
    world.broker.ensure_topics(&topics).await.unwrap();
    mock.cluster().partition_leader(&stuck, 0, None).unwrap();
    let relay = world.relay(Config {
        max_in_flight: 200,
        ..Config::default()
    });
    let mut oracle = world.oracle();
    let mut message = world.message("k", -1);
    message.topic.clone_from(&stuck);
    // Together, so that no other message was sent later: only the broker can tell.
    let others = (0..1_000).map(|n| world.message("k", n));
    let together: Vec<_> = std::iter::once(message).chain(others).collect();
    world.send(&together).await;
    oracle.wait_for(1_000).await;
    world.wait_for_unsent(&[("held", 1)]).await;
    // What comes for it later waits behind it.
    for n in 0..20 {
        let mut message = world.message("k", n);
        message.topic.clone_from(&stuck);
        world.send(&[message]).await;
    }
    world.wait_for_unsent(&[("held", 21)]).await;
    mock.cluster().partition_leader(&stuck, 0, Some(1)).unwrap();
    let mut healed = Oracle::new(&*world.broker, &stuck);
    healed.wait_for(21).await;
    assert_eq!(healed.numbers(), (-1..20).collect::<Vec<_>>());
    world.wait_for_unsent(&[]).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_and_a_slow_broker_do_not_fill_the_relays_memory() {
    let trials = testbed::trials();
    let mut trial = trials.begin("memory");
    let mut kafka = Kafka::start().await.unwrap();
    let room = Room::on("memory", testbed::postgres().await, kafka.bootstrap()).await;
    let rows: i64 = trials.pick(40_000, 1_500_000);
    for size in [300, 3_000] {
        let rows = rows * 300 / size;
        sqlx::query(
            "insert into outbox.log (message_id, topic, key, kind, payload)
             select gen_random_uuid(), $1, 'key-' || n % 100, 'test.counted.v1',
                    convert_to(format('{\"n\": %s, \"x\": \"%s\"}', n, repeat(md5(n::text), $3 / 32)), 'UTF8')
             from generate_series(1, $2) as n",
        )
        .bind(&room.topics[0])
        .bind(rows)
        .bind(i32::try_from(size).unwrap())
        .execute(&room.pool)
        .await
        .unwrap();
    }
    let rows = room.count("select count(*) from outbox.log").await;
    let mut relay = room.relay();
    relay.start();
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let mut peak = 0;
    let mut frozen = 0;
    while tape.arrivals.len() < usize::try_from(rows).unwrap() {
        tape.wait_for_more(1).await;
        if frozen < trials.pick(1, 10) {
            frozen += 1;
            kafka.suspend().unwrap();
            relay
                .wait_until_it_says("the broker acknowledges nothing")
                .await;
            kafka.resume().unwrap();
        }
        peak = peak.max(relay.peak_memory().unwrap_or(0));
    }
    trial.counted(tape.arrivals.len(), tape.duplicates);
    println!("the relay had at most {peak} MiB");
    assert!(peak <= 80, "{peak} MiB for {rows} rows");
    relay.stop().await;
}
