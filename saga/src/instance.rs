//! Where a saga stands: the fold of its history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    event::Event,
    intervention::OperationName,
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
        /// Left out: its condition did not hold.
        Skipped = "skipped",
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
        /// A person said that it needs no undoing.
        CompensationSkipped = "compensation_skipped",
    }
}

impl StepStatus {
    /// Whether it took effect or may have, and was not undone.
    #[must_use]
    pub fn may_have_effect(self) -> bool {
        matches!(
            self,
            Self::Running | Self::Succeeded | Self::Unknown | Self::Compensating
        )
    }
}

/// The answer of an action that a person took for done: unlike any digest.
const BY_HAND: &str = "by hand";

words! {
    /// What a saga waits for.
    pub enum WaitingFor {
        /// The answer to an attempt, until it is overdue.
        Reply = "reply",
        /// The moment to send the same operation again; an answer meanwhile counts.
        Backoff = "backoff",
        /// The moment to begin a new round; the former one is settled.
        Round = "round",
        /// The answer to the question what became of it.
        Probe = "probe",
        /// Units of a resource that others hold.
        Lock = "lock",
        /// Parked: an answer that comes after all, or a person.
        LateReply = "late_reply",
        /// Parked: a person.
        Person = "person",
        /// The relay, which has not sent the command yet. Only shown: to the decisions it is the answer
        /// that the saga waits for.
        Relay = "relay",
    }
}

impl WaitingFor {
    /// Whether an answer to the awaited operation counts.
    fn counts_replies(self) -> bool {
        matches!(
            self,
            Self::Reply | Self::Backoff | Self::Probe | Self::LateReply
        )
    }

    /// Whether nothing but a person, or an answer nobody counts on any more, helps.
    #[must_use]
    pub fn is_stuck(self) -> bool {
        matches!(self, Self::LateReply | Self::Person)
    }
}

/// What a saga waits for, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// For what.
    #[serde(rename = "for")]
    pub what: WaitingFor,
    /// Of which step; for a lock, the resource; empty for a paused saga that would send something,
    /// and for one that is parked as a whole.
    pub step: String,
    /// Forwards or back.
    pub phase: Phase,
    /// In which round.
    pub round: i32,
    /// The attempt under way, or the one to be made next.
    pub attempt: i32,
}

impl Waiting {
    /// No step of it waits for anything.
    fn for_a_person() -> Self {
        Self {
            what: WaitingFor::Person,
            step: String::new(),
            phase: Phase::Action,
            round: 0,
            attempt: 0,
        }
    }
}

/// Where one step stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepState {
    /// The step, by name.
    pub name: String,
    /// Where it stands.
    pub status: StepStatus,
    /// The last round that was sent; 0 if none was.
    pub round: i32,
    /// The last attempt of it, in the phase it is in; while it waits to go on, the one to come.
    pub attempt: i32,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingFor>,
    /// What its action was answered, as [`Answer::digest`](crate::event::Answer::digest); `by hand`
    /// where a person took it for done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl StepState {
    fn pending(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            status: StepStatus::Pending,
            round: 0,
            attempt: 0,
            waiting: None,
            answer: None,
        }
    }

    /// Which of its operations it is at.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.status {
            StepStatus::Compensating => Phase::Compensation,
            _ => Phase::Action,
        }
    }

    /// The round that it waits for or is in: one more than the last while the next is planned.
    #[must_use]
    pub fn awaited_round(&self) -> i32 {
        match self.waiting {
            Some(WaitingFor::Round) => self.round + 1,
            _ => self.round,
        }
    }
}

