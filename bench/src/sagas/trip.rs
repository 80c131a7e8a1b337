//! The saga that is measured: three steps at three participants, the last of them the point of no
//! return.

use std::time::Duration;

use anyhow::Result;
use outbox::Payload;
use saga::{Coordinator, Definition, Step};
use serde::{Deserialize, Serialize};

use crate::sagas::ended::Endings;

/// The definition's name.
pub(crate) const NAME: &str = "trip";
/// Its steps; the last one may be refused.
pub(crate) const STEPS: [&str; 3] = ["book-hotel", "book-flight", "book-car"];
/// Nothing that is measured may depend on it: every command is answered.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a trip knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Trip {
    /// Whose row each participant updates.
    pub(crate) account: i64,
    pub(crate) amount: i64,
    /// Whether the last step is to be refused.
    pub(crate) refused: bool,
    /// What was answered so far.
    pub(crate) bookings: Vec<i64>,
}

impl Trip {
    pub(crate) fn new(account: i64, refused: bool) -> Self {
        Self {
            account,
            amount: 1,
            refused,
            bookings: Vec::new(),
        }
    }

    fn book(&self, refused: bool) -> Book {
        let (account, amount) = (self.account, self.amount);
        Book {
            account,
            amount,
            refused,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(crate) account: i64,
    pub(crate) amount: i64,
    pub(crate) refused: bool,
}

impl Payload for Book {
    const KIND: &'static str = "bench.book.v1";
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Booked {
    pub(crate) total: i64,
}

impl Payload for Booked {
    const KIND: &'static str = "bench.booked.v1";
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cancel {
    pub(crate) account: i64,
    pub(crate) amount: i64,
}

impl Payload for Cancel {
    const KIND: &'static str = "bench.cancel.v1";
}

/// The topics of one stage.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    stage: String,
    participants: usize,
}

impl Topics {
    pub(crate) fn new(stage: impl Into<String>, participants: usize) -> Self {
        let stage = stage.into();
        Self {
            stage,
            participants,
        }
    }

    /// Where a participant is asked.
    pub(crate) fn commands(&self, participant: usize) -> String {
        format!("{}.commands-{participant}", self.stage)
    }

    /// Where all of them answer.
    pub(crate) fn replies(&self) -> String {
        format!("{}.replies", self.stage)
    }

    fn of_step(&self, step: usize) -> String {
        self.commands(step % self.participants)
    }
}

/// A coordinator of trips that tells `endings` of each that ends.
pub(crate) fn coordinator(topics: &Topics, endings: &Endings) -> Result<Coordinator> {
    let coordinator = Coordinator::builder(topics.replies());
    Ok(coordinator.define(definition(topics, endings)?)?.build())
}

/// The trip's definition.
pub(crate) fn definition(topics: &Topics, endings: &Endings) -> Result<Definition<Trip>> {
    let booked = |trip: &mut Trip, reply: Booked| trip.bookings.push(reply.total);
    let undoable = |step: usize| {
        Step::new(STEPS[step])
            .command(topics.of_step(step), |trip: &Trip| trip.book(false))
            .reply(booked)
            .compensation(|trip: &Trip| Cancel {
                account: trip.account,
                amount: trip.amount,
            })
            .timeout(TIMEOUT)
    };
    let last = Step::new(STEPS[2])
        .command(topics.of_step(2), |trip: &Trip| trip.book(trip.refused))
        .reply(booked)
        .timeout(TIMEOUT);
    let (completed, compensated) = (endings.clone(), endings.clone());
    let definition = Definition::builder(NAME, 1)
        .compensatable(undoable(0))
        .compensatable(undoable(1))
        .pivot(last)
        .on_completed(move |_, trip| {
            completed.note(trip.id);
            Box::pin(async { Ok(()) })
        })
        .on_compensated(move |_, trip| {
            compensated.note(trip.id);
            Box::pin(async { Ok(()) })
        });
    Ok(definition.build()?)
}
