//! The decisions: from where a saga stands and what happened, to what is recorded and done.
//!
//! What passes here: every start, every reply, every timer. Pure: no clock, no SQL, no async; the
//! same arguments give the same decision, down to the jitter. Promised: only an awaited operation
//! moves a saga; a terminal one absorbs everything; compensations run in reverse, for each step
//! that took effect or may have, and for no other. Not promised: that anything decided is done;
//! that is the coordinator's transaction. If we die here, nothing happened.

mod ignored;
mod turn;

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::{
    Error,
    decide::turn::Turn,
    definition::Plan,
    event::{Event, Input, Timer},
    instance::{Instance, Status},
    operation::{Operation, Phase},
};

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
    /// Fire the timer of this step and phase, for this round and attempt, after a while; it takes
    /// the place of the one it had.
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
    /// The saga ended: run the definition's hook.
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
}

/// Begins a saga: records its start and sends its first command.
///
/// # Errors
///
/// [`Error::Data`] when the data is not what the definition's commands are made from.
pub fn start(
    plan: &Plan,
    id: Uuid,
    business_key: &str,
    data: &Value,
) -> Result<(Instance, Decision), Error> {
    let started = Event::Started {
        definition: plan.name.clone(),
        version: plan.version,
        hash: plan.hash.clone(),
        business_key: business_key.to_owned(),
        steps: plan.steps.iter().map(|step| step.name.clone()).collect(),
        data: data.clone(),
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
    let first = plan.steps.first().ok_or_else(|| Error::Definition {
        definition: plan.name.clone(),
        reason: "it has no steps".to_owned(),
    })?;
    turn.send(first, Phase::Action, 1, 1)?;
    Ok((turn.now, turn.decision))
}

/// Decides what follows from one input.
///
/// # Errors
///
/// [`Error::Reply`] when the awaited reply cannot be read, [`Error::Data`] when the saga's data
/// cannot. Nothing is decided then.
pub fn decide(plan: &Plan, instance: &Instance, input: &Input) -> Result<Decision, Error> {
    let mut turn = Turn {
        plan,
        now: instance.clone(),
        decision: Decision::default(),
    };
    match input {
        Input::Reply(reply) => turn.reply(reply)?,
        Input::Timer(timer) => turn.timer(timer)?,
    }
    Ok(turn.decision)
}

#[cfg(test)]
mod tests;
