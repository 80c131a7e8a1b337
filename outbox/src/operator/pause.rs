//! An operator's hand on the leader.

mod table;

use serde::Serialize;
use sqlx::PgPool;

use serde_json::json;

use crate::{
    Error,
    audit::{self, Author},
    operator::{look::table::BEGIN, status::Pause},
};

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
pub async fn pause(pool: &PgPool, by: impl Into<Author>) -> Result<Paused, Error> {
    let by = by.into();
    loop {
        let mut tx = pool.begin_with(BEGIN).await?;
        if let Some(pause) = table::pause(&mut *tx, &by.to_string()).await? {
            audit::record(&mut tx, &by, "relay.pause", "outbox", json!({})).await?;
            tx.commit().await?;
            return Ok(Paused::Paused(pause));
        }
        tx.rollback().await?;
        // Between the two somebody may have resumed it.
        if let Some(pause) = table::paused(pool).await? {
            return Ok(Paused::Already(pause));
        }
    }
}

/// Lets the leader go on, from where it was. `by` says who wants it.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn resume(pool: &PgPool, by: impl Into<Author>) -> Result<Resumed, Error> {
    let by = by.into();
    let mut tx = pool.begin_with(BEGIN).await?;
    let Some(former) = table::resume(&mut *tx).await? else {
        tx.rollback().await?;
        return Ok(Resumed::NotPaused);
    };
    let details = json!({ "paused_since": former.since, "paused_by": former.by });
    audit::record(&mut tx, &by, "relay.resume", "outbox", details).await?;
    tx.commit().await?;
    Ok(Resumed::Resumed(former))
}
