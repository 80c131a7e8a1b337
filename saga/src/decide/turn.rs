//! One decision in the making: what a reply, a timer or a lock means for the step it is about.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    Error,
    decide::{Decision, Effect, ignored},
    definition::{Class, Plan, PlanStep, Unreadable},
    event::{Answer, Attempt, Event, IgnoredBecause, LockAnswer, Reply, Timer},
    instance::{Instance, Status, StepStatus, WaitingFor},
    locks::Claim,
    operation::{Operation, Phase},
    wire::{Outcome, Refusal},
};

/// What was recorded so far is already folded into `now`.
pub(crate) struct Turn<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) now: Instance,
    pub(crate) decision: Decision,
}

impl<'a> Turn<'a> {
    pub(crate) fn reply(&mut self, reply: &Reply) -> Result<(), Error> {
        let Reply { operation, answer } = reply;
        if !self.now.awaits(operation) || !ignored::fits(operation.phase, answer) {
            self.ignore(reply, ignored::why(&self.now, reply));
            return Ok(());
        }
        let step = self.plan.step(&operation.step)?;
        let round = operation.round;
        let data = match answer {
            Answer::Succeeded { kind, payload } => match self.fold(step, kind, payload) {
                Ok(data) => Some(data),
                Err(error) => {
                    self.unreadable(step, reply, &error);
                    return Ok(());
                }
            },
            Answer::Unreadable { kind, reason, .. } => {
                let error = Error::Reply {
                    step: step.name.clone(),
                    kind: kind.clone(),
                    reason: reason.clone(),
                };
                self.unreadable(step, reply, &error);
                return Ok(());
            }
            _ => None,
        };
        self.resume_after(&step.name);
        self.clear_timer(step, operation.phase);
        match answer {
            Answer::Succeeded { .. } => {
                let answer = Some(answer.digest());
                self.succeeded(step, round, data.unwrap_or_default(), answer);
            }
            Answer::Failed(refusal) => self.failed(step, round, refusal, answer.digest()),
            Answer::Unreadable { .. } => {}
            // The participant will never carry it out: as good as a refusal.
            Answer::Tombstoned => self.failed(step, round, &tombstoned(step), answer.digest()),
            Answer::Compensated => self.undone(step, round),
            Answer::NullCompensated => self.nothing_to_undo(step, round),
        }
        self.advance()
    }

    pub(crate) fn timer(&mut self, timer: &Timer) -> Result<(), Error> {
        if self.now.status.is_terminal() {
            return Ok(());
        }
        match timer {
            Timer::Deadline => self.deadline_passed(),
            Timer::Lock { resource } => {
                let resource = resource.clone();
                let granted = true;
                return self.lock(&LockAnswer { resource, granted });
            }
            // Whatever it is, it waits until the saga is resumed, which sets its timers anew.
            Timer::Attempt(_) if self.now.paused => return Ok(()),
            Timer::Attempt(attempt) => self.attempt_is_due(attempt)?,
        }
        self.advance()
    }

    pub(crate) fn lock(&mut self, answer: &LockAnswer) -> Result<(), Error> {
        let resource = &answer.resource;
        let awaited = self.now.locks.iter();
        let awaited = awaited.filter(|lock| !lock.held && lock.resource == *resource);
        if awaited.count() == 0 {
            return Ok(());
        }
        let resource = resource.clone();
        if answer.granted {
            self.record(Event::LockGranted { resource });
        } else {
            let reason = format!("it asks for more of {resource} than there is");
            self.record(Event::LockRefused { resource });
            self.turn_back(reason);
        }
        self.advance()
    }

    /// Asks for resources at the start.
    pub(crate) fn ask_for(&mut self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        for claim in &claims {
            self.record(Event::LockRequested(claim.clone()));
        }
        self.effect(Effect::Acquire(claims));
    }

    fn attempt_is_due(&mut self, due: &Attempt) -> Result<(), Error> {
        let state = self.now.step(&due.step);
        let meant = state.filter(|state| {
            state.phase() == due.phase
                && state.awaited_round() == due.round
                && state.attempt == due.attempt
        });
        let Some(waiting) = meant.and_then(|state| state.waiting) else {
            return Ok(());
        };
        let step = self.plan.step(&due.step)?;
        match waiting {
            WaitingFor::Reply => self.timed_out(step, due),
            WaitingFor::Probe => self.probe_timed_out(step, due),
            WaitingFor::Backoff | WaitingFor::Round => {
                self.send(step, due.phase, due.round, due.attempt)
            }
            WaitingFor::LateReply | WaitingFor::Person | WaitingFor::Lock | WaitingFor::Relay => {
                Ok(())
            }
        }
    }

