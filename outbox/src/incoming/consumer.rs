//! The consumer: takes part in a consumer group and applies each message once.
//!
//! Promised: a handler's effect in the database happens once per message, in the order of the
//! partition; a message that cannot be handled is kept in `outbox.inbox_parked`, by default with what
//! comes after it on its key, and the rest flow on. Not promised: exactly-once for effects outside of
//! `tx`.
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
    incoming::{
        Config, Handler, parking::replayer, pump, retention, table, watchdog::Watchdog,
        worker::Worker,
    },
    telemetry,
};

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
        self.worker.handling.config = Arc::new(config);
        self
    }

    /// The database it works on.
    #[cfg(feature = "service")]
    pub(crate) fn pool(&self) -> &PgPool {
        &self.worker.handling.pool
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
    /// [`Error::Permanent`] at start when the inbox would forget messages that can still come, see
    /// [`Config::retention`]; [`Error::Broker`] when the settings are refused by the client. Outages
    /// are waited out.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        telemetry::describe_metrics();
        let handling = &self.worker.handling;
        let (config, pool) = (&handling.config, &handling.pool);
        config.check()?;
        retention::check(&*self.broker, &self.topics, config, &shutdown).await?;
        // Before the first message, so that it finds its day and its consumer's number.
        shutdown
            .run_until_cancelled(async {
                retention::keep(pool, config).await;
                if let Err(error) = table::register(pool, &handling.name).await {
                    // The first batch does it.
                    tracing::debug!(%error, "the consumer has no number yet");
                }
            })
            .await;
        // Tasks of their own, because a transaction must not be dropped half begun; they end when
        // this does, in whatever way.
        let stop = shutdown.child_token();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(retention::run(
            pool.clone(),
            Config::clone(config),
            stop.clone(),
        ));
        let replaying = tokio::spawn(replayer::run(handling.clone(), stop.clone()));
        self.consume(&shutdown).await?;
        stop.cancel();
        // It was told at the same time as the workers, and has had their grace.
        let _ = tokio::time::timeout(Duration::from_secs(1), replaying).await;
        Ok(())
    }

    async fn consume(&self, shutdown: &CancellationToken) -> Result<(), Error> {
        let handling = &self.worker.handling;
        let mut watchdog = Watchdog::new(handling.label(), handling.config.stalled_after);
        while !shutdown.is_cancelled() {
            let subscription = self.broker.subscribe(&handling.name, &self.topics)?;
            tracing::info!(consumer = &*handling.name, topics = ?self.topics, "consuming");
            let ended = pump::run(
                subscription,
                self.worker.clone(),
                self.joined.clone(),
                &mut watchdog,
                shutdown.clone(),
            )
            .await;
            if let Err(error) = ended {
                tracing::warn!(%error, consumer = &*handling.name, "left the group, joining anew");
                sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }
}
