//! Replies that change nothing, and why.

use crate::{
    event::{Answer, IgnoredBecause, Reply},
    instance::{Instance, StepStatus},
    operation::Phase,
};

/// Whether such an answer can be given to such an operation: an action is never "compensated",
/// and a compensation may not refuse.
pub(crate) fn fits(phase: Phase, answer: &Answer) -> bool {
    match answer {
        Answer::Succeeded { .. } | Answer::Failed(_) | Answer::Tombstoned => phase == Phase::Action,
        Answer::Compensated | Answer::NullCompensated => phase == Phase::Compensation,
    }
}

/// Which of the reasons it is, for a reply that does not count.
pub(crate) fn why(now: &Instance, reply: &Reply) -> IgnoredBecause {
    let Reply { operation, answer } = reply;
    let step = now.step(&operation.step);
    let asked = step.is_some_and(|step| (1..=step.round).contains(&operation.round));
    let Some(step) = step.filter(|_| asked && operation.saga_id == now.id) else {
        return match now.status.is_terminal() {
            true => IgnoredBecause::AfterTerminal,
            false => IgnoredBecause::Unexpected,
        };
    };
    let took_effect =
        operation.phase == Phase::Action && matches!(answer, Answer::Succeeded { .. });
    let last_round = operation.round == step.round;
    if took_effect && last_round && step.status == StepStatus::NullCompensated {
        return IgnoredBecause::Anomaly;
    }
    if now.status.is_terminal() {
        return IgnoredBecause::AfterTerminal;
    }
    if !fits(operation.phase, answer) {
        return IgnoredBecause::Unexpected;
    }
    match (operation.phase, step.status) {
        (_, _) if !last_round => IgnoredBecause::Stale,
        (Phase::Action, StepStatus::Succeeded | StepStatus::Failed) => IgnoredBecause::Duplicate,
        (Phase::Action, _) => IgnoredBecause::Stale,
        (Phase::Compensation, StepStatus::Compensated | StepStatus::NullCompensated) => {
            IgnoredBecause::Duplicate
        }
        (Phase::Compensation, _) => IgnoredBecause::Unexpected,
    }
}
