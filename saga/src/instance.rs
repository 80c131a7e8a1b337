//! Where a saga stands: the fold of its history.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    event::Event,
    operation::{Operation, Phase},
    words::words,
};

words! {
    /// Where the whole saga stands.
    pub enum Status {
        /// Going forwards.
        Running = "running",
        /// Going back.
        Compensating = "compensating",
        /// Every step took effect. Final.
        Completed = "completed",
        /// Everything that took effect was undone. Final.
        Compensated = "compensated",
        /// Waiting for a person.
        Parked = "parked",
        /// An operator gave it up. Final.
        Abandoned = "abandoned",
    }
}

impl Status {
    /// Whether nothing can change any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated | Self::Abandoned)
    }
}

words! {
    /// Where one step stands.
    pub enum StepStatus {
        /// Never sent: it had no effect and needs no compensation.
        Pending = "pending",
        /// Its command is under way.
        Running = "running",
        /// It took effect.
        Succeeded = "succeeded",
        /// It was refused; nothing of it remains.
        Failed = "failed",
        /// Nobody knows; it counts as if it took effect.
        Unknown = "unknown",
        /// Its compensation is under way.
        Compensating = "compensating",
        /// It was undone.
        Compensated = "compensated",
        /// There was nothing to undo.
        NullCompensated = "null_compensated",
    }
}

words! {
    /// What a saga waits for.
    pub enum WaitingFor {
        /// The answer to an attempt, until it is overdue.
        Reply = "reply",
        /// The moment to send the same operation again; an answer meanwhile counts.
        Backoff = "backoff",
        /// The moment to begin a new round; the former one is settled.
        Round = "round",
        /// Parked: an answer that comes after all, or a person.
        LateReply = "late_reply",
        /// Parked: a person.
        Person = "person",
    }
}

impl WaitingFor {
    /// Whether an answer to the awaited operation counts.
    fn counts_replies(self) -> bool {
        matches!(self, Self::Reply | Self::Backoff | Self::LateReply)
    }
}

/// What a saga waits for, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// For what.
    #[serde(rename = "for")]
    pub what: WaitingFor,
    /// Of which step.
    pub step: String,
    /// Forwards or back.
    pub phase: Phase,
    /// In which round.
    pub round: i32,
    /// The attempt under way, or the one to be made next.
    pub attempt: i32,
}

/// Where one step stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// The step, by name.
    pub name: String,
    /// Where it stands.
    pub status: StepStatus,
    /// The last round that was sent; 0 if none was.
    pub round: i32,
    /// The last attempt of it, in the phase it is in.
    pub attempt: i32,
}

/// One saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id, given by whoever started it.
    pub id: Uuid,
    /// The definition's name.
    pub definition: String,
    /// The pinned version.
    pub version: i32,
    /// The pinned hash.
    pub hash: String,
    /// What it is about: unique in its definition.
    pub business_key: String,
    /// Where it stands.
    pub status: Status,
    /// Why it turned back, for a person.
    pub reason: Option<String>,
    /// Why it is parked, for a person.
    pub parked_reason: Option<String>,
    /// What it knows, every reply folded in.
    pub data: Value,
    /// Where each step stands, in the definition's order.
    pub steps: Vec<StepState>,
    /// What it waits for; none once it has ended.
    pub waiting: Option<Waiting>,
    /// The number of events folded in.
    pub seq: i64,
}

