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
//! | action | nothing, and its effect is outside of the database | stored as `running`, for the [runner](crate::participant::runner) | by the runner |
//! | any | an action that is `running` | it waits with the runner | by the runner |
//!
//! All first insert the action's row and only then go on, so whichever comes second waits for the
//! first and then sees it. A compensation and a probe never expire. Finding nothing proves nothing
//! where rows as old as the operation may have been forgotten: then nothing is carried out, nothing
//! is stored, and it is an error for a person.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use outbox::Received;
use sqlx::{Connection, PgTransaction};

use crate::{
    Error,
    operation::{Operation, Phase},
    participant::{
        action::{Answer, Context},
        answer::{Begun, Passed, encode, expired, in_name_of, json, store},
        external::Admission,
        outside::{Limits, Outside},
        table::{self, Found, Intent, Stored},
    },
    wire::{self, Compensated, NullCompensated, Outcome, Tombstoned},
};

/// An action, its types erased: the reply is encoded.
pub(crate) trait Act: Send + Sync {
    /// Whether it could read the command.
    fn check(&self, message: &Received) -> Result<(), outbox::Error>;

    fn act<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<Answer<Stored>, outbox::Error>>;
}

/// A compensation, its types erased.
pub(crate) trait Undo: Send + Sync {
    /// Whether it could read the command.
    fn check(&self, message: &Received) -> Result<(), outbox::Error>;

    /// Given where something outside has to be asked first: then it is the runner's.
    fn limits(&self) -> Option<Limits>;

    /// What speaks against it.
    fn admit<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>>;

    /// Undoes what is outside.
    fn call<'a>(
        &'a self,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>>;

    fn undo<'a>(
        &'a self,
        tx: &'a mut PgTransaction<'_>,
        context: &'a Context,
        message: &'a Received,
    ) -> BoxFuture<'a, Result<(), outbox::Error>>;
}

/// Who lets a compensation through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Nothing outside may be asked.
    Consumer,
    /// Everything outside has been.
    Runner,
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
    remembered(command, table::horizon(tx).await?)?;
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

/// Notes an action whose effect is outside, once: whatever is called is called by the runner, after
/// this transaction has committed.
pub(crate) async fn external(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    message: &Received,
    outside: &dyn Outside,
) -> Result<Passed, outbox::Error> {
    let operation = &command.operation;
    if let Some(found) = table::find(tx, operation).await? {
        return Ok(met(found));
    }
    remembered(command, table::horizon(tx).await?)?;
    let payload = payload(message)?;
    let context = Context::new(command, None);
    let admitting = outside.admit(tx, &context, payload);
    let refusal = match in_name_of(operation, admitting).await? {
        Admission::Refused(refusal) => refusal,
        Admission::Begin => {
            let asked = (message.kind.as_str(), payload);
            match table::intend(tx, operation, asked, command.expires_at).await? {
                Intent::Noted => return Ok(Passed::Deferred(Begun::Never)),
                Intent::Known => return again(tx, operation).await,
                Intent::Expired => expired(),
            }
        }
    };
    let refused = encode(Outcome::Failed, &refusal)?;
    match table::insert(tx, operation, Some(&refused), command.expires_at).await? {
        Some(_) => Ok(Passed::Answered(refused)),
        None => again(tx, operation).await,
    }
}

/// Lets a compensation through, once, and only if there is something to undo.
pub(crate) async fn compensation(
    tx: &mut PgTransaction<'_>,
    command: &wire::Command,
    message: &Received,
    business: &dyn Undo,
    by: By,
) -> Result<Passed, outbox::Error> {
    let operation = &command.operation;
    let action = action_of(operation);
    let overtook = bury(tx, &action, command).await?.is_some();
    let done = match overtook {
        true => None,
        false => match table::answer(tx, &action).await? {
            Some(done) => Some(done).filter(|done| done.outcome == Outcome::Succeeded),
            None => return Ok(Passed::Deferred(Begun::Perhaps)),
        },
    };
    if done.is_some() && by == By::Consumer && business.limits().is_some() {
        let answer = table::answer(tx, operation).await?;
        return Ok(answer.map_or(Passed::Deferred(Begun::Perhaps), Passed::Repeated));
    }
    let first = table::insert(tx, operation, None, command.expires_at).await?;
    if first.is_none() {
        return Ok(Passed::Repeated(stored(tx, operation).await?));
    }
    if overtook {
        remembered(command, table::horizon(tx).await?)?;
    }
    let answer = match done {
        None => encode(Outcome::NullCompensated, &NullCompensated {})?,
        Some(done) => {
            let context = Context::new(command, Some(json(&done)?));
            let undoing = business.undo(tx, &context, message);
            in_name_of(operation, undoing).await?;
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
) -> Result<Passed, outbox::Error> {
    let action = &command.operation;
    if let Some(tombstone) = bury(tx, action, command).await? {
        remembered(command, table::horizon(tx).await?)?;
        return Ok(Passed::Answered(tombstone));
    }
    again(tx, action).await
}

/// The action that a compensation undoes.
pub(crate) fn action_of(compensation: &Operation) -> Operation {
    Operation {
        phase: Phase::Action,
        ..compensation.clone()
    }
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

/// An operation whose row exists.
async fn again(tx: &mut PgTransaction<'_>, operation: &Operation) -> Result<Passed, outbox::Error> {
    let found = table::find(tx, operation).await?;
    Ok(met(found.ok_or_else(|| Error::Running(operation.key()))?))
}

fn met(found: Found) -> Passed {
    match found {
        Found::Answered(answer) => Passed::Repeated(answer),
        Found::Running(_) => Passed::Deferred(Begun::Perhaps),
    }
}

/// Fails where that nothing was found may be because it was forgotten: the operation began before
/// `horizon`, or does not say when.
pub(crate) fn remembered(
    command: &wire::Command,
    horizon: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    let Operation { saga_id, step, .. } = &command.operation;
    let began = command.begun_at.or_else(|| table::began(*saga_id));
    match horizon {
        Some(horizon) if began.is_none_or(|began| began < horizon) => Err(Error::Forgotten {
            saga_id: *saga_id,
            step: step.clone(),
        }),
        _ => Ok(()),
    }
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
    let acting = business.act(&mut savepoint, &context, message);
    let answer = in_name_of(&command.operation, acting).await?;
    match answer {
        Answer::Done(_) => savepoint.commit().await?,
        Answer::Refused(_) | Answer::Silent => savepoint.rollback().await?,
    }
    Ok(answer)
}

pub(crate) fn payload(message: &Received) -> Result<&[u8], outbox::Error> {
    let payload = message.payload.as_deref();
    payload.ok_or_else(|| outbox::Error::Decode {
        kind: message.kind.clone(),
        reason: "the payload is null".to_owned(),
    })
}

async fn stored(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<Stored, outbox::Error> {
    let found = table::answer(tx, operation).await?;
    Ok(found.ok_or_else(|| Error::Running(operation.key()))?)
}
