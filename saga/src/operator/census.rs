//! What waits for a person or for another replica now, as metrics: parked sagas, replies that are kept,
//! sagas of versions that this replica lacks. An alert about what came to be parked is over after a
//! while, and the sagas still stand there.
//!
//! Promised: a look every [`EVERY`], which costs at most [`MOST`] index entries for each definition,
//! version and status. Every replica shows the same, except what it knows itself: a version that
//! *every* replica calls unknown is one that nobody goes on with.

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    Coordinator, Error,
    operator::table::{self, OpenSagas},
    telemetry,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15);
/// Up to where is counted.
const MOST: i64 = 10_000;

/// Counts what waits.
pub struct Census {
    pool: PgPool,
    coordinator: Coordinator,
    /// The last counts: what is gone since must be said too.
    parked: BTreeMap<String, i64>,
    unknown: BTreeMap<(String, i32), i64>,
}

impl Census {
    /// Counts in this database, for a replica with the definitions of this coordinator.
    #[must_use]
    pub fn new(coordinator: Coordinator, pool: PgPool) -> Self {
        Self {
            pool,
            coordinator,
            parked: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// Counts every 15 seconds, until told to stop.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.run_once().await {
                warn!(%error, "open sagas cannot be counted");
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
        let open = table::open_sagas(&self.pool, MOST).await?;
        let mut parked: BTreeMap<String, i64> = BTreeMap::new();
        let mut unknown = BTreeMap::new();
        for found in open {
            let version = (found.definition.clone(), found.version);
            unknown.insert(version, self.unknown_here(&found));
            if found.parked > 0 {
                *parked.entry(found.definition).or_default() += found.parked;
            }
        }
        for (definition, sagas) in with_gone(&parked, &self.parked) {
            telemetry::parked_now(definition, sagas);
        }
        for ((definition, version), sagas) in with_gone(&unknown, &self.unknown) {
            telemetry::unknown_here(definition, *version, sagas);
        }
        let kept = table::kept_replies(&self.pool, MOST).await?;
        telemetry::replies_kept_now(kept.replies, kept.oldest_seconds);
        self.parked.clone_from(&parked);
        self.unknown = unknown;
        Ok(parked)
    }

    /// How many of these sagas this replica cannot go on with.
    fn unknown_here(&self, open: &OpenSagas) -> i64 {
        match self.coordinator.version(&open.definition, open.version) {
            Ok(_) => 0,
            Err(_) => open.sagas,
        }
    }
}

/// What was counted, and 0 for what was there before.
fn with_gone<'a, K: Ord>(
    now: &'a BTreeMap<K, i64>,
    before: &'a BTreeMap<K, i64>,
) -> impl Iterator<Item = (&'a K, i64)> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let gone = gone.map(|name| (name, 0));
    now.iter().map(|(name, &sagas)| (name, sagas)).chain(gone)
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
        let told = with_gone(&now, &before);
        let told: Vec<_> = told.map(|(name, sagas)| (name.as_str(), sagas)).collect();
        assert_eq!(told, [("b", 3), ("c", 4), ("a", 0)]);
    }
}
