//! Replies that change nothing, and why.

use crate::{
    event::{Answer, IgnoredBecause, Reply},
    instance::{Instance, StepState, StepStatus},
    operation::Phase,
};

/// Whether such an answer can be given to such an operation: an action is never "compensated",
/// and a compensation may not refuse.
pub(crate) fn fits(phase: Phase, answer: &Answer) -> bool {
    match answer {
        Answer::Succeeded { .. }
        | Answer::Failed(_)
        | Answer::Unreadable { .. }
        | Answer::Tombstoned => phase == Phase::Action,
        Answer::Compensated | Answer::NullCompensated => phase == Phase::Compensation,
    }
}

/// Which of the reasons it is, for a reply that does not count.
pub(crate) fn why(now: &Instance, reply: &Reply) -> IgnoredBecause {
    let because = of_step(now, reply);
    match because {
        // It would have counted, or nobody asked: either way somebody did something that nobody
        // will look after any more.
        IgnoredBecause::Unexpected if now.status.is_terminal() => IgnoredBecause::AfterTerminal,
        because => because,
    }
}

fn of_step(now: &Instance, reply: &Reply) -> IgnoredBecause {
    let Reply { operation, answer } = reply;
    let step = now.step(&operation.step);
    let asked = step.is_some_and(|step| (1..=step.round).contains(&operation.round));
    let Some(step) = step.filter(|_| asked && operation.saga_id == now.id) else {
        return IgnoredBecause::Unexpected;
    };
    if !fits(operation.phase, answer) {
        return IgnoredBecause::Unexpected;
    }
    if operation.round != step.round {
        return IgnoredBecause::Stale;
    }
    match operation.phase {
        Phase::Action => action(step, answer),
        Phase::Compensation => compensation(step, answer),
    }
}

fn action(step: &StepState, answer: &Answer) -> IgnoredBecause {
    if let Some(first) = &step.answer {
        return match *first == answer.digest() {
            // Of something that is being undone, or was, even the same answer tells nothing new.
            true => IgnoredBecause::Duplicate,
            false => IgnoredBecause::Contradiction,
        };
    }
    let took_effect = matches!(answer, Answer::Succeeded { .. });
    match step.status {
        StepStatus::NullCompensated if took_effect => IgnoredBecause::LateSuccess,
        StepStatus::Compensated if !took_effect => IgnoredBecause::Contradiction,
        // Settled without an answer: by hand.
        StepStatus::Succeeded if took_effect => IgnoredBecause::Duplicate,
        StepStatus::Succeeded => IgnoredBecause::Contradiction,
        StepStatus::Compensating
        | StepStatus::Compensated
        | StepStatus::NullCompensated
        | StepStatus::CompensationSkipped => IgnoredBecause::Stale,
        StepStatus::Pending
        | StepStatus::Skipped
        | StepStatus::Running
        | StepStatus::Failed
        | StepStatus::Unknown => IgnoredBecause::Unexpected,
    }
}

fn compensation(step: &StepState, answer: &Answer) -> IgnoredBecause {
    let same = match step.status {
        StepStatus::Compensated => matches!(answer, Answer::Compensated),
        StepStatus::NullCompensated => matches!(answer, Answer::NullCompensated),
        StepStatus::CompensationSkipped => return IgnoredBecause::Stale,
        _ => return IgnoredBecause::Unexpected,
    };
    match same {
        true => IgnoredBecause::Duplicate,
        false => IgnoredBecause::Contradiction,
    }
}
