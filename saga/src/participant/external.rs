//! What a participant's author writes for an effect outside of its database: a card provider, a
//! mail server, another company's API.
//!
//! ```text
//! admit → the row `running` is committed → call, with op_key → settle: rows, answer and reply commit
//!              ↑ died anywhere after it: probe → found: settle · refused: answer · not found: call again
//! ```
//!
//! Promised: nothing is called before the row says so; one worker at a time is at an operation,
//! because it holds the row's lock; whoever meets a `running` row (the command again, its
//! compensation, a question) probes before anything else. Not promised: that the outside is called
//! once. It has to know an operation by its key: the same key, the same effect, the same answer. If
//! we die between effect and answer, the row is `running`, and the next command finds out.
//!
//! The call is made while the consumer's transaction is open and idle, so a slow outside wants small
//! batches, and [`External::patience`] must be shorter than the server's
//! `idle_in_transaction_session_timeout`. The row is committed on a pool of its own: with the
//! consumer's, all its connections could be in the hands of workers that each wait for one more.
//!
//! A compensation needs none of this: it has one outcome and is repeated until it is stored. It may
//! call the outside itself, with its own [`Context::op_key`] as the idempotency key.

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
    type Receipt: Send;

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
    /// An error says that nobody knows what became of it. What is transient is tried again, by a
    /// probe first; anything else parks the command, and the operation stays `running`.
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
    /// Everything is rolled back; the operation stays `running` and is probed when it comes again.
    fn settle(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: &Self::Command,
        receipt: Self::Receipt,
    ) -> impl Future<Output = Result<Settled<Self::Reply>, outbox::Error>> + Send;

    /// How long the outside may take to answer; by default 5 s. Later nothing is known.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

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
