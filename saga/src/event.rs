//! What goes into a decision ([`Input`]) and what comes out for ever ([`Event`]).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    operation::{Operation, Phase},
    wire::{Outcome, Refusal},
    words::words,
};

/// Something that happened to a saga from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A participant answered.
    Reply(Reply),
    /// A timer fired.
    Timer(Timer),
}

/// A participant's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// To which operation.
    pub operation: Operation,
    /// What came of it.
    pub answer: Answer,
}

/// What came of an operation, with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The action took effect. The payload is read only if the reply is awaited.
    Succeeded {
        /// The payload's kind.
        kind: String,
        /// The payload, still as it came.
        payload: Vec<u8>,
    },
    /// The action was refused and nothing of it remains.
    Failed(Refusal),
    /// The compensation undid the action.
    Compensated,
    /// The compensation found nothing to undo.
    NullCompensated,
    /// The action came after its compensation and was not carried out.
    Tombstoned,
}

impl Answer {
    /// Its word on the wire.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Succeeded { .. } => Outcome::Succeeded,
            Self::Failed(_) => Outcome::Failed,
            Self::Compensated => Outcome::Compensated,
            Self::NullCompensated => Outcome::NullCompensated,
            Self::Tombstoned => Outcome::Tombstoned,
        }
    }
}

/// A moment somebody set a timer for. It counts only if the saga still waits for exactly this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// The step.
    pub step: String,
    /// Forwards or back.
    pub phase: Phase,
    /// The round.
    pub round: i32,
    /// The attempt whose answer is overdue, or that is to be made now.
    pub attempt: i32,
}

words! {
    /// Why a reply changed nothing.
    pub enum IgnoredBecause {
        /// This operation has its answer already.
        Duplicate = "duplicate",
        /// The saga has left this operation behind: an earlier round, or a step being undone.
        Stale = "stale",
        /// The saga has ended.
        AfterTerminal = "after_terminal",
        /// Nothing of the kind was ever asked.
        Unexpected = "unexpected",
        /// An action took effect after its compensation had found nothing to undo. A participant
        /// broke the barrier's promise, and a person must look.
        Anomaly = "anomaly",
    }
}

/// One fact of a saga's history. The state folds from these alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The saga began.
    Started {
        /// The definition's name.
        definition: String,
        /// The pinned version.
        version: i32,
        /// The pinned hash.
        hash: String,
        /// The key it was started with.
        business_key: String,
        /// The definition's steps, in order.
        steps: Vec<String>,
        /// What it was started with.
        data: Value,
    },
    /// A command was enqueued, in the same transaction as this event.
    CommandSent {
        /// The step.
        step: String,
        /// Forwards or back.
        phase: Phase,
        /// The round.
        round: i32,
        /// Which sending of the same operation.
        attempt: i32,
        /// The operation's correlation key.
        op_key: Uuid,
    },
    /// No answer came to an attempt in time.
    AttemptTimedOut {
        /// The step.
        step: String,
        /// Forwards or back.
        phase: Phase,
        /// The round.
        round: i32,
        /// The attempt.
        attempt: i32,
    },
    /// The same operation will be sent again after a wait; an answer meanwhile still counts.
    RetryPlanned {
        /// The step.
        step: String,
        /// Forwards or back.
        phase: Phase,
        /// The round.
        round: i32,
        /// The attempt that will be made.
        attempt: i32,
    },
    /// The action took effect.
    ActionSucceeded {
        /// The step.
        step: String,
        /// The round.
        round: i32,
        /// The saga's data with the reply folded in.
        data: Value,
    },
    /// The action was refused and nothing of it remains.
    ActionFailed {
        /// The step.
        step: String,
        /// The round.
        round: i32,
        /// Why.
        refusal: Refusal,
    },
    /// The attempts are spent and nobody knows what became of the action.
    ActionUnknown {
        /// The step.
        step: String,
        /// The round.
        round: i32,
    },
    /// A refused step will be executed anew after a wait.
    RoundPlanned {
        /// The step.
        step: String,
        /// The round that will be made.
        round: i32,
    },
    /// The saga turned back.
    CompensationStarted {
        /// Why, for a person.
        reason: String,
    },
    /// A step was undone.
    StepCompensated {
        /// The step.
        step: String,
        /// The round that was undone.
        round: i32,
    },
    /// A step turned out to have had no effect, and never will.
    StepNullCompensated {
        /// The step.
        step: String,
        /// The round.
        round: i32,
    },
    /// The saga cannot go on without a person.
    Parked {
        /// Why, for a person.
        reason: String,
        /// Whether the answer, should it still come, lets it go on.
        awaits_reply: bool,
    },
    /// The awaited answer came after all.
    Resumed,
    /// Every step took effect.
    Completed,
    /// Everything that took effect was undone.
    Compensated,
    /// A reply changed nothing.
    Ignored {
        /// Why.
        reason: IgnoredBecause,
        /// The step it named.
        step: String,
        /// The phase it named.
        phase: Phase,
        /// The round it named.
        round: i32,
        /// What it said.
        outcome: Outcome,
    },
}

impl Event {
    /// The word for it, as in its JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::CommandSent { .. } => "command_sent",
            Self::AttemptTimedOut { .. } => "attempt_timed_out",
            Self::RetryPlanned { .. } => "retry_planned",
            Self::ActionSucceeded { .. } => "action_succeeded",
            Self::ActionFailed { .. } => "action_failed",
            Self::ActionUnknown { .. } => "action_unknown",
            Self::RoundPlanned { .. } => "round_planned",
            Self::CompensationStarted { .. } => "compensation_started",
            Self::StepCompensated { .. } => "step_compensated",
            Self::StepNullCompensated { .. } => "step_null_compensated",
            Self::Parked { .. } => "parked",
            Self::Resumed => "resumed",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Ignored { .. } => "ignored",
        }
    }
}
