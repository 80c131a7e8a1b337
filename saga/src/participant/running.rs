//! The barrier for effects outside of the database.
//!
//! | arrives | what is found | what happens | answered |
//! |---|---|---|---|
//! | action | nothing | `running` is committed, the effect is called, what came of it is stored | `succeeded`, `failed` |
//! | action | nothing, but it has expired | stored as refused, code `expired` | `failed` |
//! | action | `running` | the effect is probed; not found: called again, same key | as above; unknown: an error, later again |
//! | compensation | `running` | probed; not found: called off for good, if the outside can do that | `null_compensated`, or `compensated` after what was found is stored; else an error, later again |
//! | probe | `running` | the same | `tombstoned`, or what was found; else an error, later again |
//! | any | an answer, or a tombstone | as for any action | |
//!
//! Whoever is at a `running` row holds its lock in the consumer's transaction, the only one in
//! which the answer can be stored; anybody else waits for it. If its process dies or the
//! transaction is rolled back for another message's sake, the lock goes with it and the row stays.

use outbox::Received;
use sqlx::PgTransaction;

use crate::{
    Error,
    operation::Operation,
    participant::{
        action::Context,
        answer::{Passed, encode, expired, store},
        external::Admission,
        outside::{Came, Externals, IfNotFound, Outside},
        table::{self, Asked, Found, Intent, Stored},
    },
    wire::{self, Outcome},
};

/// Lets an action through whose effect is outside, once.
pub(crate) async fn action(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    message: &Received,
    outside: &dyn Outside,
) -> Result<Passed, outbox::Error> {
    let operation = &command.operation;
    // In this transaction first: the row may be its own, and then nobody else's insert could end.
    if let Some(found) = table::lock(tx, operation, command.expires_at).await? {
        return met(tx, command, found, outside).await;
    }
    let context = Context::new(command, None);
    let payload = payload(message)?;
    match outside.admit(tx, &context, payload).await? {
        Admission::Begin => {}
        Admission::Refused(refusal) => {
            let refused = encode(Outcome::Failed, &refusal)?;
            return unbegun(tx, command, refused).await;
        }
    }
    let intent = outside.intend(command, payload).await?;
    if intent == Intent::Expired {
        let refused = encode(Outcome::Failed, &expired())?;
        return unbegun(tx, command, refused).await;
    }
    let found = table::lock(tx, operation, command.expires_at).await?;
    match found.ok_or_else(|| Error::Running(command.op_key))? {
        Found::Running(_) if intent == Intent::Noted => {
            // Somebody else may have been here between the two statements, and gone again: the
            // same key gets the same answer.
            let came = outside.call(tx, &context, payload).await?;
            keep(tx, operation, came).await
        }
        found => met(tx, command, found, outside).await,
    }
}

/// Finds out what became of a running action that must not begin any more, and stores it. True:
/// it was not known before.
pub(crate) async fn settle(
    tx: &mut PgTransaction<'_>,
    action: &Operation,
    command: &wire::Command,
    externals: &Externals,
) -> Result<(Stored, bool), outbox::Error> {
    let unanswered = || Error::Running(action.key());
    let found = table::lock(tx, action, command.expires_at).await?;
    let asked = match found.ok_or_else(unanswered)? {
        Found::Answered(answer) => return Ok((answer, false)),
        Found::Running(asked) => asked,
    };
    // Another version of this program began it, as something that this one does not know.
    let outside = externals.get(asked.kind.as_str()).ok_or_else(unanswered)?;
    let context = Context::of(action, command, None);
    let came = outside
        .find_out(tx, &context, &asked.payload, IfNotFound::Revoke)
        .await?;
    match came {
        Came::Answer(answer) => {
            store(tx, action, &answer).await?;
            Ok((answer, true))
        }
        Came::Silent => Err(unanswered().into()),
    }
}

/// An action that comes again.
async fn met(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    found: Found,
    outside: &dyn Outside,
) -> Result<Passed, outbox::Error> {
    let Asked {
        payload, expired, ..
    } = match found {
        Found::Answered(answer) => return Ok(Passed::Repeated(answer)),
        Found::Running(asked) => asked,
    };
    let if_not_found = match expired {
        true => IfNotFound::RevokeOrCallAgain,
        false => IfNotFound::CallAgain,
    };
    let context = Context::new(command, None);
    let came = outside
        .find_out(tx, &context, &payload, if_not_found)
        .await?;
    keep(tx, &command.operation, came).await
}

async fn keep(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    came: Came,
) -> Result<Passed, outbox::Error> {
    match came {
        Came::Answer(answer) => {
            store(tx, operation, &answer).await?;
            Ok(Passed::Answered(answer))
        }
        Came::Silent => {
            table::withdraw(tx, operation).await?;
            Ok(Passed::Silent)
        }
    }
}

/// Stores the answer to an action that has not begun and will not.
async fn unbegun(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    refused: Stored,
) -> Result<Passed, outbox::Error> {
    let operation = &command.operation;
    match table::insert(tx, operation, Some(&refused), command.expires_at).await? {
        Some(_) => Ok(Passed::Answered(refused)),
        // Somebody else was faster, and may have begun.
        None => Err(Error::Running(command.op_key).into()),
    }
}

fn payload(message: &Received) -> Result<&[u8], outbox::Error> {
    let payload = message.payload.as_deref();
    payload.ok_or_else(|| outbox::Error::Decode {
        kind: message.kind.clone(),
        reason: "the payload is null".to_owned(),
    })
}
