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
        Config, Handler, membership::Membership, parking::replayer, pump, retention,
        watchdog::Watchdog, worker::Worker,
    },
    telemetry,
};

/// Before a new client joins in place of one that was given up.
const PAUSE: Duration = Duration::from_secs(1);
/// The same where another process has joined under this one's member name: each would throw the other
/// out for ever, and nothing would be handled.
const PAUSE_FENCED: Duration = Duration::from_secs(300);

/// A named reader of some topics.
pub struct Consumer<H> {
    worker: Worker<H>,
    topics: Vec<String>,
    broker: Arc<dyn Broker>,
    membership: Membership,
}

impl<H> Clone for Consumer<H> {
    fn clone(&self) -> Self {
        Self {
            worker: self.worker.clone(),
            topics: self.topics.clone(),
            broker: Arc::clone(&self.broker),
            membership: self.membership.clone(),
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
        let worker = Worker::new(name, pool, handler);
        Self {
            membership: Membership::new(worker.handling.label()),
            worker,
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            broker,
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
        self.membership.watch_joined()
    }

    /// What the broker refuses this consumer at the moment, in the broker's words: to join its group, to
    /// read a topic, to unpack a batch, or its name as a member, which another process has too. `None`
    /// while it refuses nothing.
    #[must_use]
    pub fn refused(&self) -> watch::Receiver<Option<String>> {
        self.membership.watch_refused()
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
            .run_until_cancelled(retention::keep(pool, &handling.name, config))
            .await;
        // Tasks of their own, because a transaction must not be dropped half begun; they end when
        // this does, in whatever way.
        let stop = shutdown.child_token();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(retention::run(
            pool.clone(),
            handling.label(),
            Arc::clone(config),
            stop.clone(),
        ));
        let replaying = tokio::spawn(replayer::run(handling.clone(), stop.clone()));
        let (handler, own) = (Arc::clone(&handling.handler), pool.clone());
        let told = stop.clone();
        let beside = tokio::spawn(async move { handler.beside(own, told).await });
        self.consume(&shutdown).await?;
        stop.cancel();
        // They were told at the same time as the workers, and have had their grace.
        let both = async { tokio::join!(replaying, beside) };
        let _ = tokio::time::timeout(Duration::from_secs(1), both).await;
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
                self.membership.clone(),
                &mut watchdog,
                shutdown.clone(),
            )
            .await;
            let Err(error) = ended else { continue };
            let mut pause = PAUSE;
            if matches!(error, Error::MemberFenced) {
                self.membership.refused(Some(error.to_string()));
                pause = PAUSE_FENCED;
            }
            tracing::warn!(%error, consumer = &*handling.name, ?pause, "left the group, will join anew");
            shutdown.run_until_cancelled(sleep(pause)).await;
        }
        Ok(())
    }
}
