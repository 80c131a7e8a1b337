//! Effects outside of the database whose answers are not known, as metrics: one that nobody asks about
//! again would stand there unseen.
//!
//! Promised: a look costs at most [`MOST`] entries of an index of such effects. If we die here, another
//! replica shows the same.

mod table;

use sqlx::PgPool;
use tracing::warn;

use crate::{Error, telemetry};

/// Up to where is counted.
const MOST: i64 = 10_000;

/// Counts them once.
pub(crate) async fn tell(pool: &PgPool) {
    if let Err(error) = count(pool).await {
        warn!(%error, "running effects cannot be counted");
    }
}

async fn count(pool: &PgPool) -> Result<(), Error> {
    let running = table::running(pool, MOST).await?;
    telemetry::running_effects(running.effects, running.oldest_seconds);
    Ok(())
}
