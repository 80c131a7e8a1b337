//! How many sagas wait for a person now, how many for a replica that knows their version, and how
//! many replies are kept, as metrics: an alert about what came to be parked is over after a while, and the sagas still stand
//! there.
//!
//! Promised: a look every [`EVERY`] by the index on the status; each look notes that the coordinator's
//! versions are steered, so run one beside each coordinator's timers; a version that nobody has noted
//! for [`GONE`] and that has open sagas is told of. Of a version without any none can begin, so it is
//! counted once. Every replica shows the same. Not promised: an exact number of sagas without a
//! replica beyond [`MOST`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{Coordinator, Error, operator::table, table::Versions, telemetry};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15);
/// How old a note that a version is steered gets before it is written anew.
const NOTED: Duration = Duration::from_secs(30);
/// After which a version that nobody noted has no replica: longer than a replica's restart.
const GONE: Duration = Duration::from_secs(120);
/// So many sagas of a version without a replica are counted.
const MOST: i64 = 1_000;

/// A definition's name and version.
type Version = (String, i32);

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Sagas that wait for a person, by definition.
    pub parked: BTreeMap<String, i64>,
    /// Open sagas of versions that no replica has, by definition and version; at most 1,000 of each
    /// are counted.
    pub unattended: BTreeMap<(String, i32), i64>,
}

/// Counts parked sagas, and those of versions that no replica has.
pub struct Census {
    pool: PgPool,
    known: Versions,
    /// The last count: what is gone since must be said too.
    told: Counted,
    /// Versions without a replica that have no open saga either.
    ended: BTreeSet<Version>,
}

impl Census {
    /// Counts in this database, and notes there that this coordinator steers its versions.
    #[must_use]
    pub fn new(coordinator: &Coordinator, pool: PgPool) -> Self {
        Self {
            pool,
            known: coordinator.known(),
            told: Counted::default(),
            ended: BTreeSet::new(),
        }
    }

    /// Counts every 15 seconds, until told to stop.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.run_once().await {
                warn!(%error, "parked and unattended sagas cannot be counted");
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
        table::see_definitions(&self.pool, &self.known, NOTED).await?;
        let counted = Counted {
            parked: table::parked_sagas(&self.pool).await?,
            unattended: self.unattended().await?,
        };
        for (definition, sagas) in with_gone(&counted.parked, &self.told.parked) {
            telemetry::parked_now(definition, sagas);
        }
        for ((definition, version), sagas) in with_gone(&counted.unattended, &self.told.unattended)
        {
            telemetry::unattended_now(definition, *version, sagas);
        }
        let kept = table::kept_replies(&self.pool, MOST).await?;
        telemetry::replies_kept_now(kept.replies, kept.oldest_seconds);
        self.told.clone_from(&counted);
        Ok(counted)
    }

    async fn unattended(&mut self) -> Result<BTreeMap<Version, i64>, Error> {
        let unseen = table::unseen_definitions(&self.pool, GONE).await?;
        self.ended.retain(|version| unseen.contains(version));
        let mut unattended = BTreeMap::new();
        for version in unseen {
            if self.ended.contains(&version) {
                continue;
            }
            let (definition, number) = (version.0.as_str(), version.1);
            let sagas = table::open_sagas(&self.pool, definition, number, MOST).await?;
            if sagas == 0 {
                self.ended.insert(version);
                continue;
            }
            if !self.told.unattended.contains_key(&version) {
                warn!(
                    definition,
                    version = number,
                    sagas,
                    "no replica has this version any more, and its sagas stand still: start one \
                     that has it"
                );
            }
            unattended.insert(version, sagas);
        }
        Ok(unattended)
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
        let before = BTreeMap::from([("a", 1), ("b", 2)]);
        let now = BTreeMap::from([("b", 3), ("c", 4)]);
        let told: Vec<_> = with_gone(&now, &before).collect();
        assert_eq!(told, [(&"b", 3), (&"c", 4), (&"a", 0)]);
    }
}
