//! What goes into a decision ([`Input`]) and what comes out for ever ([`Event`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    intervention::{Intervention, OperationName},
    locks::Claim,
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
    /// A claim on a resource was settled.
    Lock(LockAnswer),
    /// A person wants something. [`What::Migrate`](crate::intervention::What::Migrate) goes to
    /// [`migrate`](crate::decide::migrate) instead, which needs both versions.
    Intervention(Intervention),
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockAnswer {
    /// The resource.
    pub resource: String,
    /// Whether the saga has it now; if not, it asked for more than there is.
    pub granted: bool,
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
    /// The action was refused, and why cannot be read.
    Unreadable {
        /// The payload's kind.
        kind: String,
        /// The payload, as it came.
        payload: Vec<u8>,
        /// Where it cannot be read, without the content.
        reason: String,
    },
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
            Self::Failed(_) | Self::Unreadable { .. } => Outcome::Failed,
            Self::Compensated => Outcome::Compensated,
            Self::NullCompensated => Outcome::NullCompensated,
            Self::Tombstoned => Outcome::Tombstoned,
        }
    }

    /// Tells two answers apart without keeping them: 16 hexadecimal digits of a sha256.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.outcome().as_str());
        match self {
            Self::Succeeded { kind, payload } | Self::Unreadable { kind, payload, .. } => {
                hasher.update((kind.len() as u64).to_be_bytes());
                hasher.update(kind);
                hasher.update(payload);
            }
            Self::Failed(refusal) => {
                hasher.update((refusal.code.len() as u64).to_be_bytes());
                hasher.update(&refusal.code);
                hasher.update(&refusal.message);
            }
            Self::Compensated | Self::NullCompensated | Self::Tombstoned => {}
        }
        let digest = hasher.finalize();
        let first = digest[..8].iter();
        let first = first.fold(0_u64, |all, &byte| all << 8 | u64::from(byte));
        format!("{first:016x}")
    }
}

/// A moment somebody set a timer for. It counts only if the saga still waits for exactly this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timer {
    /// An answer is overdue, or it is time to ask again.
    Attempt(Attempt),
    /// The saga's own time is up.
    Deadline,
    /// A claim that waited was granted.
    Lock {
        /// On which resource.
        resource: String,
    },
}

/// One sending of an operation, under way or to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
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
        /// Nothing of the kind was ever asked.
        Unexpected = "unexpected",
        /// It cannot be read, and its saga is parked for that already.
        Unreadable = "unreadable",
        /// The saga has ended without this answer. An anomaly: what it tells of was neither counted
        /// nor undone.
        AfterTerminal = "after_terminal",
        /// An action took effect after its compensation had found nothing to undo. An anomaly: a
        /// participant broke the barrier's promise.
        LateSuccess = "late_success",
        /// Another answer to the same operation than the first one, or than what a person said of
        /// it. An anomaly: a participant answered anew what it should have repeated, or did what a
        /// person has done by hand.
        Contradiction = "contradiction",
    }
}

impl IgnoredBecause {
    /// Whether a person should look at it.
    #[must_use]
    pub fn is_anomaly(self) -> bool {
        matches!(
            self,
            Self::AfterTerminal | Self::LateSuccess | Self::Contradiction
        )
    }
}

/// One fact of a saga's history. The state folds from these alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
        /// Names and values to find it by.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        tags: BTreeMap<String, String>,
    },
    /// It asked for units of a resource, and sends nothing until it has them.
    LockRequested(Claim),
    /// It has them.
    LockGranted {
        /// Of which resource.
        resource: String,
    },
    /// It asked for more than there is.
    LockRefused {
        /// Of which resource.
        resource: String,
    },
    /// A step was left out: its condition does not hold.
    StepSkipped {
        /// The step.
        step: String,
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
    /// The participant was asked what became of an action that nobody answered for.
    ProbeSent {
        /// The step.
        step: String,
        /// The round.
        round: i32,
        /// Counted on from the attempts.
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
        /// [`Answer::digest`]; none when a person said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
    /// The action was refused and nothing of it remains.
    ActionFailed {
        /// The step.
        step: String,
        /// The round.
        round: i32,
        /// Why.
        refusal: Refusal,
        /// [`Answer::digest`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
    /// The attempts are spent, or the saga turned back meanwhile, and nobody knows what became of the action.
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
    /// A person said that a step needs no undoing any more.
    CompensationSkipped {
        /// The step.
        step: String,
        /// The round.
        round: i32,
    },
    /// The saga cannot go on without a person.
    Parked {
        /// Because of which step; empty where the whole saga is stopped, because its row, a reply or
        /// a timer could not be decided.
        step: String,
        /// Why, for a person.
        reason: String,
        /// Whether the answer, should it still come, lets it go on.
        awaits_reply: bool,
    },
    /// What it was parked for is settled: the awaited answer came after all, or a person helped.
    Resumed,
    /// A person intervened; what follows from it is in the events after this one.
    Intervened {
        /// How.
        operation: OperationName,
        /// On which step, where one was named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// It goes on under another version of its definition.
    Migrated {
        /// The version it was on.
        from: i32,
        /// The version it is on now.
        to: i32,
        /// That version's hash.
        hash: String,
        /// That version's steps, in order.
        steps: Vec<String>,
        /// The data as that version has it.
        data: Value,
        /// That version's tags; none where they stay as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tags: Option<BTreeMap<String, String>>,
    },
    /// The saga's own time is up.
    DeadlinePassed,
    /// Every step took effect.
    Completed,
    /// Everything that took effect was undone.
    Compensated,
    /// A person gave it up.
    Abandoned,
    /// A reply counted although it cannot be true: its compensation found nothing to undo of an
    /// action that had said it took effect.
    AnomalyFound {
        /// The step.
        step: String,
        /// The round.
        round: i32,
        /// What the compensation said.
        outcome: Outcome,
    },
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
        /// [`Answer::digest`], where it is the first to say that an action which is being undone
        /// took effect: then it is remembered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    },
}

impl Event {
    /// Whether the saga claims less after it: only what its state lists.
    pub(crate) fn gives_up_claims(&self) -> bool {
        matches!(
            self,
            Self::CompensationStarted { .. }
                | Self::Completed
                | Self::Compensated
                | Self::Abandoned
        )
    }

    /// The word for it, as in its JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::LockRequested(_) => "lock_requested",
            Self::LockGranted { .. } => "lock_granted",
            Self::LockRefused { .. } => "lock_refused",
            Self::StepSkipped { .. } => "step_skipped",
            Self::CommandSent { .. } => "command_sent",
            Self::ProbeSent { .. } => "probe_sent",
            Self::AttemptTimedOut { .. } => "attempt_timed_out",
            Self::RetryPlanned { .. } => "retry_planned",
            Self::ActionSucceeded { .. } => "action_succeeded",
            Self::ActionFailed { .. } => "action_failed",
            Self::ActionUnknown { .. } => "action_unknown",
            Self::RoundPlanned { .. } => "round_planned",
            Self::CompensationStarted { .. } => "compensation_started",
            Self::StepCompensated { .. } => "step_compensated",
            Self::StepNullCompensated { .. } => "step_null_compensated",
            Self::CompensationSkipped { .. } => "compensation_skipped",
            Self::Parked { .. } => "parked",
            Self::Resumed => "resumed",
            Self::Intervened { .. } => "intervened",
            Self::Migrated { .. } => "migrated",
            Self::DeadlinePassed => "deadline_passed",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Abandoned => "abandoned",
            Self::AnomalyFound { .. } => "anomaly_found",
            Self::Ignored { .. } => "ignored",
        }
    }
}
