//! What stands on the wire between a coordinator and its participants: headers, and the payloads
//! of replies that are the same for every step.
//!
//! What passes here: every command and every reply, in both directions. Promised: what is parsed
//! is whole and consistent (the op_key is the one its saga, step, phase and round derive).
//! Not promised: that anybody awaits it; that is for [`decide`](crate::decide).

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use outbox::{Headers, Message, Payload, Received};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Error,
    error::without_content,
    event::{self, Answer},
    operation::Operation,
    origin::Place,
    words::words,
};

/// The saga's id, also the record key.
pub const SAGA_ID: &str = "saga-id";
/// The definition's name; commands only.
pub const DEFINITION: &str = "saga-definition";
/// The step, by name.
pub const STEP: &str = "saga-step";
/// `action` or `compensation`.
pub const PHASE: &str = "saga-phase";
/// One execution of the step.
pub const ROUND: &str = "saga-round";
/// Which sending of the same operation this is, or answers.
pub const ATTEMPT: &str = "saga-attempt";
/// The correlation key, see [`Operation::key`].
pub const OP_KEY: &str = "saga-op-key";
/// Where the reply goes; commands only.
pub const REPLY_TOPIC: &str = "saga-reply-topic";
/// After this moment (RFC 3339) an action must not be begun; commands only.
pub const EXPIRES_AT: &str = "saga-expires-at";
/// When the action of this step and round was first sent (RFC 3339), whatever was sent again since;
/// commands only. A participant that may have forgotten what came then carries nothing out.
pub const BEGUN_AT: &str = "saga-begun-at";
/// `true` on a command that does not ask for the action but what became of it; see
/// [`Command::probe`].
pub const PROBE: &str = "saga-probe";
/// How long after it was sent an action may be begun. Participants keep their barrier rows longer.
pub const COMMAND_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);
/// The record of the command that is answered, `partition/offset`; replies only. For whoever looks
/// for it; nothing is decided by it.
pub const IN_REPLY_TO: &str = "saga-in-reply-to";
/// What came of it; replies only.
pub const OUTCOME: &str = "saga-outcome";

words! {
    /// What a reply says came of an operation.
    pub enum Outcome {
        /// The action took effect.
        Succeeded = "succeeded",
        /// The action was refused, and nothing of it remains.
        Failed = "failed",
        /// The compensation undid the action.
        Compensated = "compensated",
        /// The compensation found nothing to undo, and the action can never take effect.
        NullCompensated = "null_compensated",
        /// The action came after its compensation and was not carried out.
        Tombstoned = "tombstoned",
    }
}

/// A participant's refusal: an answer, not an error. It promises that nothing remains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// For programs: `card_declined`.
    pub code: String,
    /// For a person: why, in a sentence they understand.
    pub message: String,
}

impl Refusal {
    /// A refusal with its code and a sentence for a person.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

impl Payload for Refusal {
    const KIND: &'static str = "saga.refused.v1";
}

/// The reply to a compensation that undid its action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compensated {}

impl Payload for Compensated {
    const KIND: &'static str = "saga.compensated.v1";
}

/// The reply to a compensation that found nothing to undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NullCompensated {}

impl Payload for NullCompensated {
    const KIND: &'static str = "saga.null_compensated.v1";
}

/// The reply to an action that came after its compensation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstoned {}

impl Payload for Tombstoned {
    const KIND: &'static str = "saga.tombstoned.v1";
}

/// A command's headers, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What is asked.
    pub operation: Operation,
    /// Its correlation key.
    pub op_key: Uuid,
    /// The definition's name.
    pub definition: String,
    /// Which sending of the same operation this is.
    pub attempt: i32,
    /// Where the reply goes.
    pub reply_topic: String,
    /// After this moment an action must not be begun.
    pub expires_at: DateTime<Utc>,
    /// When the action of this step and round was first sent, if the sender says so.
    pub begun_at: Option<DateTime<Utc>>,
    /// Not "do it" but "what became of it?": answered with the reply the action got, or with
    /// `tombstoned` if it never came, and then it never will take effect. Never carried out.
    pub probe: bool,
}

impl Command {
    /// Reads the headers of a received command.
    ///
    /// # Errors
    ///
    /// [`Error::Header`], permanent, naming the first header that is missing or wrong.
    pub fn parse(message: &Received) -> Result<Self, Error> {
        let (operation, op_key) = operation(message)?;
        Ok(Self {
            operation,
            op_key,
            definition: required(message, DEFINITION)?.to_owned(),
            attempt: parsed(message, ATTEMPT)?,
            reply_topic: required(message, REPLY_TOPIC)?.to_owned(),
            expires_at: parsed(message, EXPIRES_AT)?,
            begun_at: given(message, BEGUN_AT)?,
            probe: given(message, PROBE)?.unwrap_or(false),
        })
    }

