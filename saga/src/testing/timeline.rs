//! What happened, for the eyes of whoever reads a failed test.

use crate::{
    event::{Answer, Event, Input, Timer},
    instance::Instance,
    intervention::What,
    operation::{Operation, Phase},
};

/// What happened and what was recorded of it, line by line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timeline {
    lines: Vec<String>,
}

impl Timeline {
    pub(crate) fn happened(&mut self, what: impl Into<String>) {
        self.lines.push(format!("> {}", what.into()));
    }

    pub(crate) fn recorded(&mut self, events: &[Event]) {
        let events = events
            .iter()
            .map(|event| format!("    {}", event_line(event)));
        self.lines.extend(events);
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.lines.push(format!("    {}", what.into()));
    }

    /// The story, cut to what somebody reads, with where the saga stands now.
    pub(crate) fn told(&self, now: &Instance) -> String {
        format!("{}\nnow: {}", cut(&self.lines).join("\n"), standing(now))
    }
}

/// How many lines somebody reads: how it began, and how it came to its end.
const BEGINNING: usize = 20;
const END: usize = 60;

/// The beginning and the end of something long.
pub(crate) fn cut(lines: &[String]) -> Vec<String> {
    let left_out = lines.len().saturating_sub(BEGINNING + END);
    if left_out <= 1 {
        return lines.to_vec();
    }
    let mut cut = lines[..BEGINNING].to_vec();
    cut.push(format!("… {left_out} lines are left out …"));
    cut.extend_from_slice(&lines[lines.len() - END..]);
    cut
}

/// Where a saga stands, in one line.
pub(crate) fn standing(now: &Instance) -> String {
    let steps = now.steps.iter().map(|step| match step.waiting {
        Some(waiting) => format!("{} {} (waits for {waiting})", step.name, step.status),
        None => format!("{} {}", step.name, step.status),
    });
    let steps: Vec<_> = steps.collect();
    let paused = if now.paused { ", paused" } else { "" };
    let why = now.parked_reason.as_ref().or(now.reason.as_ref());
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{}{paused}{why}: {}", now.status, steps.join(", "))
}

pub(crate) fn input_line(input: &Input) -> String {
    match input {
        Input::Reply(reply) => {
            let what = match &reply.answer {
                Answer::Failed(refusal) => format!("refuses: {}", refusal.message),
                answer => format!("answers {}", answer.outcome()),
            };
            format!("{} {what}", operation_line(&reply.operation))
        }
        Input::Timer(Timer::Deadline) => "the deadline passes".to_owned(),
        Input::Timer(Timer::Lock { resource }) => format!("{resource} is granted"),
        Input::Timer(Timer::Attempt(due)) => format!(
            "the time of {} is up",
            place(&due.step, due.phase, due.round, due.attempt)
        ),
        Input::Lock(answer) => match answer.granted {
            true => format!("{} is granted", answer.resource),
            false => format!("{} is refused", answer.resource),
        },
        Input::Intervention(intervention) => what_line(&intervention.what),
    }
}

pub(crate) fn what_line(what: &What) -> String {
    match what.step() {
        Some(step) => format!("a person wants {} of {step}", what.name()),
        None => format!("a person wants {}", what.name()),
    }
}

fn operation_line(operation: &Operation) -> String {
    match operation.phase {
        Phase::Action => format!("{}, round {},", operation.step, operation.round),
        Phase::Compensation => {
            format!(
                "the compensation of {}, round {},",
                operation.step, operation.round
            )
        }
    }
}

fn place(step: &str, phase: Phase, round: i32, attempt: i32) -> String {
    match phase {
        Phase::Action => format!("{step} {round}.{attempt}"),
        Phase::Compensation => format!("the compensation of {step} {round}.{attempt}"),
    }
}

fn event_line(event: &Event) -> String {
    match event {
        Event::LockRequested(claim) => {
            format!(
                "asks for {} of {} ({})",
                claim.units, claim.resource, claim.capacity
            )
        }
        Event::LockGranted { resource } => format!("holds {resource}"),
        Event::LockRefused { resource } => format!("cannot have {resource}"),
        Event::StepSkipped { step } => format!("leaves out {step}"),
        Event::CommandSent {
            step,
            phase,
            round,
            attempt,
            ..
        } => format!("sends {}", place(step, *phase, *round, *attempt)),
        Event::ProbeSent {
            step,
            round,
            attempt,
            ..
        } => format!("asks what became of {step} {round}.{attempt}"),
        Event::AttemptTimedOut {
            step,
            phase,
            round,
            attempt,
        } => format!("no answer to {}", place(step, *phase, *round, *attempt)),
        Event::RetryPlanned {
            step,
            phase,
            round,
            attempt,
        } => format!("will send {}", place(step, *phase, *round, *attempt)),
        Event::ActionSucceeded { step, .. } => format!("{step} took effect"),
        Event::ActionFailed { step, refusal, .. } => {
            format!("{step} was refused: {} ({})", refusal.message, refusal.code)
        }
        Event::ActionUnknown { step, .. } => format!("nobody knows what became of {step}"),
        Event::RoundPlanned { step, round } => format!("will do {step} anew, round {round}"),
        Event::CompensationStarted { reason } => format!("turns back: {reason}"),
        Event::StepCompensated { step, .. } => format!("{step} was undone"),
        Event::StepNullCompensated { step, .. } => format!("there was nothing to undo of {step}"),
        Event::CompensationSkipped { step, .. } => format!("{step} stays as it is"),
        Event::Parked { step, reason, .. } => format!("parked at {step}: {reason}"),
        Event::Intervened { operation, .. } => format!("notes the intervention: {operation}"),
        Event::Migrated { from, to, .. } => format!("goes on as version {to}, was {from}"),
        Event::AnomalyFound { step, outcome, .. } => format!("anomaly at {step}: {outcome}"),
        Event::Ignored { reason, step, .. } => format!("ignores it, {step}: {reason}"),
        Event::Started { .. }
        | Event::Resumed
        | Event::DeadlinePassed
        | Event::Completed
        | Event::Compensated
        | Event::Abandoned => event.kind().to_owned(),
    }
}
