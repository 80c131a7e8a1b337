//! What becomes of a saga that fails for a reason of its own: it is parked as a whole.
//!
//! What passes here: a saga whose row cannot be read, or whose reply or timer cannot be decided or
//! written however often it is tried. Promised: the saga is `parked` with that reason, its history
//! says so, and its steps, timers and kept replies stay as they are; a person's `retry` has the same
//! reply or timer decided again. Nothing of it has to be readable for that, and no hook runs. Not
//! promised: that anything else of the transition is written; it is not.

use sqlx::PgTransaction;
use tracing::warn;
use uuid::Uuid;

use crate::{
    Error,
    pending::table as kept,
    table::{self, Stopped},
    telemetry,
};

/// Longer reasons are cut.
const LONGEST_REASON: usize = 1000;

/// Parks a saga as a whole; what is kept of its replies waits until it is resumed. Returns whether
/// it is parked: not if it has ended or is not here.
pub(crate) async fn stop(
    tx: &mut PgTransaction<'_>,
    saga_id: Uuid,
    reason: &impl ToString,
) -> Result<bool, Error> {
    // PostgreSQL's text cannot hold NUL.
    let reason = reason.to_string().replace('\0', "\u{fffd}");
    let reason: String = reason.chars().take(LONGEST_REASON).collect();
    match table::stop(tx, saga_id, &reason).await? {
        Stopped::Now(definition) => {
            kept::hold(tx, saga_id).await?;
            telemetry::stopped(definition);
            warn!(%saga_id, reason, "a saga is parked until a person retries");
            Ok(true)
        }
        Stopped::Already => Ok(true),
        Stopped::Gone => Ok(false),
    }
}
