//! What has no answer yet, for those who look.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{Error, participant::runner::table};

/// An operation with something outside of the database that has no answer yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct External {
    /// The saga.
    pub saga_id: Uuid,
    /// The step.
    pub step: String,
    /// One execution of the step.
    pub round: i32,
    /// `action` or `compensation`.
    pub phase: String,
    /// The kind of command that asked for it.
    pub kind: String,
    /// When its command came.
    pub begun_at: DateTime<Utc>,
    /// When it is tried next; of one that is being worked at, when another process may take it over.
    pub next_at: DateTime<Utc>,
    /// How often it was tried.
    pub tries: i32,
    /// Why the last try came to nothing.
    pub last_error: Option<String>,
    /// Whether a runner has it in hand.
    pub is_worked_at: bool,
    /// How many commands wait for its answer. None: whoever asks gets it.
    pub waiting: i64,
}

/// The operations of this database that have no answer yet, the oldest first, at most so many.
///
/// # Errors
///
/// The database's.
pub async fn list(pool: &PgPool, most: u32) -> Result<Vec<External>, Error> {
    Ok(table::list(pool, i64::from(most)).await?)
}
