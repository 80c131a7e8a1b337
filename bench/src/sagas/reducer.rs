//! The pure reducer alone: every decision of a trip that completes and of one that is compensated,
//! over and over, on one thread.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use outbox::Payload;
use saga::{
    Instance, Status,
    decide::{self, Effect},
    definition::Plan,
    event::{Answer, Input, Reply},
    participant::Refusal,
};
use uuid::Uuid;

use crate::sagas::{
    ended::Endings,
    processor,
    trip::{self, Booked, STEPS, Topics, Trip},
};

/// Decisions per second of processor time, so that other work on the machine does not count.
pub(crate) fn rate(length: Duration) -> Result<f64> {
    let definition = trip::definition(&Topics::new("bench", 3), &Endings::default())?;
    let plan = definition.plan();
    let mut turns = life(plan, false)?;
    turns.extend(life(plan, true)?);
    let (begun, before) = (Instant::now(), processor::of_this_thread()?);
    let mut decisions = 0_u64;
    while begun.elapsed() < length {
        // Between two looks at the clock, so that they cost nothing.
        for _ in 0..100 {
            for (instance, input) in &turns {
                let decision = decide::decide(plan, black_box(instance), black_box(input))?;
                black_box(decision);
            }
        }
        decisions += 100 * turns.len() as u64;
    }
    Ok(decisions as f64 / (processor::of_this_thread()? - before))
}

/// Where a trip stands before each of its replies, and the reply.
fn life(plan: &Plan, refused: bool) -> Result<Vec<(Instance, Input)>> {
    let data = serde_json::to_value(Trip::new(7, refused))?;
    let id = Uuid::now_v7();
    let (mut instance, mut decision) = decide::start(plan, id, "trip-1", &data)?;
    let mut turns = Vec::new();
    while !instance.status.is_terminal() {
        let sent = decision.effects.iter().find_map(|effect| match effect {
            Effect::Send(command) => Some(command.operation.clone()),
            _ => None,
        });
        let operation = sent.context("nothing was asked, and the trip has not ended")?;
        let answer = match operation.phase {
            saga::Phase::Compensation => Answer::Compensated,
            saga::Phase::Action if refused && operation.step == STEPS[2] => {
                Answer::Failed(Refusal::new("sold_out", "there is no car left"))
            }
            saga::Phase::Action => Answer::Succeeded {
                kind: Booked::KIND.to_owned(),
                payload: serde_json::to_vec(&Booked { total: 42 })?,
            },
        };
        let input = Input::Reply(Reply { operation, answer });
        decision = decide::decide(plan, &instance, &input)?;
        if decision.events.is_empty() {
            bail!("a reply was of no use");
        }
        turns.push((instance.clone(), input));
        for event in &decision.events {
            instance.apply(event);
        }
    }
    let (end, replies) = match refused {
        false => (Status::Completed, 3),
        true => (Status::Compensated, 5),
    };
    ensure!(
        instance.status == end && turns.len() == replies,
        "the trip ended {} after {} replies",
        instance.status,
        turns.len()
    );
    Ok(turns)
}