    pub(crate) fn succeeded(
        &mut self,
        step: &PlanStep,
        round: i32,
        data: Value,
        answer: Option<String>,
    ) {
        self.record(Event::ActionSucceeded {
            step: step.name.clone(),
            round,
            data,
            answer,
        });
        self.settled(step, StepStatus::Succeeded);
    }

    fn failed(&mut self, step: &PlanStep, round: i32, refusal: &Refusal, answer: String) {
        self.record(Event::ActionFailed {
            step: step.name.clone(),
            round,
            refusal: refusal.clone(),
            answer: Some(answer),
        });
        match &step.class {
            Class::Compensatable(_) | Class::Pivot => self.turn_back(refusal.message.clone()),
            Class::Retriable { rounds } if round < *rounds => self.plan_round(step, round),
            Class::Retriable { rounds } => {
                let reason = format!(
                    "{} was refused in each of {rounds} rounds, at last: {}",
                    step.name, refusal.message
                );
                self.park(step, reason, false);
            }
        }
    }

    fn undone(&mut self, step: &PlanStep, round: i32) {
        self.record(Event::StepCompensated {
            step: step.name.clone(),
            round,
        });
        self.settled(step, StepStatus::Compensated);
    }

    fn nothing_to_undo(&mut self, step: &PlanStep, round: i32) {
        // Its action said that it took effect, or it would have no answer and be `unknown`.
        if self
            .now
            .step(&step.name)
            .is_some_and(|s| s.answer.is_some())
        {
            self.record(Event::AnomalyFound {
                step: step.name.clone(),
                round,
                outcome: Outcome::NullCompensated,
            });
        }
        self.record(Event::StepNullCompensated {
            step: step.name.clone(),
            round,
        });
        self.settled(step, StepStatus::NullCompensated);
    }

    fn timed_out(&mut self, step: &PlanStep, due: &Attempt) -> Result<(), Error> {
        self.record(attempt_timed_out(due));
        if due.attempt < step.attempts_of(due.phase) {
            self.plan_retry(step, due);
            return Ok(());
        }
        match (due.phase, &step.class) {
            (Phase::Action, Class::Compensatable(_)) => {
                self.clear_timer(step, due.phase);
                self.unknown(&step.name, due.round);
                self.turn_back(format!("{} did not answer in time", step.name));
            }
            (Phase::Action, Class::Pivot) if step.probes > 0 => {
                return self.probe(step, due.round, due.attempt + 1);
            }
            (Phase::Action, Class::Pivot | Class::Retriable { .. }) => {
                self.park_unanswered(step, due.round);
            }
            (Phase::Compensation, _) => {
                self.clear_timer(step, due.phase);
                let reason = format!("the compensation of {} did not answer in time", step.name);
                self.park(step, reason, true);
            }
        }
        Ok(())
    }

    fn probe_timed_out(&mut self, step: &PlanStep, due: &Attempt) -> Result<(), Error> {
        self.record(attempt_timed_out(due));
        if due.attempt < step.attempts.saturating_add(step.probes) {
            return self.probe(step, due.round, due.attempt + 1);
        }
        self.park_unanswered(step, due.round);
        Ok(())
    }

    fn park_unanswered(&mut self, step: &PlanStep, round: i32) {
        self.clear_timer(step, Phase::Action);
        self.unknown(&step.name, round);
        self.park(step, format!("{} did not answer in time", step.name), true);
    }

    pub(crate) fn unknown(&mut self, step: &str, round: i32) {
        self.record(Event::ActionUnknown {
            step: step.to_owned(),
            round,
        });
    }

    /// Late, and as long as there is a way back, called off.
    fn deadline_passed(&mut self) {
        // The timer may be from a version that had a deadline.
        if self.now.late || self.plan.deadline.is_none() {
            return;
        }
        self.record(Event::DeadlinePassed);
        if self.now.reason.is_none() && !self.is_committed() {
            self.resume();
            self.turn_back("its deadline passed".to_owned());
        }
    }

    fn plan_retry(&mut self, step: &PlanStep, due: &Attempt) {
        let next = Attempt {
            attempt: due.attempt + 1,
            ..due.clone()
        };
        self.record(Event::RetryPlanned {
            step: next.step.clone(),
            phase: next.phase,
            round: next.round,
            attempt: next.attempt,
        });
        let operation = self.now.operation(&step.name, due.phase, due.round);
        let after = step
            .backoff_of(due.phase)
            .after(due.attempt, operation.key());
        let timer = Timer::Attempt(next);
        self.effect(Effect::SetTimer { timer, after });
    }

    fn plan_round(&mut self, step: &PlanStep, refused: i32) {
        let round = refused + 1;
        self.record(Event::RoundPlanned {
            step: step.name.clone(),
            round,
        });
        let operation = self.now.operation(&step.name, Phase::Action, round);
        let after = step.backoff.after(refused, operation.key());
        let timer = Timer::Attempt(attempt(step, Phase::Action, round, 1));
        self.effect(Effect::SetTimer { timer, after });
    }

