//! What a trial writes down itself about one saga: where each operation was sent, and what counted as
//! its answer. The saga's own state is judged by it, and never read for it.

use std::collections::BTreeMap;

use crate::{
    decide::Command,
    event::{Answer, Event, IgnoredBecause, Reply},
    instance::{Instance, StepStatus},
    operation::Phase,
    testing::course::{Stopped, broken},
};

/// A step, whether it is undone, and the round.
type Key = (String, bool, i32);

/// Every operation that was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Books {
    sent: BTreeMap<Key, Sent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    topic: String,
    kind: &'static str,
    answer: Option<String>,
}

fn key(step: &str, phase: Phase, round: i32) -> Key {
    (step.to_owned(), phase == Phase::Compensation, round)
}

impl Books {
    /// A command was sent. The same operation goes the same way each time, and is undone by whoever
    /// carried it out.
    pub(crate) fn send(&mut self, command: &Command) -> Result<(), Stopped> {
        let of = &command.operation;
        let Command { topic, kind, .. } = command;
        let (step, phase) = (&of.step, of.phase);
        if let Some(first) = self.sent.get(&key(step, phase, of.round)) {
            return match (&first.topic, first.kind) == (topic, *kind) {
                true => Ok(()),
                false => broken(format!(
                    "the {phase} of {step} was sent as {} on {}, and now as {kind} on {topic}",
                    first.kind, first.topic
                )),
            };
        }
        let action = self.sent.get(&key(step, Phase::Action, of.round));
        if phase == Phase::Compensation
            && let Some(action) = action.filter(|action| action.topic != *topic)
        {
            return broken(format!(
                "the action of {step} was sent on {}, and its compensation on {topic}",
                action.topic
            ));
        }
        let sent = Sent {
            topic: topic.clone(),
            kind,
            answer: None,
        };
        self.sent.insert(key(step, phase, of.round), sent);
        Ok(())
    }

    /// Whether it was ever sent.
    pub(crate) fn knows(&self, step: &str, phase: Phase, round: i32) -> bool {
        self.sent.contains_key(&key(step, phase, round))
    }

    /// Where everything was sent.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (&Key, &str, &'static str)> {
        let sent = self.sent.iter();
        sent.map(|(key, sent)| (key, sent.topic.as_str(), sent.kind))
    }

    /// A reply came and this was recorded. `before`: the saga as it was.
    pub(crate) fn hear(
        &mut self,
        before: &Instance,
        reply: &Reply,
        events: &[Event],
    ) -> Result<(), Stopped> {
        let ignored = events.iter().find_map(|event| match event {
            Event::Ignored { reason, .. } => Some(*reason),
            _ => None,
        });
        let of = &reply.operation;
        let mine = of.saga_id == before.id;
        let sent = self.sent.get_mut(&key(&of.step, of.phase, of.round));
        let sent = sent.filter(|_| mine);
        let Some(found) = ignored else {
            // So many were recorded that this one is not.
            if events.is_empty() {
                return Ok(());
            }
            return match sent {
                Some(sent) => {
                    sent.answer = Some(reply.answer.digest());
                    Ok(())
                }
                None => broken(format!(
                    "an answer of {} counted that nobody asked for",
                    of.step
                )),
            };
        };
        match expected(before, reply, sent.as_deref()) {
            Some(expected) if expected != found => broken(format!(
                "the reply of {} ({}, round {}, {}) is ignored as {found}; it is {expected}",
                of.step,
                of.phase,
                of.round,
                reply.answer.outcome()
            )),
            _ => {
                if let Some(sent) = sent.filter(|_| is_late_success(before, reply)) {
                    let answer = &mut sent.answer;
                    answer.get_or_insert_with(|| reply.answer.digest());
                }
                Ok(())
            }
        }
    }
}

/// Whether an action says that it took effect while it is undone, or is going to be: it does not count,
/// and is what its participant said.
fn is_late_success(before: &Instance, reply: &Reply) -> bool {
    let of = &reply.operation;
    let says_so = matches!(reply.answer, Answer::Succeeded { .. }) && of.phase == Phase::Action;
    let goes_back = before.reason.is_some() && !before.status.is_terminal();
    let step = before.step(&of.step).filter(|_| says_so && goes_back);
    step.is_some_and(|step| {
        let undone = matches!(step.status, StepStatus::Compensating | StepStatus::Unknown);
        undone && step.round == of.round && step.answer.is_none()
    })
}

/// Why a reply is ignored, by what was sent and what was answered. None where the books alone cannot
/// tell: a person settled the step, or the reply counts and cannot be read.
fn expected(before: &Instance, reply: &Reply, sent: Option<&Sent>) -> Option<IgnoredBecause> {
    let of = &reply.operation;
    let unasked = match before.status.is_terminal() {
        true => IgnoredBecause::AfterTerminal,
        false => IgnoredBecause::Unexpected,
    };
    let answers_actions = !matches!(reply.answer, Answer::Compensated | Answer::NullCompensated);
    let fits = answers_actions == (of.phase == Phase::Action);
    let Some(step) = before.step(&of.step).filter(|_| fits) else {
        return Some(unasked);
    };
    if of.round < step.round {
        // A new round is only begun after the former one was refused.
        let is_stale = sent.is_some() && !matches!(reply.answer, Answer::Succeeded { .. });
        return is_stale.then_some(IgnoredBecause::Stale);
    }
    let Some(sent) = sent else {
        return Some(unasked);
    };
    if let Some(answer) = &sent.answer {
        return Some(match *answer == reply.answer.digest() {
            true => IgnoredBecause::Duplicate,
            false => IgnoredBecause::Contradiction,
        });
    }
    // A person took it for done.
    if of.phase == Phase::Action && step.answer.is_some() {
        return None;
    }
    let took_effect = matches!(reply.answer, Answer::Succeeded { .. });
    match (of.phase, step.status) {
        (Phase::Action, StepStatus::NullCompensated) if took_effect => {
            Some(IgnoredBecause::LateSuccess)
        }
        (Phase::Action, StepStatus::Compensated) if !took_effect => {
            Some(IgnoredBecause::Contradiction)
        }
        (
            Phase::Action,
            StepStatus::Compensating | StepStatus::Compensated | StepStatus::NullCompensated,
        ) => Some(IgnoredBecause::Stale),
        // It turned back, and what undoes it is not sent yet.
        (Phase::Action, StepStatus::Unknown)
            if before.reason.is_some() && !before.status.is_terminal() =>
        {
            Some(IgnoredBecause::Stale)
        }
        // A person gave it up while the answer was awaited.
        (Phase::Action, StepStatus::Running | StepStatus::Unknown)
        | (Phase::Compensation, StepStatus::Compensating)
            if before.status.is_terminal() =>
        {
            Some(IgnoredBecause::AfterTerminal)
        }
        _ => None,
    }
}
