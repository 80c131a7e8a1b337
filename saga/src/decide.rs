//! The decisions: from where a saga stands and what happened, to what is recorded and done.
//!
//! What passes here: every start, every reply, every timer, every lock, every person's wish. Pure:
//! no clock, no SQL, no async; the same arguments give the same decision, down to the jitter.
//! Promised: only an awaited operation moves a saga; a terminal one absorbs everything;
//! compensations run in reverse, for each step that took effect or may have, and for no other. Not
//! promised: that anything decided is done; that is the coordinator's transaction. If we die here,
//! nothing happened.
//!
//! Each decision has two halves. First what happened is recorded: `turn` for replies and timers,
//! `intervene` for people. Then `advance` looks at where the saga stands now and says what
//! comes next; so nothing needs to know where it came from.

mod advance;
mod ignored;
mod intervene;
mod migrate;
mod turn;

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::{
    Error,
    decide::turn::Turn,
    definition::Plan,
    event::{Event, Input, Timer},
    instance::{Instance, Status, StepStatus},
    locks::Claim,
    operation::{Operation, Phase},
};

pub use intervene::{Allowed, allowed};
pub(crate) use migrate::advance_under;
pub use migrate::migrate;

/// What to record and what to do, in one transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    /// Appended to the history, in this order.
    pub events: Vec<Event>,
    /// Done in this order.
    pub effects: Vec<Effect>,
}

/// Something to be done in the transaction that records the events.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Enqueue a command.
    Send(Command),
    /// Fire this timer after a while; it takes the place of the one its step and phase, or the
    /// saga, had.
    SetTimer {
        /// What it will stand for.
        timer: Timer,
        /// How long from now.
        after: Duration,
    },
    /// This step and phase waits for no moment any more.
    ClearTimer {
        /// The step.
        step: String,
        /// Forwards or back.
        phase: Phase,
    },
    /// Ask for units of resources. What comes of each is an [`Input::Lock`] later; of those that
    /// are to be waited for nothing comes now.
    Acquire(Vec<Claim>),
    /// A step was settled: run the definition's hook.
    StepSettled {
        /// Which.
        step: String,
        /// What became of it.
        status: StepStatus,
    },
    /// The saga came to wait for a person: run the definition's hook.
    Parked {
        /// Why.
        reason: String,
    },
    /// The saga ended: run the definition's hook, clear its timers, give its resources back.
    Ended(Status),
}

/// A command to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What is asked.
    pub operation: Operation,
    /// Which sending of the same operation.
    pub attempt: i32,
    /// Where it goes.
    pub topic: String,
    /// The payload's kind.
    pub kind: &'static str,
    /// The payload.
    pub payload: Vec<u8>,
    /// Not "do it" but "what became of it?".
    pub probe: bool,
}

/// Begins a saga: records its start and sends its first commands, or asks for its resources.
///
/// # Errors
///
/// [`Error::Data`] when the data is not what the definition's commands are made from,
/// [`Error::Claim`] when it claims what cannot be claimed.
pub fn start(
    plan: &Plan,
    id: Uuid,
    business_key: &str,
    data: &Value,
) -> Result<(Instance, Decision), Error> {
    let (tags, claims) = (plan.tags_of(data)?, plan.claims_of(data)?);
    let started = Event::Started {
        definition: plan.name.clone(),
        version: plan.version,
        hash: plan.hash.clone(),
        business_key: business_key.to_owned(),
        steps: plan.steps.iter().map(|step| step.name.clone()).collect(),
        data: data.clone(),
        tags,
    };
    let instance = Instance::started(id, &started);
    let mut turn = Turn {
        plan,
        now: instance.expect("the first event is a start, written two lines above"),
        decision: Decision {
            events: vec![started],
            effects: Vec::new(),
        },
    };
    if let Some(after) = plan.deadline {
        let timer = Timer::Deadline;
        turn.effect(Effect::SetTimer { timer, after });
    }
    turn.ask_for(claims);
    turn.advance()?;
    Ok((turn.now, turn.decision))
}

/// Decides what follows from one input.
///
/// # Errors
///
/// [`Error::Data`] when the saga's data cannot be read, [`Error::NotAllowed`] for an intervention
/// that the saga's state does not allow. Nothing is decided then.
pub fn decide(plan: &Plan, instance: &Instance, input: &Input) -> Result<Decision, Error> {
    step(plan, instance.clone(), input).map(|(_, decision)| decision)
}

/// The same, with the state that follows.
pub(crate) fn step(
    plan: &Plan,
    instance: Instance,
    input: &Input,
) -> Result<(Instance, Decision), Error> {
    let mut turn = Turn {
        plan,
        now: instance,
        decision: Decision::default(),
    };
    match input {
        Input::Reply(reply) => turn.reply(reply)?,
        Input::Timer(timer) => turn.timer(timer)?,
        Input::Lock(answer) => turn.lock(answer)?,
        Input::Intervention(intervention) => turn.intervene(intervention)?,
    }
    Ok((turn.now, turn.decision))
}

#[cfg(test)]
mod tests;
