//! One operation on its way to its answer.

use std::{future::Future, time::Duration};

use outbox::{Received, enqueue_all};
use sqlx::{Connection, PgPool, PgTransaction};
use tracing::{debug, warn};

use crate::{
    Error, Participant,
    operation::{Operation, Phase},
    participant::{
        action::Context,
        answer::{Passed, encode, expired, in_name_of, json, store},
        barrier::{self, By, action_of},
        external::{Called, Probed, Settled},
        outside::{Limits, Outside, Receipt, refused},
        runner::table::{self, Item},
        table::{self as barrier_table, Asked, Found, Stored},
    },
    telemetry,
    wire::{self, COMMAND_EXPIRY, Outcome, Tombstoned},
};

/// The pause after a first failure; it doubles.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How often a compensation looks for its action's answer by itself; that one wakes it.
const LOOKED_FOR_EVERY: Duration = Duration::from_secs(5);
/// Longer reasons are cut.
const LONGEST_REASON: usize = 1_000;

/// Why an operation has no answer yet.
enum Unsettled {
    /// Somebody else has it, or has settled it.
    Fenced,
    /// Its action has no answer yet.
    Waits,
    Failed(outbox::Error),
}

impl<E: Into<outbox::Error>> From<E> for Unsettled {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Settling = Result<(), Unsettled>;

/// What is known of an action.
enum Known {
    /// It was done outside.
    Done(Receipt),
    Answer(Stored),
    Silent,
}

/// What to do when the outside does not know the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfNotFound {
    CallAgain,
    /// Nobody wants it any more.
    Revoke,
    /// It is too late.
    Expire,
    /// Nobody is known who wants it.
    Leave,
}

/// A command that waits, as far as it can be read.
struct Waiting {
    command: wire::Command,
    message: Received,
}

/// Works at one operation: it gets its answer, or is put off.
pub(crate) async fn work(participant: &Participant, pool: &PgPool, item: &Item) {
    let operation = &item.operation;
    let working = async {
        Ok::<_, outbox::Error>(match operation.phase {
            Phase::Action => action(participant, pool, item).await,
            Phase::Compensation => compensation(participant, pool, item).await,
        })
    };
    let settled = outbox::caught(working).await;
    let put_off = match settled.unwrap_or_else(|panic| Err(Unsettled::Failed(panic))) {
        Ok(()) | Err(Unsettled::Fenced) => return,
        Err(Unsettled::Waits) => table::wait_for_action(pool, item, LOOKED_FOR_EVERY).await,
        Err(Unsettled::Failed(error)) => {
            let pause = match error.is_transient() {
                true => pause(item),
                false => LONGEST_BACKOFF,
            };
            let reason = error.to_string().replace('\0', "");
            let reason: String = reason.chars().take(LONGEST_REASON).collect();
            warn!(error = reason, tries = item.tries, ?pause, "put off");
            telemetry::external(&operation.step, "put_off");
            table::postpone(pool, item, pause, &reason).await
        }
    };
    if let Err(error) = put_off {
        warn!(%error, "an operation could not be put off: it is tried again when its lease ends");
    }
}

/// Between half and all of a pause that doubles.
fn pause(item: &Item) -> Duration {
    let doublings = u32::try_from(item.tries.clamp(1, 20) - 1).unwrap_or_default();
    let pause = (BACKOFF * 2_u32.pow(doublings)).min(LONGEST_BACKOFF);
    let share = f64::from(item.operation.key().as_bytes()[15]) / 255.0;
    pause.mul_f64(0.5 + share / 2.0)
}

async fn action(participant: &Participant, pool: &PgPool, item: &Item) -> Settling {
    let operation = &item.operation;
    let mut connection = pool.acquire().await?;
    let waiting = read(table::waiting(&mut connection, operation).await?);
    let found = barrier_table::find(&mut connection, operation).await?;
    let unwanted = table::is_to_be_compensated(&mut connection, operation).await?;
    drop(connection);
    let asked = match found {
        Some(Found::Running(asked)) => asked,
        // It was settled meanwhile, or taken back: whoever waits gets what is stored.
        Some(Found::Answered(answer)) => {
            return settle(participant, pool, item, None, Known::Answer(answer)).await;
        }
        None => return settle(participant, pool, item, None, Known::Silent).await,
    };
    let outside = participant.outside(&asked.kind)?;
    let context = context(operation, &waiting);
    let of = Of {
        item,
        context: &context,
        asked: &asked,
        outside,
        limits: outside.limits(),
    };
    let known = of.find_out(if_not_found(item, &waiting, unwanted)).await?;
    settle(participant, pool, item, Some(of), known).await
}

/// An action that is running.
#[derive(Clone, Copy)]
struct Of<'a> {
    item: &'a Item,
    context: &'a Context,
    asked: &'a Asked,
    outside: &'a dyn Outside,
    limits: Limits,
}

