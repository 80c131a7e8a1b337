//! Many commands in one transaction: what the barrier does for each takes one statement for all.
//!
//! What passes here: actions and compensations inside the database, each operation once. Whatever
//! else is in a batch (a repetition, a question, an effect outside) goes through the barrier by
//! itself, afterwards. Promised: the same as by the barrier, row for row; the order inside a batch
//! is free, as it is between batches. Not promised: the cheap way for everybody. A refusal undoes
//! what was written since the batch's savepoint, and the actions are done again with a savepoint
//! for each.

use std::collections::{HashMap, HashSet};

use outbox::Received;
use sqlx::{Connection, PgTransaction};

use crate::{
    Error,
    operation::Operation,
    participant::{
        action::{Answer, Context},
        answer::{encode, expired, in_name_of, json},
        barrier::{self, Act, Undo},
        table::{self, Stored},
    },
    wire::{self, Compensated, NullCompensated, Outcome, Tombstoned},
};

/// A command with who carries it out.
pub(crate) struct Asked<'a, B: ?Sized> {
    pub(crate) command: &'a wire::Command,
    pub(crate) message: &'a Received,
    pub(crate) business: &'a B,
    pub(crate) span: &'a tracing::Span,
}

/// What came of an operation; none if it is to be as if it had never come.
pub(crate) type Answers = HashMap<Operation, Option<Stored>>;

/// Lets actions through, those that were not here before. The operations differ.
pub(crate) async fn actions(
    tx: &mut PgTransaction<'_>,
    asked: &[Asked<'_, dyn Act + '_>],
) -> Result<Answers, outbox::Error> {
    let operations = asked.iter().map(|asked| {
        let expires_at = asked.command.expires_at;
        (&asked.command.operation, expires_at)
    });
    let operations: Vec<_> = operations.collect();
    let claimed = table::claim_all(tx, &operations).await?;
    let horizon = table::horizon(tx).await?;
    let mut answers = Answers::new();
    let mut begun = Vec::new();
    for asked in asked {
        let operation = &asked.command.operation;
        let Some(claimed) = claimed.get(&operation.key()) else {
            continue;
        };
        barrier::remembered(asked.command, horizon)?;
        if claimed.expired {
            let refused = encode(Outcome::Failed, &expired())?;
            answers.insert(operation.clone(), Some(refused));
        } else {
            begun.push(asked);
        }
    }
    carry_out(tx, &begun, &mut answers).await?;
    let (mut stored, mut withdrawn) = (Vec::new(), Vec::new());
    for (operation, answer) in &answers {
        match answer {
            Some(answer) => stored.push((operation, answer)),
            None => withdrawn.push(operation),
        }
    }
    store(tx, &stored).await?;
    for operation in withdrawn {
        table::withdraw(tx, operation).await?;
    }
    Ok(answers)
}

/// Without a savepoint for each, unless one is refused.
async fn carry_out(
    tx: &mut PgTransaction<'_>,
    begun: &[&Asked<'_, dyn Act + '_>],
    answers: &mut Answers,
) -> Result<(), outbox::Error> {
    if let [asked] = begun {
        let answer = in_savepoint(tx, asked).await?;
        answers.insert(asked.command.operation.clone(), answer);
        return Ok(());
    }
    let mut savepoint = tx.begin().await?;
    let mut done = Vec::with_capacity(begun.len());
    for asked in begun {
        let context = Context::new(asked.command, None);
        let acting = asked.business.act(&mut savepoint, &context, asked.message);
        let acting = in_name_of(&asked.command.operation, acting);
        let acting = tracing::Instrument::instrument(acting, asked.span.clone());
        match acting.await? {
            Answer::Done(answer) => done.push(answer),
            Answer::Refused(_) | Answer::Silent => break,
        }
    }
    if done.len() == begun.len() {
        savepoint.commit().await?;
        for (asked, answer) in begun.iter().zip(done) {
            answers.insert(asked.command.operation.clone(), Some(answer));
        }
        return Ok(());
    }
    savepoint.rollback().await?;
    for asked in begun {
        let answer = in_savepoint(tx, asked).await?;
        answers.insert(asked.command.operation.clone(), answer);
    }
    Ok(())
}

