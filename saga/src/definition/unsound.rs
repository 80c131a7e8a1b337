//! What is wrong with a definition that its types allow.

use std::time::Duration;

use crate::definition::plan::{Class, Plan, PlanStep};

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
    None
}

fn not_positive(step: &PlanStep) -> Option<&'static str> {
    match &step.class {
        _ if step.timeout.is_zero() => Some("the timeout"),
        _ if step.attempts < 1 => Some("the number of attempts"),
        _ if step.backoff.initial == Duration::ZERO => Some("the backoff"),
        Class::Compensatable(c) if c.attempts < 1 => Some("the number of compensation attempts"),
        Class::Compensatable(c) if c.timeout == Some(Duration::ZERO) => {
            Some("the compensation timeout")
        }
        Class::Compensatable(c) if c.backoff.is_some_and(|b| b.initial.is_zero()) => {
            Some("the compensation backoff")
        }
        Class::Retriable { rounds } if *rounds < 1 => Some("the number of rounds"),
        _ => None,
    }
}
