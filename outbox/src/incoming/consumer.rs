//! The consumer: takes part in a consumer group and applies each message once.
//!
//! Promised: a handler's effect in the database happens once per message, in the order of the
//! partition; a message that cannot be handled is kept in `outbox.inbox_parked` and the rest flow
//! on. Not promised: order around a parked message, and exactly-once for effects outside of `tx`.
//!
//! If it dies, the offsets committed so far are where its successor begins; what was handled after
//! them comes again and the inbox knows it.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    broker::Broker,
    incoming::{Handler, pump, worker::Worker},
};

/// Settings of a consumer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most messages in one transaction; by default 200. Participants of sagas open a savepoint
    /// for each: at most 50 there, or every snapshot on the server slows down.
    pub batch: usize,
    /// Attempts at a message that fails transiently before it is parked; by default 8. Failures of
    /// the database itself are not counted.
    pub attempts: u32,
    /// First pause between two attempts; it doubles, with jitter. By default 50 ms.
    pub backoff: Duration,
    /// Longest pause between two attempts; by default 5 s.
    pub backoff_max: Duration,
    /// How long a stopping consumer waits for its workers; by default 6 s.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch: 200,
            attempts: 8,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            grace: Duration::from_secs(6),
        }
    }
}

/// A named reader of some topics.
pub struct Consumer<H> {
    worker: Worker<H>,
    topics: Vec<String>,
    broker: Arc<dyn Broker>,
    joined: watch::Sender<bool>,
}

impl<H> Clone for Consumer<H> {
    fn clone(&self) -> Self {
        Self {
            worker: self.worker.clone(),
            topics: self.topics.clone(),
            broker: Arc::clone(&self.broker),
            joined: self.joined.clone(),
        }
    }
}

impl<H: Handler> Consumer<H> {
    /// A consumer that has not started. `name` is both the consumer group and the inbox's consumer:
    /// under another name every message would be handled again.
    pub fn new(
        name: &str,
        topics: &[&str],
        pool: PgPool,
        broker: Arc<dyn Broker>,
        handler: H,
    ) -> Self {
        Self {
            worker: Worker::new(name, pool, handler),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            broker,
            joined: watch::Sender::new(false),
        }
    }

    /// Replaces the settings.
    #[must_use]
    pub fn with(mut self, config: Config) -> Self {
        self.worker.config = Arc::new(config);
        self
    }

    /// Whether it has joined its group, now and from now on. Before that nothing is handled.
    #[must_use]
    pub fn joined(&self) -> watch::Receiver<bool> {
        self.joined.subscribe()
    }

    /// Handles messages until `shutdown`; then the batches under way are finished and their
    /// offsets committed.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] when the settings are refused by the client; outages are waited out.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        while !shutdown.is_cancelled() {
            let subscription = self.broker.subscribe(&self.worker.name, &self.topics)?;
            tracing::info!(consumer = &*self.worker.name, topics = ?self.topics, "consuming");
            let ended = pump::run(
                Arc::from(subscription),
                self.worker.clone(),
                self.joined.clone(),
                shutdown.clone(),
            )
            .await;
            if let Err(error) = ended {
                tracing::warn!(%error, consumer = &*self.worker.name, "left the group, joining anew");
                sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }
}
