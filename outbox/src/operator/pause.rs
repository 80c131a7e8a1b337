//! An operator's hand on the leader.

mod table;

use serde::Serialize;
use sqlx::PgPool;

use crate::{Error, operator::status::Pause};

/// What became of a wish to pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Paused {
    /// From now on; the leader obeys with its next look, well within a second.
    Paused(Pause),
    /// Somebody had paused it before; that stays.
    Already(Pause),
}

/// What became of a wish to resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Resumed {
    /// This pause has ended.
    Resumed(Pause),
    /// Nobody had paused it.
    NotPaused,
}

/// Keeps the leader from sending, whoever leads, until [`resume`]. Messages can be enqueued; the
/// log grows by them. `by` says who, and why if there is something to say.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn pause(pool: &PgPool, by: &str) -> Result<Paused, Error> {
    loop {
        if let Some(pause) = table::pause(pool, by).await? {
            return Ok(Paused::Paused(pause));
        }
        // Between the two somebody may have resumed it.
        if let Some(pause) = table::paused(pool).await? {
            return Ok(Paused::Already(pause));
        }
    }
}

/// Lets the leader go on, from where it was.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn resume(pool: &PgPool) -> Result<Resumed, Error> {
    let former = table::resume(pool).await?;
    Ok(former.map_or(Resumed::NotPaused, Resumed::Resumed))
}
