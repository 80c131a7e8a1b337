//! What a participant's author writes.

use std::future::Future;

use outbox::Payload;
use serde_json::Value;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    operation::{Operation, Phase},
    wire::{self, Refusal},
};

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<R> {
    /// It took effect.
    Done(R),
    /// It was refused. What was written through `tx` is rolled back, so nothing of it remains.
    Refused(Refusal),
    /// No answer at all, as if the command had never come: no effect, no barrier row, no reply.
    /// For test tokens that stand for a participant that does not answer.
    Silent,
}

/// One thing a participant can be asked to do.
pub trait Action: Send + Sync + 'static {
    /// What asks for it.
    type Command: Payload;
    /// What answers it.
    type Reply: Payload;

    /// Does it, writing through `tx` only. Runs inside a savepoint, once per operation.
    ///
    /// # Errors
    ///
    /// An error is no answer: everything is rolled back, and the consumer tries again or parks the
    /// command as [`outbox::Handler::handle`] says. To say no, return [`Answer::Refused`].
    fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: Self::Command,
    ) -> impl Future<Output = Result<Answer<Self::Reply>, outbox::Error>> + Send;
}

/// How a participant undoes an action. It may not refuse: whoever promised that an action can be
/// undone has to undo it.
pub trait Compensation: Send + Sync + 'static {
    /// What asks for it.
    type Command: Payload;

    /// Undoes it, writing through `tx` only. Called only if the action took effect. What has something
    /// to undo outside of the database is an
    /// [`ExternalCompensation`](crate::participant::ExternalCompensation).
    ///
    /// # Errors
    ///
    /// Everything is rolled back and tried again; the saga asks again too, and in the end parks.
    fn compensate(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: Self::Command,
    ) -> impl Future<Output = Result<(), outbox::Error>> + Send;
}

/// On whose behalf an operation is carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The saga.
    pub saga_id: Uuid,
    /// The definition's name.
    pub definition: String,
    /// The step.
    pub step: String,
    /// Forwards or back.
    pub phase: Phase,
    /// One execution of the step.
    pub round: i32,
    /// Which sending of the same operation this is.
    pub attempt: i32,
    /// The operation's key: hand it downstream as an idempotency key.
    pub op_key: Uuid,
    /// For a compensation: what the action answered.
    pub action_reply: Option<Value>,
}

impl Context {
    /// The key of the action of this step and round: under it a compensation finds what the action
    /// did outside of the database.
    #[must_use]
    pub fn action_key(&self) -> Uuid {
        let action = Operation {
            saga_id: self.saga_id,
            step: self.step.clone(),
            phase: Phase::Action,
            round: self.round,
        };
        action.key()
    }

    pub(crate) fn new(command: &wire::Command, action_reply: Option<Value>) -> Self {
        Self::of(&command.operation, command, action_reply)
    }

    /// Of an operation that is not the command's own but of its step.
    pub(crate) fn of(
        operation: &Operation,
        command: &wire::Command,
        action_reply: Option<Value>,
    ) -> Self {
        Self {
            saga_id: operation.saga_id,
            definition: command.definition.clone(),
            step: operation.step.clone(),
            phase: operation.phase,
            round: operation.round,
            attempt: command.attempt,
            op_key: operation.key(),
            action_reply,
        }
    }
}
