//! Every statement about the barrier.
//!
//! Each needs READ COMMITTED: `on conflict do nothing` waits for a concurrent inserter, and only
//! the next statement's snapshot sees what that one committed. Hence two statements, never one
//! with a common table expression.

use chrono::{DateTime, Utc};
use sqlx::PgTransaction;

use crate::{operation::Operation, wire::Outcome};

/// A row that was just inserted.
pub(crate) struct Inserted {
    /// Whether the command had expired by then.
    pub(crate) expired: bool,
}

/// An answer, as stored and as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) outcome: Outcome,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
}

/// Claims an operation, with its answer if that is known already. None if its row exists: a
/// concurrent inserter is waited for.
pub(crate) async fn insert(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    answer: Option<&Stored>,
    expires_at: DateTime<Utc>,
) -> Result<Option<Inserted>, sqlx::Error> {
    let expired = sqlx::query_scalar!(
        r#"insert into saga.barrier
             (saga_id, step, round, phase, op_key, outcome, reply_kind, reply)
           values ($1, $2, $3, $4, $5, $6, $7, $8)
           on conflict on constraint barrier_pkey do nothing
           returning $9::timestamptz < clock_timestamp() as "expired!""#,
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        operation.key(),
        answer.map(|answer| answer.outcome.as_str()),
        answer.map(|answer| answer.kind.as_str()),
        answer.map(|answer| answer.payload.as_slice()),
        expires_at
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(expired.map(|expired| Inserted { expired }))
}

/// Stores the answer to an operation claimed in this transaction.
pub(crate) async fn store(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    answer: &Stored,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.barrier set outcome = $5, reply_kind = $6, reply = $7
         where saga_id = $1 and step = $2 and round = $3 and phase = $4",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        answer.outcome.as_str(),
        answer.kind,
        answer.payload
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Gives up a claim made in this transaction, as if it had never been made.
pub(crate) async fn withdraw(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from saga.barrier
         where saga_id = $1 and step = $2 and round = $3 and phase = $4 and outcome is null",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The answer an operation got. None if it has none yet, or if no row is visible.
pub(crate) async fn answer(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<Option<Stored>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select outcome as "outcome!", reply_kind as "reply_kind!", reply as "reply!"
           from saga.barrier
           where saga_id = $1 and step = $2 and round = $3 and phase = $4 and outcome is not null"#,
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str()
    )
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|row| {
        Ok(Stored {
            outcome: row
                .outcome
                .parse()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            kind: row.reply_kind,
            payload: row.reply,
        })
    })
    .transpose()
}
