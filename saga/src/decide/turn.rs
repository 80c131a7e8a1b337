//! One decision in the making, from the input to what is recorded and done.

use serde_json::Value;

use crate::{
    Error,
    decide::{Command, Decision, Effect, ignored},
    definition::{Class, Plan, PlanStep, Unreadable},
    event::{Answer, Event, Reply, Timer},
    instance::{Instance, Status, StepStatus, WaitingFor},
    operation::{Operation, Phase},
    wire::Refusal,
};

/// What was recorded so far is already folded into `now`.
pub(crate) struct Turn<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) now: Instance,
    pub(crate) decision: Decision,
}

impl Turn<'_> {
    pub(crate) fn reply(&mut self, reply: &Reply) -> Result<(), Error> {
        let Reply { operation, answer } = reply;
        if !self.now.awaits(operation) || !ignored::fits(operation.phase, answer) {
            self.ignore(reply);
            return Ok(());
        }
        let plan = self.plan;
        let step = plan.step(&operation.step)?;
        let round = operation.round;
        // Read before anything is recorded: an unreadable reply leaves no trace.
        let data = match answer {
            Answer::Succeeded { kind, payload } => Some(self.fold(step, kind, payload)?),
            _ => None,
        };
        if self.now.status == Status::Parked {
            self.record(Event::Resumed);
        }
        self.clear_timer(step, operation.phase);
        match answer {
            Answer::Succeeded { .. } => self.succeeded(step, round, data.unwrap_or_default()),
            Answer::Failed(refusal) => self.failed(step, round, refusal),
            // The participant will never carry it out: as good as a refusal.
            Answer::Tombstoned => self.failed(step, round, &tombstoned(step)),
            Answer::Compensated => {
                self.record(Event::StepCompensated {
                    step: step.name.clone(),
                    round,
                });
                self.compensate_next()
            }
            Answer::NullCompensated => {
                self.record(Event::StepNullCompensated {
                    step: step.name.clone(),
                    round,
                });
                self.compensate_next()
            }
        }
    }

    pub(crate) fn timer(&mut self, timer: &Timer) -> Result<(), Error> {
        let Some(waiting) = self.now.waiting.clone() else {
            return Ok(());
        };
        let meant = waiting.step == timer.step
            && waiting.phase == timer.phase
            && waiting.round == timer.round
            && waiting.attempt == timer.attempt;
        if !meant {
            return Ok(());
        }
        let plan = self.plan;
        let step = plan.step(&timer.step)?;
        match waiting.what {
            WaitingFor::Reply => self.timed_out(step, timer),
            WaitingFor::Backoff | WaitingFor::Round => {
                self.send(step, timer.phase, timer.round, timer.attempt)
            }
            WaitingFor::LateReply | WaitingFor::Person => Ok(()),
        }
    }

    fn succeeded(&mut self, step: &PlanStep, round: i32, data: Value) -> Result<(), Error> {
        self.record(Event::ActionSucceeded {
            step: step.name.clone(),
            round,
            data,
        });
        let plan = self.plan;
        match plan.step_after(&step.name) {
            Some(next) => self.send(next, Phase::Action, 1, 1)?,
            None => {
                self.record(Event::Completed);
                self.effect(Effect::Ended(Status::Completed));
            }
        }
        Ok(())
    }

    fn failed(&mut self, step: &PlanStep, round: i32, refusal: &Refusal) -> Result<(), Error> {
        self.record(Event::ActionFailed {
            step: step.name.clone(),
            round,
            refusal: refusal.clone(),
        });
        match &step.class {
            Class::Compensatable(_) | Class::Pivot => self.turn_back(refusal.message.clone()),
            Class::Retriable { rounds } if round < *rounds => {
                self.plan_round(step, round);
                Ok(())
            }
            Class::Retriable { rounds } => {
                self.record(Event::Parked {
                    reason: format!(
                        "{} was refused in each of {rounds} rounds, at last: {}",
                        step.name, refusal.message
                    ),
                    awaits_reply: false,
                });
                Ok(())
            }
        }
    }

    fn timed_out(&mut self, step: &PlanStep, timer: &Timer) -> Result<(), Error> {
        let Timer { phase, attempt, .. } = *timer;
        self.record(Event::AttemptTimedOut {
            step: step.name.clone(),
            phase,
            round: timer.round,
            attempt,
        });
        if attempt < budget(step, phase) {
            self.plan_retry(step, timer);
            return Ok(());
        }
        self.clear_timer(step, phase);
        if phase == Phase::Action {
            self.record(Event::ActionUnknown {
                step: step.name.clone(),
                round: timer.round,
            });
        }
        match (phase, &step.class) {
            (Phase::Action, Class::Compensatable(_)) => {
                self.turn_back(format!("{} did not answer in time", step.name))
            }
            (Phase::Action, Class::Pivot | Class::Retriable { .. }) => {
                self.park_unanswered(format!("{} did not answer in time", step.name));
                Ok(())
            }
            (Phase::Compensation, _) => {
                let reason = format!("the compensation of {} did not answer in time", step.name);
                self.park_unanswered(reason);
                Ok(())
            }
        }
    }

    fn turn_back(&mut self, reason: String) -> Result<(), Error> {
        self.record(Event::CompensationStarted { reason });
        self.compensate_next()
    }

    /// The last step that took effect or may have; when there is none left, everything is undone.
    fn compensate_next(&mut self) -> Result<(), Error> {
        let last = self
            .now
            .steps
            .iter()
            .rev()
            .find(|step| matches!(step.status, StepStatus::Succeeded | StepStatus::Unknown));
        let plan = self.plan;
        match last {
            Some(state) => {
                let (step, round) = (plan.step(&state.name)?, state.round);
                self.send(step, Phase::Compensation, round, 1)
            }
            None => {
                self.record(Event::Compensated);
                self.effect(Effect::Ended(Status::Compensated));
                Ok(())
            }
        }
    }

    fn plan_retry(&mut self, step: &PlanStep, timer: &Timer) {
        let next = Timer {
            attempt: timer.attempt + 1,
            ..timer.clone()
        };
        self.record(Event::RetryPlanned {
            step: next.step.clone(),
            phase: next.phase,
            round: next.round,
            attempt: next.attempt,
        });
        let operation = self.now.operation(&step.name, timer.phase, timer.round);
        let after = step.backoff.after(timer.attempt, operation.key());
        self.effect(Effect::SetTimer { timer: next, after });
    }

    fn plan_round(&mut self, step: &PlanStep, refused: i32) {
        let round = refused + 1;
        self.record(Event::RoundPlanned {
            step: step.name.clone(),
            round,
        });
        let operation = self.now.operation(&step.name, Phase::Action, round);
        let after = step.backoff.after(refused, operation.key());
        let timer = timer(step, Phase::Action, round, 1);
        self.effect(Effect::SetTimer { timer, after });
    }

    fn park_unanswered(&mut self, reason: String) {
        self.record(Event::Parked {
            reason,
            awaits_reply: true,
        });
    }

    pub(crate) fn send(
        &mut self,
        step: &PlanStep,
        phase: Phase,
        round: i32,
        attempt: i32,
    ) -> Result<(), Error> {
        let (kind, encode) = match (phase, &step.class) {
            (Phase::Action, _) => (step.kind, &step.encode),
            (Phase::Compensation, Class::Compensatable(undo)) => (undo.kind, &undo.encode),
            (Phase::Compensation, _) => return Err(self.no_compensation(step)),
        };
        let payload = encode(&self.now.data).map_err(|reason| self.unreadable(reason))?;
        let operation = self.now.operation(&step.name, phase, round);
        self.record(Event::CommandSent {
            step: step.name.clone(),
            phase,
            round,
            attempt,
            op_key: operation.key(),
        });
        self.effect(Effect::Send(Command {
            operation,
            attempt,
            topic: step.topic.clone(),
            kind,
            payload,
        }));
        self.effect(Effect::SetTimer {
            timer: timer(step, phase, round, attempt),
            after: step.timeout,
        });
        Ok(())
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
        (step.fold)(&self.now.data, payload).map_err(|error| match error {
            Unreadable::Data(reason) => self.unreadable(reason),
            Unreadable::Reply(reason) => unreadable(reason),
        })
    }

    fn ignore(&mut self, reply: &Reply) {
        let Operation {
            step, phase, round, ..
        } = &reply.operation;
        self.record(Event::Ignored {
            reason: ignored::why(&self.now, reply),
            step: step.clone(),
            phase: *phase,
            round: *round,
            outcome: reply.answer.outcome(),
        });
    }

    fn record(&mut self, event: Event) {
        self.now.apply(&event);
        self.decision.events.push(event);
    }

    fn effect(&mut self, effect: Effect) {
        self.decision.effects.push(effect);
    }

    fn clear_timer(&mut self, step: &PlanStep, phase: Phase) {
        self.effect(Effect::ClearTimer {
            step: step.name.clone(),
            phase,
        });
    }

    fn unreadable(&self, reason: String) -> Error {
        Error::Data {
            definition: self.plan.name.clone(),
            reason,
        }
    }

    fn no_compensation(&self, step: &PlanStep) -> Error {
        Error::Definition {
            definition: self.plan.name.clone(),
            reason: format!("{} has no compensation", step.name),
        }
    }
}

fn budget(step: &PlanStep, phase: Phase) -> i32 {
    match (phase, &step.class) {
        (Phase::Compensation, Class::Compensatable(undo)) => undo.attempts,
        _ => step.attempts,
    }
}

fn timer(step: &PlanStep, phase: Phase, round: i32, attempt: i32) -> Timer {
    Timer {
        step: step.name.clone(),
        phase,
        round,
        attempt,
    }
}

fn tombstoned(step: &PlanStep) -> Refusal {
    Refusal::new(
        "tombstoned",
        format!("{} was called off before it was carried out", step.name),
    )
}
