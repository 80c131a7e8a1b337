//! How long a saga waits: each timer as its definition says, and the definition's times against each
//! other.

use std::time::Duration;

use crate::{
    definition::{Class, Plan, PlanStep},
    event::Timer,
    instance::{Instance, WaitingFor},
    operation::Phase,
    testing::course::{Stopped, broken},
};

/// Nobody waits longer than this for one answer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What a step waits for, forwards or back.
fn timeout(step: &PlanStep, phase: Phase) -> Duration {
    match (&step.class, phase) {
        (Class::Compensatable(undo), Phase::Compensation) => undo.timeout.unwrap_or(step.timeout),
        _ => step.timeout,
    }
}

fn longest_backoff(step: &PlanStep, phase: Phase) -> Duration {
    match (&step.class, phase) {
        (Class::Compensatable(undo), Phase::Compensation) => undo.backoff.unwrap_or(step.backoff),
        _ => step.backoff,
    }
    .cap
}

/// A timer was set. `now`: the saga that waits for it.
pub(crate) fn judge(
    plan: &Plan,
    now: &Instance,
    timer: &Timer,
    after: Duration,
) -> Result<(), Stopped> {
    let due = match timer {
        Timer::Deadline if Some(after) == plan.deadline => return Ok(()),
        Timer::Deadline => {
            return broken(format!(
                "the deadline is set to {after:?}, the definition says {:?}",
                plan.deadline
            ));
        }
        Timer::Lock { .. } => return broken("a decision sets a timer for a lock"),
        Timer::Attempt(due) => due,
    };
    let (Some(step), Some(state)) = (
        plan.steps.iter().find(|step| step.name == due.step),
        now.step(&due.step),
    ) else {
        return broken(format!("a timer is set for {}, which is no step", due.step));
    };
    let (what, right, wanted) = match state.waiting {
        Some(WaitingFor::Reply | WaitingFor::Probe) => {
            let wanted = timeout(step, due.phase);
            ("an answer", after == wanted, wanted)
        }
        Some(WaitingFor::Backoff | WaitingFor::Round) => {
            let wanted = longest_backoff(step, due.phase);
            ("its next try", after <= wanted, wanted)
        }
        _ => return Ok(()),
    };
    match right {
        true => Ok(()),
        false => broken(format!(
            "the {} of {} waits {after:?} for {what}, the definition says {wanted:?}",
            due.phase, due.step
        )),
    }
}

/// Times of a definition that cannot be meant.
pub(crate) fn sensible(plan: &Plan) -> Result<(), Stopped> {
    for step in &plan.steps {
        let mut phases = vec![Phase::Action];
        if let Class::Compensatable(_) = step.class {
            phases.push(Phase::Compensation);
        }
        for phase in phases {
            let waits = timeout(step, phase);
            let backoff = longest_backoff(step, phase);
            let what = if phase == Phase::Action {
                ""
            } else {
                "the compensation of "
            };
            if waits.is_zero() {
                return broken(format!(
                    "{what}{} waits no time at all for its answer",
                    step.name
                ));
            }
            if waits.max(backoff) > LONGEST {
                return broken(format!(
                    "{what}{} waits {:?}: longer than a year",
                    step.name,
                    waits.max(backoff)
                ));
            }
        }
        within_deadline(plan, step)?;
    }
    Ok(())
}

/// A deadline ends the way to the pivot. What only happens after it never does.
fn within_deadline(plan: &Plan, step: &PlanStep) -> Result<(), Stopped> {
    let Some(deadline) = plan.deadline else {
        return Ok(());
    };
    if deadline > LONGEST {
        return broken(format!(
            "its deadline is after {deadline:?}: longer than a year"
        ));
    }
    // A pivot that was sent is past the deadline's reach.
    if step.class.commits() {
        return Ok(());
    }
    if step.timeout >= deadline {
        return broken(format!(
            "{} waits {:?} for its answer, and the saga's deadline is {deadline:?}: it never times out",
            step.name, step.timeout
        ));
    }
    // The pauses between the attempts may all be nothing.
    let last = u32::try_from(step.attempts - 1).unwrap_or(0);
    if step.timeout.saturating_mul(last) >= deadline {
        return broken(format!(
            "attempt {} of {} can only begin after {:?}, and the saga's deadline is {deadline:?}: it is \
             never made",
            step.attempts,
            step.name,
            step.timeout.saturating_mul(last)
        ));
    }
    Ok(())
}