impl Instance {
    /// Folds a whole history.
    ///
    /// None if it does not begin with [`Event::Started`].
    #[must_use]
    pub fn from_history<'a>(
        id: Uuid,
        history: impl IntoIterator<Item = &'a Event>,
    ) -> Option<Self> {
        let mut history = history.into_iter();
        let mut instance = Self::started(id, history.next()?)?;
        history.for_each(|event| instance.apply(event));
        Some(instance)
    }

    /// The state after the first event.
    pub(crate) fn started(id: Uuid, event: &Event) -> Option<Self> {
        let Event::Started {
            definition,
            version,
            hash,
            business_key,
            steps,
            data,
        } = event
        else {
            return None;
        };
        let pending = |name: &String| StepState {
            name: name.clone(),
            status: StepStatus::Pending,
            round: 0,
            attempt: 0,
        };
        Some(Self {
            id,
            definition: definition.clone(),
            version: *version,
            hash: hash.clone(),
            business_key: business_key.clone(),
            status: Status::Running,
            reason: None,
            parked_reason: None,
            data: data.clone(),
            steps: steps.iter().map(pending).collect(),
            waiting: None,
            seq: 1,
        })
    }

    /// Folds one more event in. Total: whatever the event, there is a next state.
    pub fn apply(&mut self, event: &Event) {
        self.seq += 1;
        match event {
            Event::Started { .. } | Event::AttemptTimedOut { .. } | Event::Ignored { .. } => {}
            Event::CommandSent {
                step,
                phase,
                round,
                attempt,
                ..
            } => {
                let status = match phase {
                    Phase::Action => StepStatus::Running,
                    Phase::Compensation => StepStatus::Compensating,
                };
                self.set_step(step, status, *round, Some(*attempt));
                self.wait(WaitingFor::Reply, step, *phase, *round, *attempt);
            }
            Event::RetryPlanned {
                step,
                phase,
                round,
                attempt,
            } => self.wait(WaitingFor::Backoff, step, *phase, *round, *attempt),
            Event::RoundPlanned { step, round } => {
                self.wait(WaitingFor::Round, step, Phase::Action, *round, 1);
            }
            Event::ActionSucceeded { step, round, data } => {
                self.set_step(step, StepStatus::Succeeded, *round, None);
                self.data.clone_from(data);
                self.waiting = None;
            }
            Event::ActionFailed { step, round, .. } => {
                self.set_step(step, StepStatus::Failed, *round, None);
            }
            Event::ActionUnknown { step, round } => {
                self.set_step(step, StepStatus::Unknown, *round, None);
            }
            Event::CompensationStarted { reason } => {
                self.status = Status::Compensating;
                self.reason = Some(reason.clone());
                self.waiting = None;
            }
            Event::StepCompensated { step, round } => {
                self.set_step(step, StepStatus::Compensated, *round, None);
                self.waiting = None;
            }
            Event::StepNullCompensated { step, round } => {
                self.set_step(step, StepStatus::NullCompensated, *round, None);
                self.waiting = None;
            }
            Event::Parked {
                reason,
                awaits_reply,
            } => {
                self.status = Status::Parked;
                self.parked_reason = Some(reason.clone());
                if let Some(waiting) = &mut self.waiting {
                    waiting.what = if *awaits_reply {
                        WaitingFor::LateReply
                    } else {
                        WaitingFor::Person
                    };
                }
            }
            Event::Resumed => {
                self.status = match self.waiting.as_ref().map(|waiting| waiting.phase) {
                    Some(Phase::Compensation) => Status::Compensating,
                    _ => Status::Running,
                };
                self.parked_reason = None;
            }
            Event::Completed => self.end(Status::Completed),
            Event::Compensated => self.end(Status::Compensated),
        }
    }

    /// The state of a step.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepState> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The operation of this saga with that step, phase and round.
    #[must_use]
    pub fn operation(&self, step: &str, phase: Phase, round: i32) -> Operation {
        Operation {
            saga_id: self.id,
            step: step.to_owned(),
            phase,
            round,
        }
    }

    /// Whether an answer to this operation, to whichever attempt at it, counts.
    #[must_use]
    pub fn awaits(&self, operation: &Operation) -> bool {
        self.id == operation.saga_id
            && self.waiting.as_ref().is_some_and(|waiting| {
                waiting.what.counts_replies()
                    && waiting.step == operation.step
                    && waiting.phase == operation.phase
                    && waiting.round == operation.round
            })
    }

    fn set_step(&mut self, name: &str, status: StepStatus, round: i32, attempt: Option<i32>) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.name == name) {
            step.status = status;
            step.round = round;
            step.attempt = attempt.unwrap_or(step.attempt);
        }
    }

    fn wait(&mut self, what: WaitingFor, step: &str, phase: Phase, round: i32, attempt: i32) {
        self.waiting = Some(Waiting {
            what,
            step: step.to_owned(),
            phase,
            round,
            attempt,
        });
    }

    fn end(&mut self, status: Status) {
        self.status = status;
        self.waiting = None;
        self.parked_reason = None;
    }
}