async fn in_savepoint(
    tx: &mut PgTransaction<'_>,
    asked: &Asked<'_, dyn Act + '_>,
) -> Result<Option<Stored>, outbox::Error> {
    let Asked {
        command,
        message,
        business,
        span,
    } = asked;
    let acting = barrier::in_savepoint(tx, command, message, *business);
    let acting = tracing::Instrument::instrument(acting, (*span).clone());
    Ok(match acting.await? {
        Answer::Done(answer) => Some(answer),
        Answer::Refused(refusal) => Some(encode(Outcome::Failed, &refusal)?),
        Answer::Silent => None,
    })
}

/// Lets compensations through, those that were not here before. The operations differ, and none of
/// their actions is outside of the database.
pub(crate) async fn compensations(
    tx: &mut PgTransaction<'_>,
    asked: &[Asked<'_, dyn Undo + '_>],
) -> Result<Answers, outbox::Error> {
    let undone = asked
        .iter()
        .map(|asked| barrier::action_of(&asked.command.operation));
    let undone: Vec<Operation> = undone.collect();
    let tombstone = encode(Outcome::Tombstoned, &Tombstoned {})?;
    let overtook = table::bury_all(tx, &undone, &tombstone).await?;
    let operations = asked.iter().map(|asked| {
        let expires_at = asked.command.expires_at;
        (&asked.command.operation, expires_at)
    });
    let operations: Vec<_> = operations.collect();
    let claimed = table::claim_all(tx, &operations).await?;
    let known: Vec<&Operation> = undone
        .iter()
        .filter(|action| !overtook.contains(&action.key()))
        .collect();
    let found = table::answers(tx, &known).await?;
    let horizon = match overtook.is_empty() {
        true => None,
        false => table::horizon(tx).await?,
    };
    let mut answers = Answers::new();
    for (asked, action) in asked.iter().zip(&undone) {
        let operation = &asked.command.operation;
        if !claimed.contains_key(&operation.key()) {
            continue;
        }
        let done = match overtook.contains(&action.key()) {
            true => {
                barrier::remembered(asked.command, horizon)?;
                None
            }
            false => {
                let unanswered = || Error::Running(action.key());
                Some(found.get(&action.key()).ok_or_else(unanswered)?)
            }
        };
        let answer = match done.filter(|done| done.outcome == Outcome::Succeeded) {
            None => encode(Outcome::NullCompensated, &NullCompensated {})?,
            Some(done) => {
                let context = Context::new(asked.command, Some(json(done)?));
                let undoing = asked.business.undo(tx, &context, asked.message);
                let undoing = in_name_of(operation, undoing);
                tracing::Instrument::instrument(undoing, asked.span.clone()).await?;
                encode(Outcome::Compensated, &Compensated {})?
            }
        };
        answers.insert(operation.clone(), Some(answer));
    }
    let stored = answers.iter();
    let stored: Vec<_> = stored.filter_map(|(o, a)| Some((o, a.as_ref()?))).collect();
    store(tx, &stored).await?;
    Ok(answers)
}

async fn store(
    tx: &mut PgTransaction<'_>,
    answers: &[(&Operation, &Stored)],
) -> Result<(), outbox::Error> {
    if answers.is_empty() {
        return Ok(());
    }
    if table::store_all(tx, answers).await? == answers.len() as u64 {
        return Ok(());
    }
    // Somebody took a row that only this transaction can see: a handler deleted it.
    Err(Error::Running(answers[0].0.key()).into())
}

/// The first command of each operation; the others, and those that are not for here, stay behind.
pub(crate) fn first_of_each<'a>(
    commands: impl Iterator<Item = &'a wire::Command>,
) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let first = commands.enumerate();
    let first = first.filter(|(_, command)| seen.insert(&command.operation));
    first.map(|(place, _)| place).collect()
}