impl Of<'_> {
    async fn find_out(&self, if_not_found: IfNotFound) -> Result<Known, outbox::Error> {
        let (context, payload) = (self.context, self.asked.payload.as_slice());
        // The first try of an operation whose row was written with it: there is nothing to ask about.
        let is_new = self.item.tries == 1;
        if !is_new {
            let probing = self.outside.probe(context, payload);
            let (known, told) = match self.patient(probing).await? {
                Probed::Found(receipt) => (Known::Done(receipt), "found"),
                Probed::Refused(refusal) => (Known::Answer(refused(&refusal)?), "found_refused"),
                Probed::Unknown => {
                    telemetry::external(&context.step, "unknown");
                    return Err(Error::Running(context.op_key).into());
                }
                Probed::NotFound => {
                    telemetry::external(&context.step, "not_found");
                    return self.not_found(if_not_found, false).await;
                }
            };
            telemetry::external(&context.step, told);
            return Ok(known);
        }
        self.not_found(if_not_found, true).await
    }

    async fn not_found(
        &self,
        if_not_found: IfNotFound,
        is_new: bool,
    ) -> Result<Known, outbox::Error> {
        let answer = match if_not_found {
            IfNotFound::CallAgain => return self.call().await,
            IfNotFound::Leave => return Err(Error::Running(self.context.op_key).into()),
            IfNotFound::Revoke => encode(Outcome::Tombstoned, &Tombstoned {})?,
            IfNotFound::Expire => refused(&expired())?,
        };
        match is_new || self.revoke().await? {
            true => Ok(Known::Answer(answer)),
            false => Err(Error::Running(self.context.op_key).into()),
        }
    }

    async fn call(&self) -> Result<Known, outbox::Error> {
        let calling = self.outside.call(self.context, &self.asked.payload);
        let (known, told) = match self.patient(calling).await? {
            Called::Done(receipt) => (Known::Done(receipt), "done"),
            Called::Refused(refusal) => (Known::Answer(refused(&refusal)?), "refused"),
            Called::Silent => (Known::Silent, "silent"),
        };
        telemetry::external(&self.context.step, told);
        Ok(known)
    }

    async fn revoke(&self) -> Result<bool, outbox::Error> {
        let revoking = self.outside.revoke(self.context, &self.asked.payload);
        let revoked = self.patient(revoking).await?;
        if revoked {
            telemetry::external(&self.context.step, "revoked");
        }
        Ok(revoked)
    }

    async fn patient<T>(
        &self,
        asking: impl Future<Output = Result<T, outbox::Error>>,
    ) -> Result<T, outbox::Error> {
        patient(&self.item.operation, self.limits, asking).await
    }
}

/// Waits for the outside, but no longer than it may take.
async fn patient<T>(
    operation: &Operation,
    limits: Limits,
    asking: impl Future<Output = Result<T, outbox::Error>>,
) -> Result<T, outbox::Error> {
    let overdue = Error::Overdue(operation.key(), limits.patience);
    let asking = in_name_of(operation, asking);
    let answered = tokio::time::timeout(limits.patience, asking).await;
    answered.unwrap_or_else(|_| Err(overdue.into()))
}

/// Stores what is known of an action and answers whoever waits for it, in one transaction.
async fn settle(
    participant: &Participant,
    pool: &PgPool,
    item: &Item,
    of: Option<Of<'_>>,
    known: Known,
) -> Settling {
    let operation = &item.operation;
    let mut tx = begin(pool, item).await?;
    let passed = match (known, barrier_table::find(&mut tx, operation).await?) {
        (_, Some(Found::Answered(answer))) => Passed::Repeated(answer),
        (_, None) => Passed::Silent,
        (Known::Silent, Some(Found::Running(_))) => {
            barrier_table::withdraw(&mut tx, operation).await?;
            Passed::Silent
        }
        (Known::Answer(answer), Some(Found::Running(_))) => {
            store(&mut tx, operation, &answer).await?;
            Passed::Answered(answer)
        }
        (Known::Done(receipt), Some(Found::Running(_))) => {
            let of = of.ok_or_else(|| Error::Running(operation.key()))?;
            match settled(&mut tx, &of, receipt).await? {
                Settled::Done(answer) => {
                    store(&mut tx, operation, &answer).await?;
                    Passed::Answered(answer)
                }
                // Undone outside, too, before anybody is told that it was refused.
                Settled::Refused(refusal) => {
                    tx.rollback().await?;
                    if !of.revoke().await? {
                        return Err(Error::Irrevocable(operation.key()).into());
                    }
                    let known = Known::Answer(refused(&refusal)?);
                    return Box::pin(settle(participant, pool, item, Some(of), known)).await;
                }
            }
        }
    };
    finish(participant, tx, operation, passed).await
}

/// The savepoint is released when what was done stands.
async fn settled(
    tx: &mut PgTransaction<'_>,
    of: &Of<'_>,
    receipt: Receipt,
) -> Result<Settled<Stored>, outbox::Error> {
    let mut savepoint = tx.begin().await?;
    let (context, payload) = (of.context, of.asked.payload.as_slice());
    let settling = of.outside.settle(&mut savepoint, context, payload, receipt);
    let settled = in_name_of(&of.item.operation, settling).await?;
    match settled {
        Settled::Done(_) => savepoint.commit().await?,
        Settled::Refused(_) => savepoint.rollback().await?,
    }
    Ok(settled)
}

