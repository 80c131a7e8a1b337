//! What a participant's author writes for an effect outside of its database: a card provider, a
//! mail server, another company's API.
//!
//! ```text
//! consumer: admit → the row `running` commits with its batch
//! runner:   → call, with op_key → settle: rows, answer and reply commit
//!           ↑ died or failed anywhere after the first call: probe → found: settle
//!             · refused: answer · not found: call again
//! ```
//!
//! Promised: nothing is called before the row says so; nothing is called in a transaction, and a slow
//! outside holds up neither the consumer nor operations of another kind; one worker at a time is at an
//! operation, and what was begun is worked at until it has its answer, whether its command comes again
//! or not. Not promised: that the outside is called once. It has to know an operation by its key: the
//! same key, the same effect, the same answer. If we die between effect and answer, the row is
//! `running`, and the runner finds out.
//!
//! A compensation that has something to undo outside is an [`ExternalCompensation`], for the same
//! reason. It has one outcome and is repeated until that is stored.

use std::{future::Future, time::Duration};

use outbox::Payload;
use sqlx::PgTransaction;

use crate::{participant::action::Context, wire::Refusal};

/// An action whose effect is outside of the participant's database.
pub trait External: Send + Sync + 'static {
    /// What asks for it.
    type Command: Payload;
    /// What answers it.
    type Reply: Payload;
    /// What the outside says when it has done it.
    type Receipt: Send + 'static;

    /// Looks at a command before anything is written or called; by default everything is let
    /// through. Refuse here what the own rows speak against: it costs nothing yet.
    ///
    /// # Errors
    ///
    /// As [`Action::execute`](crate::participant::Action::execute); nothing has begun.
    fn admit(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &Self::Command,
    ) -> impl Future<Output = Result<Admission, outbox::Error>> + Send {
        let _ = (tx, context, command);
        async { Ok(Admission::Begin) }
    }

    /// Does it, with [`Context::op_key`] as the idempotency key. Called again with the same key
    /// when its answer is not known to have been stored.
    ///
    /// # Errors
    ///
    /// An error says that nobody knows what became of it. It is tried again, by a probe first, after
    /// pauses that grow; the reason stands beside the operation, which stays `running`.
    fn call(
        &self,
        context: &Context,
        command: &Self::Command,
    ) -> impl Future<Output = Result<Called<Self::Receipt>, outbox::Error>> + Send;

    /// Asks what became of a call with this key. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`External::call`]: nothing is known, try again.
    fn probe(
        &self,
        context: &Context,
        command: &Self::Command,
    ) -> impl Future<Output = Result<Probed<Self::Receipt>, outbox::Error>> + Send;

    /// Makes sure that the effect is not there and never will be, whatever call with this key is
    /// still under way: a provider's *void* or *cancel*, by the key. `false`: the outside can give
    /// no such promise, which is the default; then whoever needs it tries again until a probe finds
    /// an answer. Called more than once.
    ///
    /// # Errors
    ///
    /// As [`External::call`].
    fn revoke(
        &self,
        context: &Context,
        command: &Self::Command,
    ) -> impl Future<Output = Result<bool, outbox::Error>> + Send {
        let _ = (context, command);
        async { Ok(false) }
    }

    /// Writes down what was done, through `tx` only, in the transaction that stores the answer and
    /// sends the reply. Runs inside a savepoint, and again when that transaction is rolled back.
    ///
    /// # Errors
    ///
    /// Everything is rolled back; the operation stays `running` and is probed after a pause.
    fn settle(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &Self::Command,
        receipt: Self::Receipt,
    ) -> impl Future<Output = Result<Settled<Self::Reply>, outbox::Error>> + Send;

    /// How long the outside may take to answer; by default 5 s. Later nothing is known.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// How many operations of this kind a process works at together; by default 32.
    fn at_once(&self) -> usize {
        AT_ONCE
    }
}

/// A compensation that has something to undo outside of the participant's database. Called only if
/// the action took effect.
pub trait ExternalCompensation: Send + Sync + 'static {
    /// What asks for it.
    type Command: Payload;

    /// Looks whether it can be done, before anything is called. By default it always can.
    ///
    /// # Errors
    ///
    /// It is tried again after a pause; the reason stands beside the operation.
    fn admit(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &Self::Command,
    ) -> impl Future<Output = Result<(), outbox::Error>> + Send {
        let _ = (tx, context, command);
        async { Ok(()) }
    }

    /// Undoes what is outside, with [`Context::op_key`] as the idempotency key; what is to be undone is
    /// known there by [`Context::action_key`]. Called again when its answer is not known to have
    /// been stored.
    ///
    /// # Errors
    ///
    /// As [`ExternalCompensation::admit`].
    fn call(
        &self,
        context: &Context,
        command: &Self::Command,
    ) -> impl Future<Output = Result<(), outbox::Error>> + Send;

    /// Writes down that it is undone, through `tx` only, in the transaction that stores the answer.
    ///
    /// # Errors
    ///
    /// Everything is rolled back and tried again.
    fn settle(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: Self::Command,
    ) -> impl Future<Output = Result<(), outbox::Error>> + Send;

    /// How long the outside may take to answer; by default 5 s.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// How many of this kind a process works at together; by default 32.
    fn at_once(&self) -> usize {
        AT_ONCE
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const AT_ONCE: usize = 32;

/// Whether a command may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Begin,
    /// It is refused, and nothing is called.
    Refused(Refusal),
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Called<R> {
    /// It was done.
    Done(R),
    /// It was refused: nothing of it is there, and the same key gets the same answer.
    Refused(Refusal),
    /// No answer and no effect, now or later: the row is taken back, and there is no reply. For
    /// test tokens, as [`Answer::Silent`](crate::participant::Answer::Silent).
    Silent,
}

/// What the outside knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed<R> {
    /// It was done.
    Found(R),
    /// It was refused, or has been revoked: nothing is there, and nothing will be.
    Refused(Refusal),
    /// The key is not known. A call that is still under way may yet arrive.
    NotFound,
    /// It is being worked on, or the answer says nothing: ask again.
    Unknown,
}

/// What the participant makes of what was done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled<R> {
    /// It stands.
    Done(R),
    /// The own rows speak against it after all. What was written is rolled back and the effect
    /// [revoked](External::revoke), then this is the answer.
    Refused(Refusal),
}
