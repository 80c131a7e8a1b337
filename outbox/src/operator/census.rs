//! What is parked now, as metrics: an alert about what came to be parked is over after a while, and
//! the messages still lie there.
//!
//! Promised: a look every [`EVERY`] at two tables that should be empty. Every replica shows the same.

use std::{collections::BTreeSet, time::Duration};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{Error, operator::status::table, telemetry};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15);

/// How many messages are parked, on either side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Those not sent, by class.
    pub outbox: Vec<(String, i64)>,
    /// Those not handled, by consumer.
    pub inbox: Vec<(String, i64)>,
}

/// Counts what is parked.
pub struct Census {
    pool: PgPool,
    /// The last count: what is gone since must be said too.
    told: Counted,
}

impl Census {
    /// Counts in this database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            told: Counted::default(),
        }
    }

    /// Counts every 15 seconds, until told to stop.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.run_once().await {
                warn!(%error, "what is parked cannot be counted");
            }
            shutdown
                .run_until_cancelled(tokio::time::sleep(EVERY))
                .await;
        }
    }

    /// Counts once.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn run_once(&mut self) -> Result<Counted, Error> {
        let mut connection = self.pool.acquire().await?;
        let outbox = table::parked_counts(&mut connection).await?.into_iter();
        let inbox = table::inbox_parked_counts(&mut connection).await?;
        let counted = Counted {
            outbox: outbox
                .map(|it| (it.class.as_str().to_owned(), it.messages))
                .collect(),
            inbox: inbox
                .into_iter()
                .map(|it| (it.consumer, it.messages))
                .collect(),
        };
        for (class, messages) in with_gone(&counted.outbox, &self.told.outbox) {
            telemetry::parked_now(class, messages);
        }
        for (consumer, messages) in with_gone(&counted.inbox, &self.told.inbox) {
            telemetry::inbox_parked_now(consumer, messages);
        }
        self.told = counted.clone();
        Ok(counted)
    }
}

/// What was counted, and 0 for what was there before.
fn with_gone(now: &[(String, i64)], before: &[(String, i64)]) -> Vec<(String, i64)> {
    let here: BTreeSet<&str> = now.iter().map(|(name, _)| name.as_str()).collect();
    let gone = before
        .iter()
        .filter(|(name, _)| !here.contains(name.as_str()));
    let gone = gone.map(|(name, _)| (name.clone(), 0));
    now.iter().cloned().chain(gone).collect()
}
