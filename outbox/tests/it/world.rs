//! A database of its own, a broker, and an oracle that reads what arrived.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use outbox::{
    Message, Payload, Relay,
    broker::{Broker, Embedded, Kafka, Record, Subscription, Topic},
    outgoing,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgPool};
use testbed::Database;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Long enough for a starved machine; a condition that holds ends the wait at once.
pub(crate) const SOON: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) n: i64,
}

impl Payload for Counted {
    const KIND: &'static str = "test.counted.v1";
}

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) pool: PgPool,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) topic: String,
}

impl World {
    /// With the broker inside the process, where durability is not the subject.
    pub(crate) async fn embedded(name: &str) -> Self {
        Self::with(name, Arc::new(Embedded::start().unwrap())).await
    }

    pub(crate) async fn kafka(name: &str) -> Self {
        let kafka = Kafka::new(testbed::kafka().await.bootstrap()).unwrap();
        Self::with(name, Arc::new(kafka)).await
    }

    pub(crate) async fn with(name: &str, broker: Arc<dyn Broker>) -> Self {
        Self::with_ring(name, broker, None).await
    }

    /// With partitions of the log of `2^bits` numbers.
    pub(crate) async fn with_ring(name: &str, broker: Arc<dyn Broker>, bits: Option<i32>) -> Self {
        let database = Database::fresh(name).await;
        if let Some(bits) = bits {
            let setting = format!(
                "do $$ begin execute format('alter database %I set {} = {bits}', current_database()); end $$",
                outbox::PARTITION_BITS
            );
            let mut session = sqlx::PgConnection::connect_with(&database.options().unwrap())
                .await
                .unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(setting))
                .execute(&mut session)
                .await
                .unwrap();
        }
        let pool = database.pool(40).await.unwrap();
        outbox::migrate(&pool).await.unwrap();
        sqlx::raw_sql("create table effect (n bigint not null); create table keyed (key text primary key, n bigint)")
            .execute(&pool)
            .await
            .unwrap();
        let topic = format!("{name}.{}", Uuid::now_v7().simple());
        let topics = [Topic::new(topic.clone(), 4)];
        broker.ensure_topics(&topics).await.unwrap();
        Self {
            database,
            pool,
            broker,
            topic,
        }
    }

    pub(crate) fn message(&self, key: &str, n: i64) -> Message {
        Message::new(self.topic.clone(), key, &Counted { n }).unwrap()
    }

    /// Enqueues in a transaction of its own.
    pub(crate) async fn send(&self, messages: &[Message]) {
        let mut tx = self.pool.begin().await.unwrap();
        outbox::enqueue_all(&mut tx, messages).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) fn relay(&self, config: outgoing::Config) -> Running {
        Running::start(Relay::new(
            self.database.options().unwrap(),
            Arc::clone(&self.broker),
            config,
        ))
    }

    pub(crate) fn oracle(&self) -> Oracle {
        Oracle::new(&*self.broker, &self.topic)
    }

    /// Makes a topic with one partition and a setting on the real Kafka.
    pub(crate) async fn create_topic(&self, name: &str, setting: &str, value: &str) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", testbed::kafka().await.bootstrap());
        let admin: AdminClient<_> = config.create().unwrap();
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1)).set(setting, value);
        let made = admin.create_topics([&topic], &AdminOptions::new()).await;
        made.unwrap().remove(0).unwrap();
        self.broker
            .ensure_topics(&[Topic::new(name, 1)])
            .await
            .unwrap();
    }

    /// What happens to later messages of a key after poison.
    pub(crate) async fn set_policy(&self, policy: &str) {
        self.set_policy_of(&self.topic, policy).await;
    }

    pub(crate) async fn set_policy_of(&self, topic: &str, policy: &str) {
        let sql = "insert into outbox.topic (name, on_poison) values ($1, $2)
                   on conflict (name) do update set on_poison = excluded.on_poison";
        let query = sqlx::query(sql).bind(topic).bind(policy);
        query.execute(&self.pool).await.unwrap();
    }

    /// Waits until exactly so many messages of each class are parked.
    pub(crate) async fn wait_for_unsent(&self, wanted: &[(&str, i64)]) {
        let wanted: Vec<_> = wanted.iter().map(|(c, n)| ((*c).to_owned(), *n)).collect();
        let sql = "select class, count(*) from outbox.parked group by class order by class";
        // What the test saw on the way, for whom it fails.
        let seen = std::cell::RefCell::new(Vec::new());
        testbed::until(SOON, &format!("{wanted:?} are parked"), async || {
            let parked: Vec<(String, i64)> =
                sqlx::query_as(sql).fetch_all(&self.pool).await.unwrap();
            if parked != *seen.borrow() {
                eprintln!("parked: {parked:?}");
                seen.replace(parked.clone());
            }
            (parked == wanted).then_some(())
        })
        .await;
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

/// A relay in a task.
pub(crate) struct Running {
    pub(crate) status: tokio::sync::watch::Receiver<outgoing::Status>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), outbox::Error>>,
}

