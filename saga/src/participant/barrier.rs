//! The barrier: which commands are carried out, and what each is answered.
//!
//! | arrives | what is found | what happens | answered |
//! |---|---|---|---|
//! | action | nothing | the business, in a savepoint | `succeeded`, or `failed` with all its writes rolled back |
//! | action | nothing, but it has expired | stored as refused, code `expired` | `failed` |
//! | action | its row | nothing | the stored reply, byte for byte |
//! | action | a tombstone | nothing | `tombstoned` |
//! | compensation | nothing | a tombstone keeps the action from ever taking effect | `null_compensated` |
//! | compensation | an action that failed | nothing | `null_compensated` |
//! | compensation | an action that succeeded | the business | `compensated` |
//! | compensation | its own row | nothing | the stored reply |
//!
//! Both first insert the action's row and only then go on, so whichever comes second waits for the
//! first and then sees it. A compensation never expires.

use futures::future::BoxFuture;
use outbox::{Payload, Received};
use serde_json::Value;
use sqlx::{Connection, PgTransaction};

use crate::{
    Error,
    error::without_content,
    operation::{Operation, Phase},
    participant::{
        action::{Answer, Context},
        table::{self, Stored},
    },
    wire::{self, Compensated, NullCompensated, Outcome, Refusal, Tombstoned},
};

/// An action, its types erased: the reply is encoded.
pub(crate) trait Act: Send + Sync {
    fn act<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<Answer<Stored>, outbox::Error>>;
}

/// A compensation, its types erased.
pub(crate) trait Undo: Send + Sync {
    fn undo<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>>;
}

/// What came of a command.
pub(crate) enum Passed {
    /// Carried out, or settled otherwise, for the first time.
    Answered(Stored),
    /// It was here before.
    Repeated(Stored),
    /// As if it had never come.
    Silent,
}

/// Lets an action through, once.
pub(crate) async fn action(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    message: &Received,
    business: &dyn Act,
) -> Result<Passed, outbox::Error> {
    let operation = &command.operation;
    let Some(claimed) = table::insert(tx, operation, None, command.expires_at).await? else {
        return Ok(Passed::Repeated(stored(tx, operation).await?));
    };
    let answer = if claimed.expired {
        Answer::Refused(expired())
    } else {
        in_savepoint(tx, command, message, business).await?
    };
    let answer = match answer {
        Answer::Done(reply) => reply,
        Answer::Refused(refusal) => encode(Outcome::Failed, &refusal)?,
        Answer::Silent => {
            // Not a second savepoint around the claim: deleting an own row costs less, and whoever
            // waits for it goes on just the same.
            table::withdraw(tx, operation).await?;
            return Ok(Passed::Silent);
        }
    };
    table::store(tx, operation, &answer).await?;
    Ok(Passed::Answered(answer))
}

/// Lets a compensation through, once, and only if there is something to undo.
pub(crate) async fn compensation(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    message: &Received,
    business: &dyn Undo,
) -> Result<Passed, outbox::Error> {
    let operation = &command.operation;
    let action = Operation {
        phase: Phase::Action,
        ..operation.clone()
    };
    let tombstone = encode(Outcome::Tombstoned, &Tombstoned {})?;
    let unexpiring = command.expires_at;
    let overtook = table::insert(tx, &action, Some(&tombstone), unexpiring).await?;
    let first = table::insert(tx, operation, None, unexpiring).await?;
    if first.is_none() {
        return Ok(Passed::Repeated(stored(tx, operation).await?));
    }
    let done = match overtook {
        Some(_) => None,
        None => Some(stored(tx, &action).await?),
    };
    let answer = match done.filter(|done| done.outcome == Outcome::Succeeded) {
        None => encode(Outcome::NullCompensated, &NullCompensated {})?,
        Some(done) => {
            let context = Context::new(command, Some(json(&done)?));
            business.undo(tx, &context, message).await?;
            encode(Outcome::Compensated, &Compensated {})?
        }
    };
    table::store(tx, operation, &answer).await?;
    Ok(Passed::Answered(answer))
}

/// Encodes an answer the way it is stored and sent.
pub(crate) fn encode<P: Payload>(outcome: Outcome, payload: &P) -> Result<Stored, outbox::Error> {
    let payload = serde_json::to_vec(payload).map_err(|source| outbox::Error::Encode {
        kind: P::KIND.to_owned(),
        source,
    })?;
    Ok(Stored {
        outcome,
        kind: P::KIND.to_owned(),
        payload,
    })
}

/// The savepoint is released when the action took effect and rolled back when it did not; an error
/// rolls back the whole transaction, this with it.
async fn in_savepoint(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    message: &Received,
    business: &dyn Act,
) -> Result<Answer<Stored>, outbox::Error> {
    let context = Context::new(command, None);
    let mut savepoint = tx.begin().await?;
    let answer = business.act(&mut savepoint, &context, message).await?;
    match answer {
        Answer::Done(_) => savepoint.commit().await?,
        Answer::Refused(_) | Answer::Silent => savepoint.rollback().await?,
    }
    Ok(answer)
}

async fn stored(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<Stored, outbox::Error> {
    let found = table::answer(tx, operation).await?;
    Ok(found.ok_or_else(|| Error::Running(operation.key()))?)
}

fn json(answer: &Stored) -> Result<Value, outbox::Error> {
    serde_json::from_slice(&answer.payload).map_err(|error| outbox::Error::Decode {
        kind: answer.kind.clone(),
        reason: without_content(&error),
    })
}

fn expired() -> Refusal {
    Refusal::new("expired", "the request came too late to be carried out")
}
