//! Why a saga turned back, in a form that programs can decide by.
//!
//! What passes here: what the history says before compensation began. Promised: what is told is in the
//! history, also of sagas that turned back before anybody asked. Not promised: one that a later release
//! gives another name; then there is none.

mod table;

use sqlx::PgTransaction;
use tracing::warn;
use uuid::Uuid;

use crate::{event::Event, intervention::OperationName};

/// Why a saga turned back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// A participant refused a step.
    Refused {
        /// The step.
        step: String,
        /// The refusal's code, for programs.
        code: String,
    },
    /// A step was not answered in time, as often as it was tried.
    TimedOut {
        /// The step.
        step: String,
    },
    /// It asked for more of a resource than there is.
    LockRefused {
        /// The resource.
        resource: String,
    },
    /// Its deadline passed.
    DeadlinePassed,
    /// A person cancelled it.
    Cancelled,
}

impl Cause {
    /// What the event before compensation began was about.
    fn of(event: Event) -> Option<Self> {
        Some(match event {
            Event::ActionFailed { step, refusal, .. } => Self::Refused {
                step,
                code: refusal.code,
            },
            Event::AttemptTimedOut { step, .. } => Self::TimedOut { step },
            Event::LockRefused { resource } => Self::LockRefused { resource },
            Event::DeadlinePassed => Self::DeadlinePassed,
            Event::Intervened {
                operation: OperationName::Cancel,
                ..
            } => Self::Cancelled,
            _ => return None,
        })
    }
}

/// Why this saga turned back; none if it did not, or if its history cannot be read here.
pub(crate) async fn of(
    tx: &mut PgTransaction<'_>,
    saga_id: Uuid,
) -> Result<Option<Cause>, sqlx::Error> {
    let Some(event) = table::before_compensation(tx, saga_id).await? else {
        return Ok(None);
    };
    match serde_json::from_str(&event) {
        Ok(event) => Ok(Cause::of(event)),
        Err(error) => {
            warn!(%saga_id, %error, "why a saga turned back cannot be read");
            Ok(None)
        }
    }
}