    /// The message that carries this command.
    #[must_use]
    pub fn message(&self, topic: &str, kind: &str, payload: Vec<u8>) -> Message {
        let written = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut message = Message::raw(topic, self.operation.saga_id, kind, payload);
        message.headers = operation_headers(&self.operation, self.op_key);
        let message = message
            .with_header(DEFINITION, &self.definition)
            .with_header(ATTEMPT, self.attempt.to_string())
            .with_header(REPLY_TOPIC, &self.reply_topic)
            .with_header(EXPIRES_AT, written(self.expires_at));
        let message = match self.begun_at {
            Some(begun_at) => message.with_header(BEGUN_AT, written(begun_at)),
            None => message,
        };
        match self.probe {
            true => message.with_header(PROBE, "true"),
            false => message,
        }
    }

    /// The message that answers this command, which came in `asked`.
    #[must_use]
    pub fn reply(
        &self,
        asked: &Received,
        outcome: Outcome,
        kind: &str,
        payload: Vec<u8>,
    ) -> Message {
        let mut message = Message::raw(&self.reply_topic, self.operation.saga_id, kind, payload);
        message.headers = operation_headers(&self.operation, self.op_key);
        message
            .with_header(ATTEMPT, self.attempt.to_string())
            .with_header(IN_REPLY_TO, Place::of(asked).to_string())
            .with_header(OUTCOME, outcome.as_str())
    }
}

/// A reply's headers, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What was asked.
    pub operation: Operation,
    /// What came of it.
    pub outcome: Outcome,
}

impl Reply {
    /// Reads the headers of a received reply.
    ///
    /// # Errors
    ///
    /// [`Error::Header`], permanent, naming the first header that is missing or wrong.
    pub fn parse(message: &Received) -> Result<Self, Error> {
        let (operation, _) = operation(message)?;
        Ok(Self {
            operation,
            outcome: parsed(message, OUTCOME)?,
        })
    }

    /// With its payload. Of a success it is not read yet: only its step knows how.
    #[must_use]
    pub fn answered(self, kind: &str, payload: &[u8]) -> event::Reply {
        let Self { operation, outcome } = self;
        let answer = match outcome {
            Outcome::Succeeded => Answer::Succeeded {
                kind: kind.to_owned(),
                payload: payload.to_vec(),
            },
            Outcome::Failed => match serde_json::from_slice::<Refusal>(payload) {
                // PostgreSQL's text cannot hold NUL.
                Ok(Refusal { code, message }) => Answer::Failed(Refusal {
                    code: code.replace('\0', "\u{fffd}"),
                    message: message.replace('\0', "\u{fffd}"),
                }),
                Err(error) => Answer::Unreadable {
                    kind: kind.to_owned(),
                    payload: payload.to_vec(),
                    reason: without_content(&error),
                },
            },
            Outcome::Compensated => Answer::Compensated,
            Outcome::NullCompensated => Answer::NullCompensated,
            Outcome::Tombstoned => Answer::Tombstoned,
        };
        event::Reply { operation, answer }
    }
}

/// The saga a message belongs to, if it says so.
fn saga_id(message: &Received) -> Result<Uuid, Error> {
    parsed(message, SAGA_ID)
}

fn operation(message: &Received) -> Result<(Operation, Uuid), Error> {
    let operation = Operation {
        saga_id: saga_id(message)?,
        step: required(message, STEP)?.to_owned(),
        phase: parsed(message, PHASE)?,
        round: parsed(message, ROUND)?,
    };
    let op_key: Uuid = parsed(message, OP_KEY)?;
    if op_key != operation.key() {
        return Err(Error::Header {
            name: OP_KEY,
            reason: "it is not the key of this saga, step, phase and round".to_owned(),
        });
    }
    Ok((operation, op_key))
}

fn operation_headers(operation: &Operation, op_key: Uuid) -> Headers {
    [
        (SAGA_ID, operation.saga_id.to_string()),
        (STEP, operation.step.clone()),
        (PHASE, operation.phase.to_string()),
        (ROUND, operation.round.to_string()),
        (OP_KEY, op_key.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn required<'a>(message: &'a Received, name: &'static str) -> Result<&'a str, Error> {
    message.header(name).ok_or(Error::Header {
        name,
        reason: "it is missing".to_owned(),
    })
}

/// As [`parsed`], of a header that may be missing.
fn given<T: std::str::FromStr>(message: &Received, name: &'static str) -> Result<Option<T>, Error>
where
    T::Err: std::fmt::Display,
{
    let given = message.header(name).map(|_| parsed(message, name));
    given.transpose()
}

fn parsed<T: std::str::FromStr>(message: &Received, name: &'static str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    required(message, name)?
        .parse()
        .map_err(|error: T::Err| Error::Header {
            name,
            reason: error.to_string(),
        })
}
