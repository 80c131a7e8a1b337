//! What is wrong with a definition that its types allow.

use std::time::Duration;

use crate::{
    definition::plan::{Class, Plan, PlanStep},
    operation::Phase,
    participant::retention::DEFAULT as REMEMBERED,
};

/// A longer deadline is a mistake of the unit.
const LONGEST_DEADLINE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The first thing that is wrong.
pub(crate) fn unsound(plan: &Plan) -> Option<String> {
    if plan.name.is_empty() {
        return Some("it has no name".to_owned());
    }
    if plan.version < 1 {
        return Some("its version is not positive".to_owned());
    }
    if plan.steps.is_empty() {
        return Some("it has no steps".to_owned());
    }
    if plan.deadline.is_some_and(|deadline| deadline.is_zero()) {
        return Some("its deadline is not positive".to_owned());
    }
    if plan
        .deadline
        .is_some_and(|deadline| deadline > LONGEST_DEADLINE)
    {
        return Some("its deadline is more than ten years".to_owned());
    }
    if plan.migrations.contains_key(&plan.version) {
        return Some("it migrates from itself".to_owned());
    }
    for (index, step) in plan.steps.iter().enumerate() {
        if step.name.is_empty() {
            return Some("a step has no name".to_owned());
        }
        if plan.steps[..index].iter().any(|s| s.name == step.name) {
            return Some(format!("two steps are called {}", step.name));
        }
        if let Some(what) = not_positive(step) {
            return Some(format!("{what} of step {} is not positive", step.name));
        }
        if step.probes < 0 {
            return Some(format!(
                "the number of probes of step {} is negative",
                step.name
            ));
        }
    }
    let mut steps = plan.steps.iter();
    steps
        .find_map(|step| too_long(plan, step))
        .or_else(|| forgotten(plan))
}

/// A time of a step that cannot be meant: beyond the saga's own, or so long that a participant may
/// have forgotten the operation before it is sent for the last time, and would do it once more.
fn too_long(plan: &Plan, step: &PlanStep) -> Option<String> {
    let name = &step.name;
    for (phase, what) in [
        (Phase::Action, "step"),
        (Phase::Compensation, "the compensation of step"),
    ] {
        if step.longest(phase) > REMEMBERED {
            return Some(format!(
                "by its attempts, timeouts and waits {what} {name} may be sent again for longer \
                 than participants remember an operation, {} days",
                days(REMEMBERED)
            ));
        }
    }
    // After the pivot a deadline stops nothing.
    let may_be_stopped = !matches!(step.class, Class::Retriable { .. });
    let deadline = plan.deadline.filter(|_| may_be_stopped)?;
    (step.timeout > deadline).then(|| {
        format!(
            "the timeout of step {name}, {:?}, is longer than the deadline of the saga, {deadline:?}",
            step.timeout
        )
    })
}

/// Whether, by the budgets alone, a step may be compensated so late that its participant has
/// forgotten it.
fn forgotten(plan: &Plan) -> Option<String> {
    let longest = |phase| {
        let stages = plan.stages().map(move |stage| {
            let undone = stage
                .iter()
                .filter(|step| !matches!(step.class, Class::Retriable { .. }));
            let times = undone.map(|step| step.longest(phase));
            times.max().unwrap_or_default()
        });
        stages.fold(Duration::ZERO, Duration::saturating_add)
    };
    let there_and_back = longest(Phase::Action).saturating_add(longest(Phase::Compensation));
    let is_undone = |step: &PlanStep| matches!(step.class, Class::Compensatable(_));
    (plan.steps.iter().any(is_undone) && there_and_back > REMEMBERED).then(|| {
        format!(
            "by the attempts, timeouts and waits of all steps its first one may be compensated \
             after more than the {} days for which participants remember an operation",
            days(REMEMBERED)
        )
    })
}

fn days(duration: Duration) -> u64 {
    duration.as_secs() / (24 * 60 * 60)
}

fn not_positive(step: &PlanStep) -> Option<&'static str> {
    match &step.class {
        _ if step.timeout.is_zero() => Some("the timeout"),
        _ if step.attempts < 1 => Some("the number of attempts"),
        _ if step.backoff.initial.is_zero() => Some("the backoff"),
        _ if step.backoff.cap.is_zero() => Some("the longest backoff"),
        Class::Compensatable(c) if c.attempts < 1 => Some("the number of compensation attempts"),
        Class::Compensatable(c) if c.timeout == Some(Duration::ZERO) => {
            Some("the compensation timeout")
        }
        Class::Compensatable(c) if c.backoff.is_some_and(|b| b.initial.is_zero()) => {
            Some("the compensation backoff")
        }
        Class::Compensatable(c) if c.backoff.is_some_and(|b| b.cap.is_zero()) => {
            Some("the longest compensation backoff")
        }
        Class::Retriable { rounds } if *rounds < 1 => Some("the number of rounds"),
        _ => None,
    }
}