impl Running {
    pub(crate) fn start(relay: Relay) -> Self {
        let shutdown = CancellationToken::new();
        let status = relay.status();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { relay.run(token).await });
        Self {
            status,
            shutdown,
            task,
        }
    }

    pub(crate) async fn leading(&mut self) {
        let leading = self
            .status
            .wait_for(|status| *status == outgoing::Status::Leading);
        let waited = tokio::time::timeout(SOON, leading).await;
        waited.expect("the relay leads in time").unwrap();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As if the process had been killed: nothing is flushed, nothing handed over.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Reads a topic from its beginning, outside of everything under test but the wire.
pub(crate) struct Oracle {
    subscription: Arc<Box<dyn Subscription>>,
    /// First occurrences in the order they arrived.
    pub(crate) seen: Vec<Record>,
    pub(crate) duplicates: usize,
    ids: HashSet<String>,
}

impl Oracle {
    pub(crate) fn new(broker: &dyn Broker, topic: &str) -> Self {
        let group = format!("oracle-{}", Uuid::now_v7().simple());
        let subscription = broker.subscribe(&group, &[topic.to_owned()]).unwrap();
        Self {
            subscription: Arc::new(subscription),
            seen: Vec::new(),
            duplicates: 0,
            ids: HashSet::new(),
        }
    }

    /// Reads until `wanted` different messages have arrived, or fails after `SOON`.
    pub(crate) async fn wait_for(&mut self, wanted: usize) {
        let deadline = Instant::now() + SOON;
        while self.seen.len() < wanted {
            assert!(
                Instant::now() < deadline,
                "only {} of {wanted} messages arrived",
                self.seen.len()
            );
            self.poll().await;
        }
    }

    pub(crate) async fn poll(&mut self) {
        let subscription = Arc::clone(&self.subscription);
        let poll = move || {
            let mut records = Vec::new();
            let mut patience = Duration::from_millis(50);
            while let Some(record) = subscription.poll(patience).unwrap() {
                records.push(record);
                patience = Duration::ZERO;
            }
            records
        };
        for record in tokio::task::spawn_blocking(poll).await.unwrap() {
            if self.ids.insert(header(&record, "ce_id")) {
                self.seen.push(record);
            } else {
                self.duplicates += 1;
            }
        }
    }

    pub(crate) fn numbers(&self) -> Vec<i64> {
        self.seen.iter().map(number).collect()
    }

    /// Of one key, in the order of arrival.
    pub(crate) fn of_key(&self, key: &str) -> Vec<i64> {
        let mine = |record: &&Record| record.key.as_deref() == Some(key.as_bytes());
        self.seen.iter().filter(mine).map(number).collect()
    }
}

pub(crate) fn number(record: &Record) -> i64 {
    let counted: Counted = serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap();
    counted.n
}

pub(crate) fn header(record: &Record, name: &str) -> String {
    let (_, value) = record.headers.iter().find(|(n, _)| n == name).unwrap();
    String::from_utf8(value.clone().unwrap()).unwrap()
}
