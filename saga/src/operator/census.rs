//! How many sagas wait for a person now, as metrics: an alert about what came to be parked is over
//! after a while, and the sagas still stand there.
//!
//! Promised: a look every [`EVERY`] by the index on the status. Every replica shows the same.

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{Error, operator::table, telemetry};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15);

/// Counts parked sagas.
pub struct Census {
    pool: PgPool,
    /// The last count: what is gone since must be said too.
    told: BTreeMap<String, i64>,
}

impl Census {
    /// Counts in this database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            told: BTreeMap::new(),
        }
    }

    /// Counts every 15 seconds, until told to stop.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.run_once().await {
                warn!(%error, "parked sagas cannot be counted");
            }
            shutdown
                .run_until_cancelled(tokio::time::sleep(EVERY))
                .await;
        }
    }

    /// Counts once: how many are parked, by definition.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn run_once(&mut self) -> Result<BTreeMap<String, i64>, Error> {
        let parked = table::parked_sagas(&self.pool).await?;
        for (definition, sagas) in with_gone(&parked, &self.told) {
            telemetry::parked_now(definition, sagas);
        }
        self.told.clone_from(&parked);
        Ok(parked)
    }
}

/// What was counted, and 0 for what was there before.
fn with_gone<'a>(
    now: &'a BTreeMap<String, i64>,
    before: &'a BTreeMap<String, i64>,
) -> impl Iterator<Item = (&'a str, i64)> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let gone = gone.map(|name| (name.as_str(), 0));
    now.iter()
        .map(|(name, &sagas)| (name.as_str(), sagas))
        .chain(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_said_once_more() {
        let counted = |counts: &[(&str, i64)]| -> BTreeMap<String, i64> {
            let counts = counts
                .iter()
                .map(|(name, sagas)| ((*name).to_owned(), *sagas));
            counts.collect()
        };
        let (before, now) = (
            counted(&[("a", 1), ("b", 2)]),
            counted(&[("b", 3), ("c", 4)]),
        );
        let told: Vec<_> = with_gone(&now, &before).collect();
        assert_eq!(told, [("b", 3), ("c", 4), ("a", 0)]);
    }
}