async fn compensation(participant: &Participant, pool: &PgPool, item: &Item) -> Settling {
    let operation = &item.operation;
    let undo = participant.undo(&item.kind)?;
    let mut connection = pool.acquire().await?;
    let waiting = read(table::waiting(&mut connection, operation).await?);
    let action = barrier_table::find(&mut connection, &action_of(operation)).await?;
    let ours = barrier_table::find(&mut connection, operation).await?;
    drop(connection);
    let Some(Waiting { command, message }) = waiting.last() else {
        return Err(Error::Running(operation.key()).into());
    };
    let done = match action {
        Some(Found::Running(_)) => return Err(Unsettled::Waits),
        Some(Found::Answered(done)) if done.outcome == Outcome::Succeeded => Some(done),
        Some(Found::Answered(_)) | None => None,
    };
    if let (Some(done), None, Some(limits)) = (&done, ours, undo.limits()) {
        let context = Context::new(command, Some(json(done)?));
        let mut tx = begin(pool, item).await?;
        let admitting = undo.admit(&mut tx, &context, message);
        in_name_of(operation, admitting).await?;
        // It has only looked.
        tx.rollback().await?;
        patient(operation, limits, undo.call(&context, message)).await?;
        telemetry::external(&context.step, "undone");
    }
    let mut tx = begin(pool, item).await?;
    let passing = barrier::compensation(&mut tx, command, message, undo, By::Runner);
    match passing.await? {
        Passed::Deferred(_) => Err(Unsettled::Waits),
        passed => finish(participant, tx, operation, passed).await,
    }
}

/// Begins the transaction in which a claimed operation gets its answer.
async fn begin(pool: &PgPool, item: &Item) -> Result<PgTransaction<'static>, Unsettled> {
    let mut tx = pool.begin_with(crate::table::BEGIN).await?;
    match table::fence(&mut tx, item).await? {
        true => Ok(tx),
        false => {
            debug!("somebody else has taken it over");
            Err(Unsettled::Fenced)
        }
    }
}

/// Answers all that wait, removes the work item, commits.
async fn finish(
    participant: &Participant,
    mut tx: PgTransaction<'_>,
    operation: &Operation,
    passed: Passed,
) -> Settling {
    let waiting = read(table::waiting(&mut tx, operation).await?);
    let (mut first, mut replies) = (Some(passed), Vec::with_capacity(waiting.len()));
    let mut answer = None;
    for Waiting { command, message } in &waiting {
        let passed = first
            .take()
            .or_else(|| answer.clone().map(Passed::Repeated));
        let Some(passed) = passed else { break };
        let span = participant.span(command);
        let trace = outbox::follow(&span, message);
        answer = participant.counted(operation.phase, passed, &span);
        replies.extend(answer.clone().map(|answer| {
            let Stored {
                outcome,
                kind,
                payload,
            } = answer;
            let reply = command.reply(message, outcome, &kind, payload);
            trace
                .into_iter()
                .fold(reply, |reply, (name, value)| reply.with_header(name, value))
        }));
    }
    enqueue_all(&mut tx, &replies).await?;
    table::remove(&mut tx, operation).await?;
    if operation.phase == Phase::Action {
        table::wake_compensation(&mut tx, operation).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// They were read before they were noted, perhaps by another version of this program.
fn read(messages: Vec<Received>) -> Vec<Waiting> {
    let read = messages.into_iter().filter_map(|message| {
        let command = wire::Command::parse(&message);
        let command = command.inspect_err(|error| {
            warn!(%error, message_id = %message.id, "a command that waits cannot be read");
        });
        let command = command.ok()?;
        Some(Waiting { command, message })
    });
    read.collect()
}

fn if_not_found(item: &Item, waiting: &[Waiting], unwanted: bool) -> IfNotFound {
    let mut commands = waiting.iter().map(|waiting| &waiting.command);
    let is_old = item.now - item.begun_at > chrono::TimeDelta::seconds(expiry_seconds());
    if unwanted || commands.clone().any(|command| command.probe) {
        IfNotFound::Revoke
    } else if commands.any(|command| command.expires_at >= item.now) {
        IfNotFound::CallAgain
    } else if !waiting.is_empty() || is_old {
        IfNotFound::Expire
    } else {
        IfNotFound::Leave
    }
}

fn expiry_seconds() -> i64 {
    i64::try_from(COMMAND_EXPIRY.as_secs()).unwrap_or(i64::MAX)
}

/// On whose behalf. Of what was begun before there was a runner, no more is known than its name.
fn context(operation: &Operation, waiting: &[Waiting]) -> Context {
    match waiting.last() {
        Some(Waiting { command, .. }) => Context::of(operation, command, None),
        None => Context {
            saga_id: operation.saga_id,
            definition: String::new(),
            step: operation.step.clone(),
            phase: operation.phase,
            round: operation.round,
            attempt: 0,
            op_key: operation.key(),
            action_reply: None,
        },
    }
}
