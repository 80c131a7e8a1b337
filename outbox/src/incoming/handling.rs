//! One transaction in which messages are handled: what the worker and the replayer have in common.

use std::{sync::Arc, time::Instant};

use sqlx::{PgPool, PgTransaction};
use tracing::Instrument;

use crate::{
    Error,
    broker::Record,
    caught, caught_in,
    fault::Fault,
    incoming::{
        Config, Handler, OnPoison,
        budget::{Budget, Failed, Verdict},
        parse::kind,
        table,
    },
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

/// Whether a record is anything to this consumer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Concern {
    Ours,
    /// A kind that was not asked for.
    Nobodys,
    /// A kind that was asked for, in a version that was not; with what is to be said of it.
    OtherVersion(String),
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

    /// Whether the handler would look at a message.
    pub(super) fn check(&self, message: &Received) -> Result<(), Error> {
        caught_in(|| self.handler.check(message))
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

    /// What a record's kind is to the handler. A record that does not say is a matter of the parser's.
    pub(super) fn concern(&self, record: &Record) -> Concern {
        match (self.handler.kinds(), kind(record)) {
            (Some(kinds), Some(kind)) => concern(kinds, kind),
            _ => Concern::Ours,
        }
    }

    /// Charges a failure: see [`Budget::spend`]. Where nobody can say whose it is, the database is
    /// asked first.
    pub(super) async fn judge(&self, budget: &mut Budget, failed: &Failed) -> Option<Verdict> {
        if failed.error().fault() == Some(Fault::Unclear)
            && !table::is_well(&self.pool, &self.name).await
        {
            return None;
        }
        budget.spend(failed, &self.config)
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

fn concern(kinds: &[&str], kind: &str) -> Concern {
    if kinds.contains(&kind) {
        return Concern::Ours;
    }
    let (name, _) = versioned(kind);
    let asked = kinds.iter().find(|asked| versioned(asked).0 == name);
    asked.map_or(Concern::Nobodys, |asked| {
        Concern::OtherVersion(format!(
            "version {} of {name} is not known here, only {asked}",
            versioned(kind).1.unwrap_or("none")
        ))
    })
}

/// A kind's name, and its version if it has one: `order.placed` and `v2`.
fn versioned(kind: &str) -> (&str, Option<&str>) {
    let parts = kind.rsplit_once('.').filter(|(_, version)| {
        let number = version.strip_prefix('v').unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    parts.map_or((kind, None), |(name, version)| (name, Some(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_is_nobodys_concern_and_another_version_is_ours() {
        let kinds = ["order.placed.v1", "order.rejected.v2"];
        assert_eq!(concern(&kinds, "order.placed.v1"), Concern::Ours);
        for kind in [
            "order.moved.v1",
            "placed.v1",
            "order.placed.v1.v1",
            "",
            "order.placed.vx",
        ] {
            assert_eq!(concern(&kinds, kind), Concern::Nobodys, "{kind}");
        }
        for kind in ["order.placed.v2", "order.placed", "order.rejected.v1"] {
            let told = concern(&kinds, kind);
            assert!(matches!(told, Concern::OtherVersion(_)), "{kind}: {told:?}");
        }
    }
}
