//! A trip as in `support`, with what a seed must repeat: a participant that draws nothing.

use std::{collections::BTreeMap, time::Duration};

use outbox::Payload;
use saga::{
    Coordinator, Definition, Participant, Step,
    definition::Replied,
    locks::Claim,
    participant::{Action, Answer, Compensation, Context, Refusal},
};
use serde::{Deserialize, Serialize};
use sqlx::PgTransaction;

pub(super) const COMMANDS: &str = "trip.commands";
pub(super) const REPLIES: &str = "orders.replies";
/// The resource that all of them want.
const CREDIT: &str = "credit";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Trip {
    /// The steps that are refused: in every round, or in the first.
    pub(super) refused: BTreeMap<String, bool>,
    pub(super) answered: BTreeMap<String, i32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Do {
    refused: Option<bool>,
}
impl Payload for Do {
    const KIND: &'static str = "trip.do.v1";
}

#[derive(Debug, Serialize, Deserialize)]
struct Done {
    step: String,
    round: i32,
}
impl Payload for Done {
    const KIND: &'static str = "trip.done.v1";
}

#[derive(Debug, Serialize, Deserialize)]
struct Undo {}
impl Payload for Undo {
    const KIND: &'static str = "trip.undo.v1";
}

/// Writes down what it did, and undid.
struct Doer;

impl Action for Doer {
    type Command = Do;
    type Reply = Done;

    async fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: Do,
    ) -> Result<Answer<Done>, outbox::Error> {
        write_down(tx, context, "done").await?;
        Ok(match command.refused {
            Some(in_every_round) if in_every_round || context.round == 1 => {
                Answer::Refused(Refusal::new("no", "no, thank you"))
            }
            _ => Answer::Done(Done {
                step: context.step.clone(),
                round: context.round,
            }),
        })
    }
}

impl Compensation for Doer {
    type Command = Undo;

    async fn compensate(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        _: Undo,
    ) -> Result<(), outbox::Error> {
        write_down(tx, context, "undone").await
    }
}

async fn write_down(
    tx: &mut PgTransaction<'_>,
    context: &Context,
    what: &str,
) -> Result<(), outbox::Error> {
    sqlx::query("insert into testclock.deed (saga_id, step, round, what) values ($1, $2, $3, $4)")
        .bind(context.saga_id)
        .bind(&context.step)
        .bind(context.round)
        .bind(what)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) fn participant() -> Participant {
    Participant::new("traveller")
        .action(Doer)
        .compensation(Doer)
}

fn step(name: &'static str) -> Replied<Trip> {
    Step::new(name)
        .command(COMMANDS, move |trip: &Trip| Do {
            refused: trip.refused.get(name).copied(),
        })
        .reply(|trip: &mut Trip, done: Done| {
            trip.answered.insert(done.step, done.round);
        })
        .timeout(Duration::from_secs(10))
        .attempts(3)
        .backoff(Duration::from_secs(1), Duration::from_secs(5))
}

/// Hold the money, a seat and a bed side by side, pay, print the ticket; two at a time.
pub(super) fn coordinator() -> Coordinator {
    let undoable = |name| {
        step(name)
            .compensation(|_: &Trip| Undo {})
            .compensation_attempts(4)
    };
    let definition = Definition::<Trip>::builder("trip", 1)
        .lock(|_: &Trip| Claim {
            resource: CREDIT.to_owned(),
            units: 1,
            capacity: 2,
        })
        .deadline(Duration::from_secs(600))
        .compensatable(undoable("hold").compensation_timeout(Duration::from_secs(20)))
        .parallel([undoable("seat"), undoable("bed")])
        .pivot(step("pay").probes(2))
        .retriable(step("print").rounds(3))
        .build()
        .unwrap();
    Coordinator::builder(REPLIES)
        .define(definition)
        .unwrap()
        .build()
}
