//! How long the barrier remembers.
//!
//! What passes here: answered operations, on their way out. Promised: an operation that is
//! `running` is never removed, nor one that a command may still begin; a compensation or a question
//! that comes for a saga older than what is remembered is not answered wrongly but fails with
//! [`Error::Forgotten`]. Not promised: that for sagas whose id does not tell their age; give them
//! UUIDv7. If we die here, the rest is removed next time.

use std::time::{Duration, Instant};

use sqlx::{PgPool, postgres::types::PgInterval};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    participant::{census, table},
    telemetry,
    wire::COMMAND_EXPIRY,
};

/// A retention for those who have no other wish: 15 days, as long as the inbox remembers.
pub const DEFAULT: Duration = Duration::from_secs(15 * 24 * 60 * 60);

/// Rows removed by one transaction: some milliseconds.
const BATCH: i64 = 1_000;
/// Between two transactions, so that there is something left for others.
const BREATH: Duration = Duration::from_millis(50);
const EVERY: Duration = Duration::from_secs(60 * 60);
/// Between two looks at the effects that have no answer yet.
const LOOK: Duration = Duration::from_secs(15);

/// Removes barrier rows whose operations were answered longer ago than `retention`, in batches.
/// Returns how many. Any number of replicas may do it at once.
///
/// # Errors
///
/// [`Error::Retention`] when it is not longer than commands live, and the database's.
pub async fn forget(pool: &PgPool, retention: Duration) -> Result<u64, Error> {
    let interval = checked(retention)?;
    let mut forgotten = 0;
    loop {
        let rows = forget_some(pool, interval).await?;
        telemetry::barrier_forgotten(rows);
        forgotten += rows;
        if rows < u64::try_from(BATCH).unwrap_or(u64::MAX) {
            return Ok(forgotten);
        }
        sleep(BREATH).await;
    }
}

/// Forgets now and every hour until the shutdown, and tells how many effects have no answer. A failure is logged, and is no reason not to
/// answer commands.
///
/// # Errors
///
/// [`Error::Retention`], at once.
pub async fn run(
    pool: PgPool,
    retention: Duration,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    checked(retention)?;
    while !shutdown.is_cancelled() {
        match shutdown.run_until_cancelled(forget(&pool, retention)).await {
            None | Some(Ok(0)) => {}
            Some(Ok(rows)) => tracing::info!(rows, "the barrier has forgotten old operations"),
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot remove old operations from the barrier");
            }
        }
        let done = Instant::now();
        while done.elapsed() < EVERY && !shutdown.is_cancelled() {
            census::tell(&pool).await;
            shutdown.run_until_cancelled(sleep(LOOK)).await;
        }
    }
    Ok(())
}

/// One batch. A task of its own: dropped in its `begin`, it would leave a transaction open on a
/// pooled connection.
async fn forget_some(pool: &PgPool, retention: PgInterval) -> Result<u64, Error> {
    let pool = pool.clone();
    let forgetting = tokio::spawn(async move {
        let mut tx = pool.begin().await?;
        table::raise_horizon(&mut tx, &retention).await?;
        let rows = table::forget(&mut tx, &retention, BATCH).await?;
        tx.commit().await?;
        Ok(rows)
    });
    forgetting.await.map_err(outbox::Error::transient)?
}

fn checked(retention: Duration) -> Result<PgInterval, Error> {
    if retention <= COMMAND_EXPIRY {
        return Err(Error::Retention {
            retention,
            expiry: COMMAND_EXPIRY,
        });
    }
    Ok(PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(retention.as_micros()).unwrap_or(i64::MAX),
    })
}
