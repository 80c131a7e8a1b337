//! Forgetting: sagas that ended long ago go, with their history.
//!
//! What passes here: terminal instances whose end is older than the keep. Promised: a saga goes
//! whole, its row and all that belongs to it in one transaction; one that has not ended, or still
//! claims a resource, stays however old it is; whoever is at work on a saga is not waited for. Not
//! promised: punctuality. A business key is free again when its saga is gone, and a reply that
//! comes after that is one to an unknown saga. If we die here, what was not committed is found
//! again by whoever looks next; any number of replicas may.

use std::{sync::Mutex, time::Duration};

use sqlx::PgPool;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{Error, telemetry};

mod table;

/// How long an ended saga is kept unless set.
pub const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// Between two batches, so that there is something left for others.
const BREATH: Duration = Duration::from_millis(50);
/// Items of ended bulk operations a statement.
const BULK_ITEMS: i64 = 1_000;
/// Sagas a transaction: with some twenty events each, a few thousand rows.
const BATCH: i64 = 200;

/// Removes what ended long ago.
#[derive(Debug)]
pub struct Retention {
    pool: PgPool,
    keep: Duration,
    /// Sagas that cannot go, until this process ends.
    held_back: Mutex<Vec<Uuid>>,
}

impl Retention {
    /// Keeps ended sagas for `keep` ([`KEEP`] if you have no other wish), counted from their end.
    ///
    /// # Errors
    ///
    /// When `keep` is zero: a saga would be gone before anybody could see how it ended; or when it
    /// is more than a thousand years.
    pub fn new(pool: PgPool, keep: Duration) -> Result<Self, Error> {
        const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);
        if keep.is_zero() || keep > LONGEST {
            return Err(outbox::Error::permanent(
                "ended sagas must be kept for more than nothing and at most a thousand years: set \
                 the time to keep them to some days",
            )
            .into());
        }
        let held_back = Mutex::default();
        Ok(Self {
            pool,
            keep,
            held_back,
        })
    }

    /// Removes until told to stop. A transaction once begun is finished.
    pub async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let pause = match self.run_once().await {
                Ok(0) => EVERY,
                Ok(sagas) => {
                    info!(sagas, "removed sagas that ended long ago");
                    BREATH
                }
                Err(error) => {
                    warn!(%error, "sagas that ended long ago cannot be removed");
                    EVERY
                }
            };
            shutdown.run_until_cancelled(sleep(pause)).await;
        }
    }

    /// Removes a batch, the longest ended first, and says how many sagas it had; and all bulk
    /// operations that ended as long ago. A saga that cannot go (somebody's row refers to it) is told
    /// of in the log and keeps no other.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn run_once(&self) -> Result<usize, Error> {
        self.forget_bulks().await?;
        let gone = match self.forget(&self.held_back(), BATCH).await {
            Err((sagas, error)) if !sagas.is_empty() && is_its_fault(&error) => {
                self.forget_each(&sagas).await?
            }
            Err((_, error)) => return Err(error),
            Ok(gone) => gone,
        };
        telemetry::forgotten(gone);
        Ok(gone)
    }

    /// One of these cannot go: each by itself.
    async fn forget_each(&self, sagas: &[Uuid]) -> Result<usize, Error> {
        let mut gone = 0;
        for _ in sagas {
            match self.forget(&self.held_back(), 1).await {
                Ok(0) => break,
                Ok(one) => gone += one,
                Err((sagas, error)) if !sagas.is_empty() && is_its_fault(&error) => {
                    warn!(saga_id = %sagas[0], %error, "a saga that ended long ago cannot be removed");
                    if let Ok(mut held_back) = self.held_back.lock() {
                        held_back.extend(sagas);
                    }
                }
                Err((_, error)) => return Err(error),
            }
        }
        Ok(gone)
    }

    fn held_back(&self) -> Vec<Uuid> {
        let held_back = self.held_back.lock();
        held_back.map_or_else(|_| Vec::new(), |held_back| held_back.clone())
    }

    /// Removes up to `limit` sagas in one transaction: how many, or which could not be removed.
    async fn forget(&self, except: &[Uuid], limit: i64) -> Result<usize, (Vec<Uuid>, Error)> {
        let nobody = |error: sqlx::Error| (Vec::new(), error.into());
        let begun = self.pool.begin_with(crate::table::BEGIN).await;
        let mut tx = begun.map_err(nobody)?;
        let found = table::lock_ended(&mut tx, self.keep, except, limit).await;
        let sagas = found.map_err(nobody)?;
        if sagas.is_empty() {
            return Ok(0);
        }
        let forgotten = async {
            table::delete_events(&mut tx, &sagas).await?;
            table::delete_anomalies(&mut tx, &sagas).await?;
            table::delete_interventions(&mut tx, &sagas).await?;
            table::delete_pending(&mut tx, &sagas).await?;
            table::delete_instances(&mut tx, &sagas).await?;
            tx.commit().await
        };
        match forgotten.await {
            Ok(()) => Ok(sagas.len()),
            Err(error) => Err((sagas, error.into())),
        }
    }

    async fn forget_bulks(&self) -> Result<(), Error> {
        while table::delete_bulk_items(&self.pool, self.keep, BULK_ITEMS).await? > 0 {
            sleep(BREATH).await;
        }
        table::delete_bulks(&self.pool, self.keep).await?;
        Ok(())
    }
}

/// Whether it is a saga's own fault that it cannot go, not that of the database or of a setting.
fn is_its_fault(error: &Error) -> bool {
    !error.is_transient()
}
