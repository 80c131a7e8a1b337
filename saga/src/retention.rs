//! Forgetting: sagas that ended long ago go, with their history.
//!
//! What passes here: terminal instances whose end is older than the keep. Promised: a saga goes
//! whole, its row and all that belongs to it in one transaction; one that has not ended, or still
//! claims a resource, stays however old it is; whoever is at work on a saga is not waited for. Not
//! promised: punctuality. A business key is free again when its saga is gone, and a reply that
//! comes after that is one to an unknown saga. If we die here, what was not committed is found
//! again by whoever looks next; any number of replicas may.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Error, operator::bulk, telemetry};

mod table;

/// How long an ended saga is kept unless set.
pub const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// Between two batches, so that there is something left for others.
const BREATH: Duration = Duration::from_millis(50);
/// Sagas a transaction: with some twenty events each, a few thousand rows.
const BATCH: i64 = 200;
/// Rows of bulk operations a statement: a hundred thousand sagas of one go over some minutes.
const BULK_ROWS: i64 = 5_000;

/// Removes what ended long ago.
#[derive(Debug)]
pub struct Retention {
    pool: PgPool,
    keep: Duration,
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
        Ok(Self { pool, keep })
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

    /// Removes a batch, the longest ended first, and says how many sagas it had. So do bulk operations
    /// that ended as long ago, whether or not there were sagas.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn run_once(&self) -> Result<usize, Error> {
        // By itself: what keeps the one from going keeps the other no longer than it has to.
        if let Err(error) = bulk::forget(&self.pool, self.keep, BULK_ROWS).await {
            warn!(%error, "bulk operations that ended long ago cannot be removed");
        }
        let mut tx = self.pool.begin_with(crate::table::BEGIN).await?;
        let sagas = table::lock_ended(&mut tx, self.keep, BATCH).await?;
        if sagas.is_empty() {
            return Ok(0);
        }
        table::delete_events(&mut tx, &sagas).await?;
        table::delete_anomalies(&mut tx, &sagas).await?;
        table::delete_interventions(&mut tx, &sagas).await?;
        table::delete_pending(&mut tx, &sagas).await?;
        table::delete_instances(&mut tx, &sagas).await?;
        tx.commit().await?;
        telemetry::forgotten(sagas.len());
        Ok(sagas.len())
    }
}
