//! Replies that change nothing, and why.

use crate::{
    event::{Answer, IgnoredBecause, Reply},
    instance::{Instance, StepState, StepStatus},
    operation::Phase,
};

/// So many ignored replies of a saga are recorded; further ones change nothing in its history.
const MOST: i32 = 50;
/// So many where the reply is an anomaly: the others never take the place of these.
const MOST_WITH_ANOMALIES: i32 = 100;

/// How many ignored replies a history may have before one of this sort is not recorded any more.
pub(crate) fn most(because: IgnoredBecause) -> i32 {
    match because.is_anomaly() {
        true => MOST_WITH_ANOMALIES,
        false => MOST,
    }
}

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
    let took_effect = matches!(answer, Answer::Succeeded { .. });
    match operation.phase {
        // Of an earlier round of an action: a new one begins only when that one was refused.
        _ if operation.round != step.round => match took_effect {
            true => IgnoredBecause::Contradiction,
            false => IgnoredBecause::Stale,
        },
        // It was under way when the saga turned back, and its compensation is not sent yet.
        Phase::Action if is_open(now, step) => IgnoredBecause::Stale,
        Phase::Action => action(step, answer),
        Phase::Compensation => compensation(step, answer),
    }
}

/// Whether nobody has said what became of its action, and it is being undone or is going to be.
fn is_open(now: &Instance, step: &StepState) -> bool {
    let undone = match step.status {
        StepStatus::Compensating => true,
        StepStatus::Unknown => now.reason.is_some(),
        _ => false,
    };
    undone && step.answer.is_none() && !now.status.is_terminal()
}

/// What is remembered of a reply that does not count: that an action took effect after all. If its
/// compensation then finds nothing, one of the two is wrong.
pub(crate) fn remembered(now: &Instance, reply: &Reply) -> Option<String> {
    let Reply { operation, answer } = reply;
    let is_late = matches!(answer, Answer::Succeeded { .. })
        && operation.phase == Phase::Action
        && operation.saga_id == now.id;
    let step = now.step(&operation.step).filter(|_| is_late)?;
    let is_open = step.round == operation.round && is_open(now, step);
    is_open.then(|| answer.digest())
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
        // A person said that nothing is to be undone, and did not know this.
        StepStatus::CompensationSkipped if took_effect => IgnoredBecause::Contradiction,
        // Settled without an answer: by hand, before that was remembered.
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
        // Nothing was undone, and a person wanted it so; unless there was something to undo.
        StepStatus::CompensationSkipped => {
            let agrees = matches!(answer, Answer::NullCompensated) && step.answer.is_none();
            return match agrees {
                true => IgnoredBecause::Stale,
                false => IgnoredBecause::Contradiction,
            };
        }
        _ => return IgnoredBecause::Unexpected,
    };
    match same {
        true => IgnoredBecause::Duplicate,
        false => IgnoredBecause::Contradiction,
    }
}
