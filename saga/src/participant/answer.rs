//! Answers, the way they are stored and sent.

use std::future::Future;

use outbox::Payload;
use serde_json::Value;
use sqlx::PgTransaction;

use crate::{
    Error,
    error::without_content,
    operation::Operation,
    participant::table::{self, Stored},
    wire::{Outcome, Refusal},
};

/// What came of a command.
pub(crate) enum Passed {
    /// Carried out, or settled otherwise, for the first time.
    Answered(Stored),
    /// It was here before.
    Repeated(Stored),
    /// As if it had never come.
    Silent,
    /// It needs something outside of the database, which the runner asks. Nothing is answered yet.
    Deferred(Begun),
}

/// Whether anything outside may have been called for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Its row was written by this very transaction.
    Never,
    Perhaps,
}

/// Encodes an answer.
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

/// Decodes a command's payload.
pub(crate) fn decode<P: Payload>(payload: &[u8]) -> Result<P, outbox::Error> {
    serde_json::from_slice(payload).map_err(|error| outbox::Error::Decode {
        kind: P::KIND.to_owned(),
        reason: without_content(&error),
    })
}

/// Stores the answer to an operation that this transaction has in hand.
pub(crate) async fn store(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    answer: &Stored,
) -> Result<(), outbox::Error> {
    match table::store(tx, operation, answer).await? {
        true => Ok(()),
        false => Err(Error::Running(operation.key()).into()),
    }
}

/// A stored answer's content.
pub(crate) fn json(answer: &Stored) -> Result<Value, outbox::Error> {
    serde_json::from_slice(&answer.payload).map_err(|error| outbox::Error::Decode {
        kind: answer.kind.clone(),
        reason: without_content(&error),
    })
}

/// What is answered to an action that must not begin any more.
pub(crate) fn expired() -> Refusal {
    Refusal::new("expired", "the request came too late to be carried out")
}

/// Runs what a participant's author wrote. A panic is an error of this operation alone, and an error
/// says of which step and saga it is.
pub(crate) async fn in_name_of<T>(
    operation: &Operation,
    work: impl Future<Output = Result<T, outbox::Error>>,
) -> Result<T, outbox::Error> {
    let told = |cause: &dyn std::fmt::Display| {
        let Operation {
            saga_id,
            step,
            phase,
            ..
        } = operation;
        format!("{phase} of step {step} of saga {saga_id}: {cause}")
    };
    outbox::caught(work).await.map_err(|error| match error {
        outbox::Error::Transient(cause) => outbox::Error::transient(told(&cause)),
        outbox::Error::Permanent(cause) => outbox::Error::permanent(told(&cause)),
        error => error,
    })
}
