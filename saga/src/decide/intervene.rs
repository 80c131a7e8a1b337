//! What a person may do to a saga, and what follows from it.

use crate::{
    Error,
    decide::{
        Effect,
        turn::{Turn, attempt},
    },
    definition::{Plan, Unreadable},
    event::{Event, Timer},
    instance::{Instance, Status, StepState, StepStatus, WaitingFor},
    intervention::{Intervention, OperationName, What},
    operation::Phase,
};

/// Whether a person may do one thing now, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// What.
    pub operation: OperationName,
    /// Why not; none if it is allowed.
    pub refused_because: Option<String>,
}

/// Everything a person might do, each with whether it is allowed now. An operation on a step is
/// allowed if there is a step to which it can be done.
#[must_use]
pub fn allowed(plan: &Plan, instance: &Instance) -> Vec<Allowed> {
    let turn = Turn {
        plan,
        now: instance.clone(),
        decision: crate::decide::Decision::default(),
    };
    let names = OperationName::ALL.iter();
    let allowed = names.map(|name| Allowed {
        operation: *name,
        refused_because: turn.obstacle(*name),
    });
    allowed.collect()
}

impl Turn<'_> {
    pub(crate) fn intervene(&mut self, intervention: &Intervention) -> Result<(), Error> {
        let what = &intervention.what;
        let name = what.name();
        if let Some(reason) = self.obstacle(name) {
            return Err(not_allowed(name, reason));
        }
        match what {
            What::Pause {} => self.note(intervention),
            What::Resume {} => {
                let paused = self.now.paused;
                self.note(intervention);
                if self.now.stopped {
                    self.resume();
                }
                if paused {
                    self.set_timers_anew()?;
                }
            }
            What::Cancel {} => {
                self.note(intervention);
                self.turn_back(format!(
                    "cancelled by {}: {}",
                    intervention.actor, intervention.reason
                ));
            }
            // The reply or timer that could not be decided is decided again.
            What::Retry { .. } if self.now.stopped => {
                self.note(intervention);
                self.resume();
            }
            What::Retry { step } => self.retry(intervention, step.as_deref())?,
            What::CompleteStep { step, reply } => self.complete(intervention, step, reply)?,
            What::SkipCompensation { step } => self.skip_compensation(intervention, step)?,
            What::Abandon {} => {
                self.note(intervention);
                self.record(Event::Abandoned);
                self.effect(Effect::Ended(Status::Abandoned));
            }
            What::Migrate { .. } => {
                let reason = "a migration needs both versions: it is decided elsewhere";
                return Err(not_allowed(name, reason.to_owned()));
            }
        }
        self.advance()
    }

    /// Why it cannot be done; none if it can.
    fn obstacle(&self, name: OperationName) -> Option<String> {
        let now = &self.now;
        if now.status.is_terminal() {
            return Some(format!("the saga is {} already", now.status));
        }
        let mut steps = now.steps.iter();
        let refused = match name {
            OperationName::Pause => now.paused.then_some("it is paused already"),
            OperationName::Resume => (!now.paused && !now.stopped).then_some("it is not paused"),
            OperationName::Cancel if now.reason.is_some() => Some("it has turned back already"),
            OperationName::Cancel => self
                .is_committed()
                .then_some("a step was sent that cannot be undone"),
            OperationName::Retry if now.paused => Some("it is paused; resume it"),
            OperationName::Retry if now.stopped => None,
            OperationName::Retry => {
                (!steps.any(can_be_retried)).then_some("no step waits to be done again")
            }
            OperationName::CompleteStep => {
                (!steps.any(can_be_completed)).then_some("no step's action is open")
            }
            OperationName::SkipCompensation => {
                (!steps.any(can_be_skipped)).then_some("no compensation is open")
            }
            OperationName::Abandon | OperationName::Migrate => None,
        };
        refused.map(str::to_owned)
    }

    fn note(&mut self, intervention: &Intervention) {
        self.record(noted(intervention));
    }

    /// A paused saga's timers came to nothing. An answer gets its whole time once more, what waited
    /// to go on goes on.
    fn set_timers_anew(&mut self) -> Result<(), Error> {
        for state in self.now.steps.clone() {
            let step = self.plan.step(&state.name)?;
            let (phase, round) = (state.phase(), state.awaited_round());
            match state.waiting {
                Some(WaitingFor::Reply | WaitingFor::Probe) => {
                    self.await_answer(step, phase, round, state.attempt);
                }
                Some(WaitingFor::Backoff | WaitingFor::Round) => {
                    let timer = Timer::Attempt(attempt(step, phase, round, state.attempt));
                    let after = std::time::Duration::ZERO;
                    self.effect(Effect::SetTimer { timer, after });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn retry(&mut self, intervention: &Intervention, only: Option<&str>) -> Result<(), Error> {
        let steps = self.now.steps.iter();
        let steps = steps.filter(|s| only.is_none_or(|only| s.name == only) && can_be_retried(s));
        let steps: Vec<StepState> = steps.cloned().collect();
        if steps.is_empty() {
            let step = only.unwrap_or_default();
            return Err(self.not_on(OperationName::Retry, step, "does not wait to be done again"));
        }
        self.note(intervention);
        for state in steps {
            self.resume_after(&state.name);
            let step = self.plan.step(&state.name)?;
            let phase = state.phase();
            match state.waiting {
                // The former round is settled, or this would be an operation with two outcomes.
                Some(WaitingFor::Person) => self.send(step, phase, state.round + 1, 1)?,
                Some(WaitingFor::LateReply) => self.send(step, phase, state.round, 1)?,
                _ => self.send(step, phase, state.awaited_round(), state.attempt)?,
            }
        }
        Ok(())
    }

    fn complete(
        &mut self,
        intervention: &Intervention,
        name: &str,
        reply: &serde_json::Value,
    ) -> Result<(), Error> {
        let operation = OperationName::CompleteStep;
        let state = self.now.step(name).filter(|step| can_be_completed(step));
        let Some(round) = state.map(StepState::awaited_round) else {
            return Err(self.not_on(operation, name, "has no open action"));
        };
        let step = self.plan.step(name)?;
        let payload = reply.to_string();
        let data = self.fold_payload(step, payload.as_bytes());
        let data = data.map_err(|error| match error {
            Unreadable::Data(reason) => self.plan.unreadable(reason),
            Unreadable::Reply(reason) => not_allowed(
                operation,
                format!("the reply is not a {}: {reason}", step.reply_kind),
            ),
        })?;
        self.note(intervention);
        self.resume_after(name);
        self.clear_timer(step, Phase::Action);
        self.succeeded(step, round, data, None);
        Ok(())
    }

    fn skip_compensation(&mut self, intervention: &Intervention, name: &str) -> Result<(), Error> {
        let state = self.now.step(name).filter(|step| can_be_skipped(step));
        let Some(round) = state.map(|step| step.round) else {
            let operation = OperationName::SkipCompensation;
            return Err(self.not_on(operation, name, "has no open compensation"));
        };
        let step = self.plan.step(name)?;
        self.note(intervention);
        self.resume_after(name);
        self.clear_timer(step, Phase::Compensation);
        self.record(Event::CompensationSkipped {
            step: name.to_owned(),
            round,
        });
        self.settled(step, StepStatus::CompensationSkipped);
        Ok(())
    }

    fn not_on(&self, operation: OperationName, step: &str, why: &str) -> Error {
        let reason = match self.now.step(step) {
            Some(_) => format!("{step} {why}"),
            None => format!("there is no step {step}"),
        };
        not_allowed(operation, reason)
    }
}

/// What is recorded of an intervention before what follows from it.
pub(crate) fn noted(intervention: &Intervention) -> Event {
    Event::Intervened {
        operation: intervention.what.name(),
        step: intervention.what.step().map(str::to_owned),
        actor: intervention.actor.clone(),
        reason: intervention.reason.clone(),
    }
}

pub(crate) fn not_allowed(operation: OperationName, reason: String) -> Error {
    Error::NotAllowed { operation, reason }
}

fn can_be_retried(step: &StepState) -> bool {
    step.waiting.is_some_and(|waiting| {
        waiting.is_stuck() || matches!(waiting, WaitingFor::Backoff | WaitingFor::Round)
    })
}

fn can_be_completed(step: &StepState) -> bool {
    step.waiting.is_some() && step.phase() == Phase::Action
}

fn can_be_skipped(step: &StepState) -> bool {
    step.waiting.is_some() && step.phase() == Phase::Compensation
}
