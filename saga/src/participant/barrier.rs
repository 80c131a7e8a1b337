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
//! | probe | nothing | a tombstone, so that the answer is final | `tombstoned` |
//! | probe | the action's row | nothing | the stored reply |
//!
//! A row that is `running` has an effect outside of the database: see
//! [`running`](crate::participant::running).
//!
//! All first insert the action's row and only then go on, so whichever comes second waits for the
//! first and then sees it. A compensation and a probe never expire. Finding nothing proves nothing
//! where rows as old as the saga may have been forgotten: then neither is answered.

use futures::future::BoxFuture;
use outbox::Received;
use sqlx::{Connection, PgTransaction};

use crate::{
    Error,
    operation::{Operation, Phase},
    participant::{
        action::{Answer, Context},
        answer::{Passed, encode, expired, json, store},
        outside::Externals,
        running,
        table::{self, Stored},
    },
    wire::{self, Compensated, NullCompensated, Outcome, Tombstoned},
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
    store(tx, operation, &answer).await?;
    Ok(Passed::Answered(answer))
}

/// Lets a compensation through, once, and only if there is something to undo.
pub(crate) async fn compensation(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    message: &Received,
    business: &dyn Undo,
    externals: &Externals,
) -> Result<Passed, outbox::Error> {
    let operation = &command.operation;
    let action = Operation {
        phase: Phase::Action,
        ..operation.clone()
    };
    let overtook = bury(tx, &action, command).await?;
    let first = table::insert(tx, operation, None, command.expires_at).await?;
    if first.is_none() {
        return Ok(Passed::Repeated(stored(tx, operation).await?));
    }
    let done = match overtook {
        Some(_) => {
            remembered(tx, operation).await?;
            None
        }
        None => Some(settled(tx, &action, command, externals).await?.0),
    };
    let answer = match done.filter(|done| done.outcome == Outcome::Succeeded) {
        None => encode(Outcome::NullCompensated, &NullCompensated {})?,
        Some(done) => {
            let context = Context::new(command, Some(json(&done)?));
            business.undo(tx, &context, message).await?;
            encode(Outcome::Compensated, &Compensated {})?
        }
    };
    store(tx, operation, &answer).await?;
    Ok(Passed::Answered(answer))
}

/// Says what became of an action, and makes that final.
pub(crate) async fn probe(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    externals: &Externals,
) -> Result<Passed, outbox::Error> {
    let action = &command.operation;
    if let Some(tombstone) = bury(tx, action, command).await? {
        remembered(tx, action).await?;
        return Ok(Passed::Answered(tombstone));
    }
    Ok(match settled(tx, action, command, externals).await? {
        (answer, true) => Passed::Answered(answer),
        (answer, false) => Passed::Repeated(answer),
    })
}

/// Inserts an action's row as a tombstone, where there is none: it will never take effect.
async fn bury(
    tx: &mut PgTransaction<'_>,
    action: &Operation,
    command: &wire::Command,
) -> Result<Option<Stored>, outbox::Error> {
    let tombstone = encode(Outcome::Tombstoned, &Tombstoned {})?;
    let unexpiring = command.expires_at;
    let inserted = table::insert(tx, action, Some(&tombstone), unexpiring).await?;
    Ok(inserted.map(|_| tombstone))
}

/// The answer of an action whose row exists, and whether it was found out only now.
async fn settled(
    tx: &mut PgTransaction<'_>,
    action: &Operation,
    command: &wire::Command,
    externals: &Externals,
) -> Result<(Stored, bool), outbox::Error> {
    match table::answer(tx, action).await? {
        Some(answer) => Ok((answer, false)),
        None => running::settle(tx, action, command, externals).await,
    }
}

/// Fails where that nothing was found may be because it was forgotten.
pub(crate) async fn remembered(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<(), outbox::Error> {
    let saga_id = operation.saga_id;
    if let Some(began) = table::began(saga_id)
        && table::is_forgotten(tx, began).await?
    {
        let step = operation.step.clone();
        return Err(Error::Forgotten { saga_id, step }.into());
    }
    Ok(())
}

/// The savepoint is released when the action took effect and rolled back when it did not; an error
/// rolls back the whole transaction, this with it.
pub(crate) async fn in_savepoint(
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
