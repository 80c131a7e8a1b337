//! What a course may do, whoever the participants are: checked at each event and after each decision.

use std::collections::BTreeMap;

use crate::{
    decide::{Decision, Effect},
    definition::Class,
    event::{Attempt, Event, Timer},
    instance::{Instance, Status, StepState, StepStatus, WaitingFor},
    operation::Phase,
    testing::{
        closures::watched,
        course::{Course, Stopped, broken, key},
        given::Given,
    },
};

impl Course {
    /// What an event may be recorded on.
    pub(crate) fn legal(&self, given: &Given, event: &Event) -> Result<(), Stopped> {
        let now = &self.instance;
        match event {
            Event::CommandSent { step, .. } | Event::ProbeSent { step, .. } if now.paused => {
                broken(format!("{step} was sent while the saga was paused"))
            }
            Event::CommandSent {
                step,
                phase: Phase::Action,
                round,
                ..
            } => self.may_act(given, step, *round),
            Event::CommandSent {
                step,
                phase: Phase::Compensation,
                ..
            } => self.may_undo(given, step),
            Event::ActionSucceeded { step, data, .. } => {
                self.undone_without_answer(given, step, data)
            }
            Event::Completed => {
                let done = |step: &StepState| {
                    matches!(step.status, StepStatus::Succeeded | StepStatus::Skipped)
                };
                match now.steps.iter().find(|step| !done(step)) {
                    Some(step) => broken(format!(
                        "it completed, and {} is {}",
                        step.name, step.status
                    )),
                    None => Ok(()),
                }
            }
            Event::Compensated => match now.steps.iter().find(|s| s.status.may_have_effect()) {
                Some(step) => broken(format!(
                    "it counts as compensated, and {} is {}",
                    step.name, step.status
                )),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Forwards, stage after stage, a new round only after the former one was settled.
    fn may_act(&self, given: &Given, name: &str, round: i32) -> Result<(), Stopped> {
        let now = &self.instance;
        if now.reason.is_some() {
            return broken(format!("{name} was sent on the way back"));
        }
        if let Some(lock) = now.locks.iter().find(|lock| !lock.held) {
            return broken(format!("{name} was sent without {}", lock.resource));
        }
        let stage = given.stage_of(name);
        let settled =
            |step: &StepState| matches!(step.status, StepStatus::Succeeded | StepStatus::Skipped);
        let early = now
            .steps
            .iter()
            .find(|step| given.stage_of(&step.name) < stage && !settled(step));
        if let Some(early) = early {
            return broken(format!(
                "{name} was sent while {} was {}",
                early.name, early.status
            ));
        }
        let Some(state) = now.step(name) else {
            return broken(format!("{name} was sent, which the saga does not know"));
        };
        let open = state.round == round
            && matches!(state.status, StepStatus::Running | StepStatus::Unknown);
        let first = state.round == 0 && round == 1 && state.status == StepStatus::Pending;
        let anew = state.round + 1 == round && state.status == StepStatus::Failed;
        match open || first || anew {
            true => Ok(()),
            false => broken(format!(
                "round {round} of {name} was sent while it was {} in round {}",
                state.status, state.round
            )),
        }
    }

    /// Back, in reverse, and only where something took effect or may have.
    fn may_undo(&self, given: &Given, name: &str) -> Result<(), Stopped> {
        let now = &self.instance;
        let stage = given.stage_of(name);
        let later = now.steps.iter();
        let later = later.filter(|step| given.stage_of(&step.name) > stage);
        if let Some(open) = later.clone().find(|step| step.status.may_have_effect()) {
            return broken(format!(
                "{name} was undone before {}, which was {}",
                open.name, open.status
            ));
        }
        match now.step(name).map(|step| step.status) {
            Some(StepStatus::Succeeded | StepStatus::Unknown | StepStatus::Compensating) => Ok(()),
            status => broken(format!(
                "{name} was undone although it was {}",
                status.map_or("never there", StepStatus::as_str)
            )),
        }
    }

    /// An answer may be lost, and its step is undone all the same: a compensation is made from what
    /// was known before. So with the answers of those that run side by side with it.
    fn undone_without_answer(
        &self,
        given: &Given,
        answered: &str,
        after: &serde_json::Value,
    ) -> Result<(), Stopped> {
        let stage = given.stage_of(answered);
        for step in given.plan.steps.iter().filter(|step| step.stage == stage) {
            let Class::Compensatable(undo) = &step.class else {
                continue;
            };
            let without = watched(|| (undo.encode)(&self.instance.data));
            let without = match without.map_err(Stopped::reason).and_then(|made| made) {
                Ok(without) => without,
                Err(reason) => {
                    return broken(format!(
                        "the compensation of {} cannot be made without the answer of {answered}, which \
                         may be lost: {reason}",
                        step.name
                    ));
                }
            };
            let with = watched(|| (undo.encode)(after))?.ok();
            if with.as_ref() != Some(&without) {
                let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
                return broken(format!(
                    "the compensation of {} is made from the answer of {answered}, which may be lost: \
                     {} with it, {} without",
                    step.name,
                    with.as_deref().map(text).unwrap_or_default(),
                    text(&without)
                ));
            }
        }
        Ok(())
    }

    /// What is stored is read back the same.
    pub(crate) fn survives(&self, given: &Given) -> Result<(), Stopped> {
        let text = serde_json::to_string(&self.instance);
        let text = text.map_err(|error| Stopped::Broken(error.to_string()))?;
        let read = serde_json::from_str::<Instance>(&text);
        if read.ok().as_ref() != Some(&self.instance) {
            return broken("its state is another one after it was stored");
        }
        let data = &self.instance.data;
        match given.reread(data) {
            Ok(reread) if reread == *data => Ok(()),
            Ok(reread) => broken(format!(
                "its data loses something when it is stored: {data} is read back as {reread}"
            )),
            Err(error) => broken(format!("its data cannot be read any more: {error}")),
        }
    }

    pub(crate) fn waits_for_its_timers(&self) -> Result<(), Stopped> {
        let now = &self.instance;
        if now.waiting().is_none() != now.status.is_terminal() {
            return broken("it waits for nothing and has not ended");
        }
        let stuck = now.has_stuck_step();
        let parked = now.status == crate::Status::Parked;
        if stuck != parked || parked != now.parked_reason.is_some() {
            return broken("it is stuck and not parked, or parked without a reason");
        }
        if now.paused {
            return Ok(());
        }
        let moments = |what: WaitingFor| {
            matches!(
                what,
                WaitingFor::Reply | WaitingFor::Backoff | WaitingFor::Round | WaitingFor::Probe
            )
        };
        let awaited = now.steps.iter().filter(|s| s.waiting.is_some_and(moments));
        let awaited: BTreeMap<_, _> = awaited
            .map(|step| {
                let timer = Timer::Attempt(Attempt {
                    step: step.name.clone(),
                    phase: step.phase(),
                    round: step.awaited_round(),
                    attempt: step.attempt,
                });
                (key(&timer), timer)
            })
            .collect();
        let set = self.timers.values().map(|(timer, _)| timer);
        let set: Vec<_> = set.filter(|timer| **timer != Timer::Deadline).collect();
        match set.iter().copied().eq(awaited.values()) {
            true => Ok(()),
            false => broken(format!(
                "the moments it waits for are {:?}, and timers are set for {set:?}",
                awaited.values().collect::<Vec<_>>()
            )),
        }
    }
}

/// What is recorded as sent is what is sent.
pub(crate) fn sent_is_recorded(decision: &Decision) -> Result<(), Stopped> {
    let recorded = decision.events.iter().filter_map(|event| match event {
        Event::CommandSent {
            op_key, attempt, ..
        } => Some((*op_key, *attempt, false)),
        Event::ProbeSent {
            op_key, attempt, ..
        } => Some((*op_key, *attempt, true)),
        _ => None,
    });
    let sent = decision.effects.iter().filter_map(|effect| match effect {
        Effect::Send(command) => Some((command.operation.key(), command.attempt, command.probe)),
        _ => None,
    });
    match recorded.eq(sent) {
        true => Ok(()),
        false => broken("what is recorded as sent is not what is sent"),
    }
}

/// Whatever is settled, parked, claimed or ended is said to the coordinator too, which runs the hooks.
pub(crate) fn effects_follow(decision: &Decision) -> Result<(), Stopped> {
    let settled = |step: &String, status| Effect::StepSettled {
        step: step.clone(),
        status,
    };
    let expected = decision.events.iter().filter_map(|event| match event {
        Event::ActionSucceeded { step, .. } => Some(settled(step, StepStatus::Succeeded)),
        Event::StepCompensated { step, .. } => Some(settled(step, StepStatus::Compensated)),
        Event::StepNullCompensated { step, .. } => Some(settled(step, StepStatus::NullCompensated)),
        Event::CompensationSkipped { step, .. } => {
            Some(settled(step, StepStatus::CompensationSkipped))
        }
        Event::Parked { reason, .. } => Some(Effect::Parked {
            reason: reason.clone(),
        }),
        Event::Completed => Some(Effect::Ended(Status::Completed)),
        Event::Compensated => Some(Effect::Ended(Status::Compensated)),
        Event::Abandoned => Some(Effect::Ended(Status::Abandoned)),
        _ => None,
    });
    let expected: Vec<Effect> = expected.collect();
    let found = decision.effects.iter().filter(|effect| {
        matches!(
            effect,
            Effect::StepSettled { .. } | Effect::Parked { .. } | Effect::Ended(_)
        )
    });
    let found: Vec<Effect> = found.cloned().collect();
    if found != expected {
        return broken(format!(
            "what is recorded asks for the effects {expected:?}, and what is done is {found:?}"
        ));
    }
    let requested = decision.events.iter().filter_map(|event| match event {
        Event::LockRequested(claim) => Some(claim),
        _ => None,
    });
    let acquired = decision.effects.iter().filter_map(|effect| match effect {
        Effect::Acquire(claims) => Some(claims),
        _ => None,
    });
    match requested.eq(acquired.flatten()) {
        true => Ok(()),
        false => broken("the claims that are recorded are not those that are made"),
    }
}

/// A step is tried as often as its definition says, neither less nor more. `before`: the saga as it
/// was.
pub(crate) fn gives_up_when_spent(
    given: &Given,
    before: &Instance,
    decision: &Decision,
) -> Result<(), Stopped> {
    for event in &decision.events {
        let Event::AttemptTimedOut {
            step,
            phase,
            round,
            attempt,
        } = event
        else {
            continue;
        };
        let known = given.plan.steps.iter().find(|known| known.name == *step);
        let (Some(known), Some(state)) = (known, before.step(step)) else {
            return broken(format!("{step} is overdue, which is no step"));
        };
        let attempts = match (&known.class, phase) {
            (Class::Compensatable(undo), Phase::Compensation) => undo.attempts,
            _ => known.attempts,
        };
        let (budget, what) = match state.waiting {
            Some(WaitingFor::Probe) => (attempts + known.probes, "asked"),
            _ => (attempts, "sent"),
        };
        let again = decision.events.iter().any(|event| match event {
            Event::RetryPlanned {
                step: of,
                attempt: next,
                ..
            } => of == step && *next == attempt + 1 && what == "sent",
            Event::ProbeSent {
                step: of,
                attempt: next,
                ..
            } => of == step && *next == attempt + 1 && what == "asked",
            _ => false,
        });
        if again != (*attempt < budget) {
            let done = if again { "goes on" } else { "gives up" };
            return broken(format!(
                "it {done} after the {phase} of {step} was {what} {attempt} times in round {round}; its \
                 budget is {budget}"
            ));
        }
    }
    Ok(())
}

/// Each event is the same after it was stored.
pub(crate) fn stored_and_read(decision: &Decision) -> Result<(), Stopped> {
    for event in &decision.events {
        let stored = serde_json::to_value(event).ok();
        let read = stored.and_then(|stored| serde_json::from_value::<Event>(stored).ok());
        if read.as_ref() != Some(event) {
            return broken(format!(
                "an event is another one after it was stored: {event:?}"
            ));
        }
    }
    Ok(())
}
