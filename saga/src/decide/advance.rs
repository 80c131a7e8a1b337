//! What comes next, from nothing but where the saga stands.

use crate::{
    Error,
    decide::{
        Command, Effect,
        turn::{Turn, attempt},
    },
    definition::{Class, PlanStep},
    event::{Event, Timer},
    instance::{Status, StepStatus},
    operation::Phase,
};

impl<'a> Turn<'a> {
    /// Sends what comes next, or ends the saga. Does nothing while something is under way that has
    /// to come first: a step of this stage, a lock, a person.
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        let now = &self.now;
        if now.status.is_terminal() || now.paused || now.stopped || now.has_stuck_step() {
            return Ok(());
        }
        match now.status {
            Status::Compensating => self.go_back(),
            _ if now.awaited_lock().is_some() => Ok(()),
            _ => self.go_on(),
        }
    }

    /// From here on back. What is under way may take effect any moment, so it counts as if it had.
    pub(crate) fn turn_back(&mut self, reason: String) {
        self.resume();
        let steps = self.now.steps.iter();
        let under_way = steps.filter(|step| step.status == StepStatus::Running);
        let under_way: Vec<_> = under_way.map(|s| (s.name.clone(), s.round)).collect();
        for (step, round) in under_way {
            let phase = Phase::Action;
            self.effect(Effect::ClearTimer {
                step: step.clone(),
                phase,
            });
            self.unknown(&step, round);
        }
        self.record(Event::CompensationStarted { reason });
    }

    /// Whether there is no way back: a step was sent that cannot be undone.
    pub(crate) fn is_committed(&self) -> bool {
        self.plan.steps.iter().any(|step| {
            let status = self.now.step(&step.name).map(|state| state.status);
            step.class.commits()
                && !matches!(
                    status,
                    None | Some(StepStatus::Pending | StepStatus::Skipped)
                )
        })
    }

    fn go_on(&mut self) -> Result<(), Error> {
        let plan = self.plan;
        for stage in plan.stages() {
            for step in stage {
                if self.status_of(step) == StepStatus::Pending {
                    self.begin(step)?;
                }
            }
            let done = |step: &PlanStep| {
                matches!(
                    self.status_of(step),
                    StepStatus::Succeeded | StepStatus::Skipped
                )
            };
            if !stage.iter().all(done) {
                return Ok(());
            }
        }
        self.record(Event::Completed);
        self.effect(Effect::Ended(Status::Completed));
        Ok(())
    }

    fn begin(&mut self, step: &PlanStep) -> Result<(), Error> {
        let wanted = step.when.as_ref().map(|when| when(&self.now.data));
        let wanted = wanted.transpose();
        match wanted.map_err(|reason| self.plan.unreadable(reason))? {
            Some(false) => {
                self.record(Event::StepSkipped {
                    step: step.name.clone(),
                });
                Ok(())
            }
            Some(true) | None => self.send(step, Phase::Action, 1, 1),
        }
    }

    /// Undoes the last stage in which something took effect or may have; when there is none left,
    /// everything is undone.
    fn go_back(&mut self) -> Result<(), Error> {
        let plan = self.plan;
        for stage in plan.stages().rev() {
            for step in stage {
                let state = self.now.step(&step.name);
                let round = state.map_or(1, |state| state.round);
                if matches!(
                    self.status_of(step),
                    StepStatus::Succeeded | StepStatus::Unknown
                ) {
                    self.send(step, Phase::Compensation, round, 1)?;
                }
            }
            let under_way = |step: &PlanStep| self.status_of(step) == StepStatus::Compensating;
            if stage.iter().any(under_way) {
                return Ok(());
            }
        }
        self.record(Event::Compensated);
        self.effect(Effect::Ended(Status::Compensated));
        Ok(())
    }

    pub(crate) fn send(
        &mut self,
        step: &PlanStep,
        phase: Phase,
        round: i32,
        attempt: i32,
    ) -> Result<(), Error> {
        let undo = match &step.class {
            Class::Compensatable(undo) if phase == Phase::Compensation => Some(undo),
            _ if phase == Phase::Compensation => return Err(self.no_compensation(step)),
            _ => None,
        };
        let (kind, encode) = undo.map_or((step.kind, &step.encode), |u| (u.kind, &u.encode));
        let payload = encode(&self.now.data).map_err(|reason| self.plan.unreadable(reason))?;
        let command = Command {
            operation: self.now.operation(&step.name, phase, round),
            attempt,
            topic: step.topic.clone(),
            kind,
            payload,
            probe: false,
        };
        self.record(Event::CommandSent {
            step: step.name.clone(),
            phase,
            round,
            attempt,
            op_key: command.operation.key(),
        });
        self.effect(Effect::Send(command));
        self.await_answer(step, phase, round, attempt);
        Ok(())
    }

    /// Asks what became of an action that nobody answered for.
    pub(crate) fn probe(&mut self, step: &PlanStep, round: i32, attempt: i32) -> Result<(), Error> {
        let encode = &step.encode;
        let payload = encode(&self.now.data).map_err(|reason| self.plan.unreadable(reason))?;
        let operation = self.now.operation(&step.name, Phase::Action, round);
        self.record(Event::ProbeSent {
            step: step.name.clone(),
            round,
            attempt,
            op_key: operation.key(),
        });
        self.effect(Effect::Send(Command {
            operation,
            attempt,
            topic: step.topic.clone(),
            kind: step.kind,
            payload,
            probe: true,
        }));
        self.await_answer(step, Phase::Action, round, attempt);
        Ok(())
    }

    /// Gives an attempt, or a probe, its whole time to be answered.
    pub(crate) fn await_answer(&mut self, step: &PlanStep, phase: Phase, round: i32, number: i32) {
        let timer = Timer::Attempt(attempt(step, phase, round, number));
        let after = step.timeout_of(phase);
        self.effect(Effect::SetTimer { timer, after });
    }

    fn status_of(&self, step: &PlanStep) -> StepStatus {
        let state = self.now.step(&step.name);
        state.map_or(StepStatus::Pending, |state| state.status)
    }

    fn no_compensation(&self, step: &PlanStep) -> Error {
        Error::Definition {
            definition: self.plan.name.clone(),
            reason: format!("{} has no compensation", step.name),
        }
    }
}
