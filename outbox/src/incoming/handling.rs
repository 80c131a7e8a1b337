//! One transaction in which messages are handled: what the worker and the replayer have in common.

use std::{sync::Arc, time::Instant};

use sqlx::{PgPool, PgTransaction};
use tracing::Instrument;

use crate::{
    Error, caught,
    incoming::{Config, Handler, OnPoison, table},
    message::Received,
    telemetry::Consuming,
    trace,
};

/// A consumer's name, settings, database and handler.
pub(super) struct Handling<H> {
    pub(super) name: Arc<str>,
    pub(super) config: Arc<Config>,
    pub(super) pool: PgPool,
    pub(super) metrics: Arc<Consuming>,
    pub(super) handler: Arc<H>,
}

impl<H> Clone for Handling<H> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            config: Arc::clone(&self.config),
            pool: self.pool.clone(),
            metrics: Arc::clone(&self.metrics),
            handler: Arc::clone(&self.handler),
        }
    }
}

impl<H: Handler> Handling<H> {
    pub(super) fn new(name: &str, pool: PgPool, handler: H) -> Self {
        let name = Arc::<str>::from(name);
        Self {
            metrics: Arc::new(Consuming::new(Arc::clone(&name))),
            name,
            config: Arc::default(),
            pool,
            handler: Arc::new(handler),
        }
    }

    /// Hands messages to the handler, in order.
    pub(super) async fn handle(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let handled = self.handle_all(tx, batch).await;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.handler(batch.len(), seconds);
        handled
    }

    async fn handle_all(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), Error> {
        caught(async { self.handler.prepare(tx, batch).await }).await?;
        for message in batch {
            let span = trace::process(message, &self.name);
            caught(async { self.handler.handle(tx, message).await })
                .instrument(span.clone())
                .await
                .inspect_err(|error| trace::process_failed(&span, error))?;
        }
        Ok(())
    }

    /// Asks the handler to keep a message that failed for good.
    pub(super) async fn keep_refused(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
        error: &Error,
    ) -> Result<bool, Error> {
        caught(async { self.handler.keep_refused(tx, message, error).await }).await
    }

    /// Ends a transaction in which a handler has been.
    pub(super) async fn commit(&self, mut tx: PgTransaction<'_>) -> Result<(), Error> {
        table::must_be_alive(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// The key that a parked message blocks; none where keys are not blocked.
    pub(super) fn blocks<'a>(&self, key: Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self.config.on_poison {
            OnPoison::BlockKey => key.filter(|key| !key.is_empty()),
            OnPoison::SkipMessage => None,
        }
    }

    pub(super) fn label(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }
}