/// Units of a resource that a saga holds or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LockState {
    /// The resource.
    pub resource: String,
    /// How much of it.
    pub units: i64,
    /// Whether it has them.
    pub held: bool,
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
    /// Names and values to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Where it stands.
    pub status: Status,
    /// Whether a person wants it to send nothing.
    #[serde(default)]
    pub paused: bool,
    /// Whether its deadline has passed.
    #[serde(default)]
    pub late: bool,
    /// Why it turned back, for a person.
    pub reason: Option<String>,
    /// Why it is parked, for a person.
    pub parked_reason: Option<String>,
    /// Whether it is parked as a whole, because its row, a reply or a timer could not be decided:
    /// nothing is decided about it until a person retries, cancels or abandons it.
    #[serde(default)]
    pub stopped: bool,
    /// What it knows, every reply folded in.
    pub data: Value,
    /// Where each step stands, in the definition's order.
    pub steps: Vec<StepState>,
    /// The resources it holds or waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<LockState>,
    /// How many replies that changed nothing are in its history.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ignored: i32,
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
            tags,
        } = event
        else {
            return None;
        };
        Some(Self {
            id,
            definition: definition.clone(),
            version: *version,
            hash: hash.clone(),
            business_key: business_key.clone(),
            tags: tags.clone(),
            status: Status::Running,
            paused: false,
            late: false,
            reason: None,
            parked_reason: None,
            stopped: false,
            data: data.clone(),
            steps: steps.iter().map(|name| StepState::pending(name)).collect(),
            locks: Vec::new(),
            ignored: 0,
            seq: 1,
        })
    }

    /// Folds one more event in. Total: whatever the event, there is a next state.
    pub fn apply(&mut self, event: &Event) {
        self.seq += 1;
        match event {
            Event::Started { .. }
            | Event::AttemptTimedOut { .. }
            | Event::AnomalyFound { .. }
            | Event::LockRefused { .. } => {}
            Event::Ignored { step, answer, .. } => {
                self.ignored = self.ignored.saturating_add(1);
                if answer.is_some() {
                    self.on_step(step, |step| step.answer.clone_from(answer));
                }
            }
            Event::LockRequested(claim) => self.locks.push(LockState {
                resource: claim.resource.clone(),
                units: claim.units,
                held: false,
            }),
            Event::LockGranted { resource } => {
                let locks = self.locks.iter_mut().filter(|l| l.resource == *resource);
                locks.for_each(|lock| lock.held = true);
            }
            Event::StepSkipped { step } => self.settle(step, StepStatus::Skipped, None),
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
                self.on_step(step, |step| {
                    if step.round != *round {
                        step.answer = None;
                    }
                    step.status = status;
                    step.round = *round;
                    step.attempt = *attempt;
                    step.waiting = Some(WaitingFor::Reply);
                });
            }
            Event::ProbeSent { step, attempt, .. } => self.on_step(step, |step| {
                step.attempt = *attempt;
                step.waiting = Some(WaitingFor::Probe);
            }),
            Event::RetryPlanned { step, attempt, .. } => self.on_step(step, |step| {
                step.attempt = *attempt;
                step.waiting = Some(WaitingFor::Backoff);
            }),
            Event::RoundPlanned { step, .. } => self.on_step(step, |step| {
                step.attempt = 1;
                step.waiting = Some(WaitingFor::Round);
            }),
            Event::ActionSucceeded {
                step, data, answer, ..
            } => {
                let answer = answer.clone().unwrap_or_else(|| BY_HAND.to_owned());
                self.settle(step, StepStatus::Succeeded, Some(answer));
                self.data.clone_from(data);
            }
            Event::ActionFailed { step, answer, .. } => {
                self.settle(step, StepStatus::Failed, answer.clone());
            }
            Event::ActionUnknown { step, .. } => self.settle(step, StepStatus::Unknown, None),
            Event::CompensationStarted { reason } => {
                self.status = Status::Compensating;
                self.reason = Some(reason.clone());
                // What it holds stays held to the end; what it waits for it needs no more.
                self.locks.retain(|lock| lock.held);
            }
            Event::StepCompensated { step, .. } => self.undo(step, StepStatus::Compensated),
            Event::StepNullCompensated { step, .. } => {
                self.undo(step, StepStatus::NullCompensated);
            }
            Event::CompensationSkipped { step, .. } => {
                self.undo(step, StepStatus::CompensationSkipped);
            }
            Event::Parked {
                step,
                reason,
                awaits_reply,
            } => {
                self.status = Status::Parked;
                self.parked_reason = Some(reason.clone());
                let what = match awaits_reply {
                    true => WaitingFor::LateReply,
                    false => WaitingFor::Person,
                };
                self.stopped |= step.is_empty();
                self.on_step(step, |step| step.waiting = Some(what));
            }
            Event::Resumed => {
                let stopped = std::mem::take(&mut self.stopped);
                // What kept it parked before it was stopped still does.
                if !(stopped && self.has_stuck_step()) {
                    self.status = match self.reason {
                        Some(_) => Status::Compensating,
                        None => Status::Running,
                    };
                    self.parked_reason = None;
                }
            }
            Event::Intervened { operation, .. } => match operation {
                OperationName::Pause => self.paused = true,
                OperationName::Resume => self.paused = false,
                _ => {}
            },
            Event::Migrated {
                to,
                hash,
                steps,
                data,
                tags,
                ..
            } => {
                let mut known = std::mem::take(&mut self.steps);
                let state = |name: &String| {
                    let place = known.iter().position(|step| step.name == *name);
                    place.map_or_else(|| StepState::pending(name), |at| known.swap_remove(at))
                };
                self.steps = steps.iter().map(state).collect();
                self.version = *to;
                self.hash.clone_from(hash);
                self.data.clone_from(data);
                if let Some(tags) = tags {
                    self.tags.clone_from(tags);
                }
            }
            Event::DeadlinePassed => self.late = true,
            Event::Completed => self.end(Status::Completed),
            Event::Compensated => self.end(Status::Compensated),
            Event::Abandoned => self.end(Status::Abandoned),
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
            && self.step(&operation.step).is_some_and(|step| {
                step.waiting.is_some_and(WaitingFor::counts_replies)
                    && step.phase() == operation.phase
                    && step.round == operation.round
            })
    }

    /// What it waits for, in one line: what keeps it parked before what is under way. None once it
    /// has ended.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        if self.status.is_terminal() {
            return None;
        }
        if self.stopped {
            return Some(Waiting::for_a_person());
        }
        let stuck = self.steps.iter().find(|step| is_stuck(step));
        let lock = self.awaited_lock();
        let waiting = self.steps.iter().find(|step| step.waiting.is_some());
        Some(match (stuck, lock, waiting) {
            (Some(step), _, _) | (None, None, Some(step)) => Waiting {
                what: step.waiting.unwrap_or(WaitingFor::Person),
                step: step.name.clone(),
                phase: step.phase(),
                round: step.awaited_round(),
                attempt: step.attempt,
            },
            (None, Some(lock), _) => Waiting {
                what: WaitingFor::Lock,
                step: lock.resource.clone(),
                phase: Phase::Action,
                round: 0,
                attempt: 0,
            },
            // Paused before it could send anything.
            (None, None, None) => Waiting::for_a_person(),
        })
    }

    /// What it claims and does not have. A resource that it holds it has, however often it is listed.
    pub(crate) fn awaited_lock(&self) -> Option<&LockState> {
        let holds = |resource: &str| self.locks.iter().any(|l| l.held && l.resource == resource);
        self.locks
            .iter()
            .find(|lock| !lock.held && !holds(&lock.resource))
    }

    /// Whether some step keeps it parked.
    pub(crate) fn has_stuck_step(&self) -> bool {
        self.steps.iter().any(is_stuck)
    }

    fn on_step(&mut self, name: &str, change: impl FnOnce(&mut StepState)) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.name == name) {
            change(step);
        }
    }

    /// An action has come to something.
    fn settle(&mut self, name: &str, status: StepStatus, answer: Option<String>) {
        self.on_step(name, |step| {
            step.status = status;
            step.waiting = None;
            step.answer = answer;
        });
    }

    /// A compensation has come to something; what its action was answered stays known.
    fn undo(&mut self, name: &str, status: StepStatus) {
        self.on_step(name, |step| {
            step.status = status;
            step.waiting = None;
        });
    }

    fn end(&mut self, status: Status) {
        self.status = status;
        self.parked_reason = None;
        self.stopped = false;
        self.paused = false;
        self.locks.clear();
        self.steps.iter_mut().for_each(|step| step.waiting = None);
    }
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn is_stuck(step: &StepState) -> bool {
    step.waiting.is_some_and(WaitingFor::is_stuck)
}