    fn park(&mut self, step: &PlanStep, reason: String, awaits_reply: bool) {
        self.record(Event::Parked {
            step: step.name.clone(),
            reason: reason.clone(),
            awaits_reply,
        });
        self.effect(Effect::Parked { reason });
    }

    /// An answer counts and says nothing that we understand: nobody but a person can help, and no
    /// other saga has to wait for that.
    fn unreadable(&mut self, step: &PlanStep, reply: &Reply, error: &Error) {
        let state = self.now.step(&step.name);
        if state.is_some_and(|s| s.waiting == Some(WaitingFor::LateReply)) {
            self.ignore(reply, IgnoredBecause::Unreadable);
            return;
        }
        self.clear_timer(step, reply.operation.phase);
        self.park(step, error.to_string(), true);
    }

    /// A parked saga goes on unless another step than this one keeps it.
    pub(crate) fn resume_after(&mut self, settled: &str) {
        let others = self
            .now
            .steps
            .iter()
            .any(|step| step.name != settled && step.waiting.is_some_and(WaitingFor::is_stuck));
        if !others {
            self.resume();
        }
    }

    pub(crate) fn resume(&mut self) {
        if self.now.status == Status::Parked {
            self.record(Event::Resumed);
        }
    }

    fn fold(&self, step: &PlanStep, kind: &str, payload: &[u8]) -> Result<Value, Error> {
        let unreadable = |reason| Error::Reply {
            step: step.name.clone(),
            kind: kind.to_owned(),
            reason,
        };
        if kind != step.reply_kind {
            return Err(unreadable(format!("expected the kind {}", step.reply_kind)));
        }
        self.fold_payload(step, payload)
            .map_err(|error| match error {
                Unreadable::Data(reason) => self.plan.unreadable(reason),
                Unreadable::Reply(reason) => unreadable(reason),
            })
    }

    pub(crate) fn fold_payload(
        &self,
        step: &PlanStep,
        payload: &[u8],
    ) -> Result<Value, Unreadable> {
        (step.fold)(&self.now.data, payload)
    }

    /// Nothing is recorded once there is enough of it: whoever answers for ever must not make a
    /// history that grows for ever.
    fn ignore(&mut self, reply: &Reply, reason: IgnoredBecause) {
        let answer = ignored::remembered(&self.now, reply);
        if answer.is_none() && self.now.ignored >= ignored::most(reason) {
            return;
        }
        let Operation {
            step, phase, round, ..
        } = &reply.operation;
        self.record(Event::Ignored {
            reason,
            step: step.clone(),
            phase: *phase,
            round: *round,
            outcome: reply.answer.outcome(),
            answer,
        });
    }

    pub(crate) fn settled(&mut self, step: &PlanStep, status: StepStatus) {
        self.effect(Effect::StepSettled {
            step: step.name.clone(),
            status,
        });
    }

    pub(crate) fn record(&mut self, event: Event) {
        self.now.apply(&event);
        self.decision.events.push(event);
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.decision.effects.push(effect);
    }

    pub(crate) fn clear_timer(&mut self, step: &PlanStep, phase: Phase) {
        self.effect(Effect::ClearTimer {
            step: step.name.clone(),
            phase,
        });
    }
}

impl Plan {
    /// What a saga with this data is to be found by.
    pub(crate) fn tags_of(&self, data: &Value) -> Result<BTreeMap<String, String>, Error> {
        let tags = self.tags.as_ref().map(|tags| tags(data)).transpose();
        Ok(tags
            .map_err(|reason| self.unreadable(reason))?
            .unwrap_or_default())
    }

    /// What a saga with this data claims, each resource once.
    pub(crate) fn claims_of(&self, data: &Value) -> Result<Vec<Claim>, Error> {
        let claims = self.locks.iter().map(|claim| claim(data));
        let claims = claims.collect::<Result<_, _>>();
        Claim::merged(claims.map_err(|reason| self.unreadable(reason))?)
    }

    pub(crate) fn unreadable(&self, reason: String) -> Error {
        Error::Data {
            definition: self.name.clone(),
            reason,
        }
    }
}

pub(crate) fn attempt(step: &PlanStep, phase: Phase, round: i32, attempt: i32) -> Attempt {
    Attempt {
        step: step.name.clone(),
        phase,
        round,
        attempt,
    }
}

fn attempt_timed_out(due: &Attempt) -> Event {
    Event::AttemptTimedOut {
        step: due.step.clone(),
        phase: due.phase,
        round: due.round,
        attempt: due.attempt,
    }
}

fn tombstoned(step: &PlanStep) -> Refusal {
    Refusal::new(
        "tombstoned",
        format!("{} was called off before it was carried out", step.name),
    )
}
