//! A consumer to be tested: a handler that fails as told, and what it has done.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use outbox::{
    Consumer, Error, Handler, Received,
    broker::{Broker, Deliveries, Outgoing, Producer, Subscription, Topic, Tuning},
    incoming::{Config, OnPoison},
};
use sqlx::{PgPool, PgTransaction, postgres::PgPoolOptions};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::world::{Counted, SOON, World};

/// Inserts each number; fails as told.
#[derive(Clone, Default)]
pub(crate) struct Effects {
    /// Number to how often it still fails transiently; `u32::MAX` means always.
    pub(crate) flaky: Arc<Mutex<HashMap<i64, u32>>>,
    /// Numbers that fail for good.
    pub(crate) refuses: Arc<Mutex<HashSet<i64>>>,
    /// Numbers that wait in the handler for as long as they are here.
    pub(crate) holds: Arc<Mutex<HashSet<i64>>>,
    /// How often each number has been in the handler.
    pub(crate) entered: Arc<Mutex<HashMap<i64, u32>>>,
    /// The kinds it handles; all where none are named.
    pub(crate) kinds: Vec<&'static str>,
    pub(crate) panics_at: Option<i64>,
    pub(crate) swallows_at: Option<i64>,
}

impl Effects {
    pub(crate) fn refusing(numbers: impl IntoIterator<Item = i64>) -> Self {
        let effects = Self::default();
        effects.refuses.lock().unwrap().extend(numbers);
        effects
    }

    pub(crate) fn hold(&self, n: i64) {
        self.holds.lock().unwrap().insert(n);
    }

    pub(crate) fn let_go(&self, n: i64) {
        self.holds.lock().unwrap().remove(&n);
    }

    pub(crate) fn accept(&self, n: i64) {
        self.refuses.lock().unwrap().remove(&n);
    }

    pub(crate) fn times(&self, n: i64) -> u32 {
        self.entered.lock().unwrap().get(&n).copied().unwrap_or(0)
    }

    /// Waits until the number has been in the handler so often.
    pub(crate) async fn wait_until_entered(&self, n: i64, times: u32) {
        testbed::until(
            SOON,
            &format!("{n} in the handler {times} times"),
            async || (self.times(n) >= times).then_some(()),
        )
        .await;
    }
}

impl Handler for Effects {
    fn kinds(&self) -> Option<&[&str]> {
        Some(self.kinds.as_slice()).filter(|kinds| !kinds.is_empty())
    }

    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let Counted { n } = message.decode()?;
        sqlx::query("insert into effect values ($1)")
            .bind(n)
            .execute(&mut **tx)
            .await?;
        *self.entered.lock().unwrap().entry(n).or_default() += 1;
        testbed::until(SOON, "to be let go", async || {
            (!self.holds.lock().unwrap().contains(&n)).then_some(())
        })
        .await;
        if self.refuses.lock().unwrap().contains(&n) {
            return Err(Error::permanent("scripted refusal"));
        }
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

pub(crate) struct Reading {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    /// What the broker refuses it.
    pub(crate) refused: watch::Receiver<Option<String>>,
}

/// Its sessions have a name, so that a test can kill them and no others.
pub(crate) fn reader_pool(world: &World, connections: u32) -> PgPool {
    let options = world.database.options().unwrap().application_name("reader");
    PgPoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(options)
}

/// Short pauses, so that a test is not.
pub(crate) fn config(on_poison: OnPoison) -> Config {
    Config {
        attempts: 4,
        backoff: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        on_poison,
        ..Config::default()
    }
}

impl Reading {
    /// Messages after a parked one flow on.
    pub(crate) fn start(world: &World, effects: &Effects) -> Self {
        Self::with(world, effects.clone(), config(OnPoison::SkipMessage))
    }

    pub(crate) fn with(world: &World, handler: impl Handler, config: Config) -> Self {
        Self::from(world, Arc::clone(&world.broker), handler, config)
    }

    pub(crate) fn from(
        world: &World,
        broker: Arc<dyn Broker>,
        handler: impl Handler,
        config: Config,
    ) -> Self {
        Self::on(world, reader_pool(world, 10), broker, handler, config)
    }

    pub(crate) fn on(
        world: &World,
        pool: PgPool,
        broker: Arc<dyn Broker>,
        handler: impl Handler,
        config: Config,
    ) -> Self {
        let topics = [world.topic.as_str()];
        let consumer = Consumer::new(&world.reader(), &topics, pool, broker, handler).with(config);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let refused = consumer.refused();
        let task = tokio::spawn(async move { consumer.run(token).await });
        Self {
            shutdown,
            task,
            refused,
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await.unwrap();
    }

    /// As if whoever ran it had been dropped.
    pub(crate) async fn drop_it(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// What it says when it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        self.task.await.unwrap()
    }
}

impl World {
    /// The consumer's name.
    pub(crate) fn reader(&self) -> String {
        format!("reader-{}", self.database.name)
    }

    pub(crate) async fn effects(&self) -> Vec<i64> {
        let sql = "select n from effect order by n";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    pub(crate) async fn wait_for_effects(&self, expected: &[i64]) {
        testbed::until(SOON, &format!("the effects {expected:?}"), async || {
            let effects = self.effects().await;
            assert!(effects.len() <= expected.len(), "too many: {effects:?}");
            (effects == expected).then_some(())
        })
        .await;
    }

    /// The class and reason of everything parked on the way in.
    pub(crate) async fn sick(&self) -> Vec<(String, String)> {
        sqlx::query_as(
            "select class, reason from outbox.inbox_parked order by topic, partition, \"offset\"",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Sends a message past the relay, as often as told.
    pub(crate) async fn produce(&self, message: &outbox::Message, times: usize) {
        self.produce_each(&vec![message.clone(); times]).await;
    }

    /// Sends messages past the relay, in order. A producer needs half a second to begin.
    pub(crate) async fn produce_each(&self, messages: &[outbox::Message]) {
        let (sender, mut deliveries) = mpsc::unbounded_channel();
        let tuning = Tuning {
            linger_ms: 0.0,
            queue_kib: 1024,
            ..Tuning::default()
        };
        let producer = self.broker.producer(&tuning, sender).unwrap();
        for (token, message) in messages.iter().enumerate() {
            let id = message.id.to_string();
            let headers = [
                ("ce_specversion", "1.0"),
                ("ce_id", id.as_str()),
                ("ce_source", "/test"),
                ("ce_type", message.kind.as_str()),
            ];
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

/// The same broker under another group, which begins at the earliest offset.
pub(crate) struct OtherGroup(pub(crate) Arc<dyn Broker>);

impl Broker for OtherGroup {
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
        self.0.subscribe(&format!("{group}-again"), topics)
    }
}
