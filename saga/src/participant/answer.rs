//! Answers, the way they are stored and sent.

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
