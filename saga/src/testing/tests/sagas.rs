//! The sagas that the kit is tried with.

use std::time::Duration;

use outbox::Payload;
use serde::{Deserialize, Serialize};

use crate::{
    definition::{Definition, Step},
    locks::Claim,
    testing::{Given, Ledger},
    wire::Refusal,
};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Trip {
    pub(super) price: i64,
    pub(super) abroad: bool,
    pub(super) flight: Option<u32>,
    pub(super) hotel: Option<u32>,
    pub(super) car: Option<u32>,
    pub(super) visa: Option<u32>,
    pub(super) paid: Option<u32>,
    pub(super) tickets: Option<u32>,
}

macro_rules! payload {
    ($name:ident, $kind:literal) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub(super) struct $name {
            pub(super) number: u32,
        }
        impl Payload for $name {
            const KIND: &'static str = $kind;
        }
    };
}
payload!(Do, "do.v1");
payload!(Done, "done.v1");
payload!(Undo, "undo.v1");

/// Money in and out of the ledger of whoever travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Money {
    pub(super) amount: i64,
}
impl Payload for Money {
    const KIND: &'static str = "money.v1";
}

pub(super) fn step(
    name: &'static str,
    fold: impl Fn(&mut Trip, u32) + Send + Sync + 'static,
) -> crate::definition::Replied<Trip> {
    Step::new(name)
        .command(format!("{name}.commands"), |_: &Trip| Do { number: 0 })
        .reply(move |trip: &mut Trip, done: Done| fold(trip, done.number))
        .timeout(Duration::from_secs(1))
        .attempts(2)
        .backoff(Duration::from_secs(1), Duration::from_secs(5))
}

/// Hold the money, book flight and hotel side by side, a visa if it is abroad, pay, send the tickets;
/// with a lock on the traveller's credit and a deadline.
pub(super) fn trip() -> Definition<Trip> {
    trip_with(|trip, number| trip.hotel = Some(number))
}

pub(super) fn trip_with(
    hotel: impl Fn(&mut Trip, u32) + Send + Sync + 'static,
) -> Definition<Trip> {
    Definition::<Trip>::builder("trip", 1)
        .lock(|trip: &Trip| Claim {
            resource: "credit".to_owned(),
            units: trip.price,
            capacity: 500,
        })
        .deadline(Duration::from_secs(3600))
        .compensatable(
            Step::new("hold")
                .command("money.commands", |trip: &Trip| Money { amount: trip.price })
                .reply(|_: &mut Trip, _: Done| {})
                .compensation(|trip: &Trip| Money { amount: trip.price })
                .timeout(Duration::from_secs(1))
                .attempts(2)
                .compensation_attempts(3)
                .backoff(Duration::from_secs(1), Duration::from_secs(5)),
        )
        .parallel([
            step("flight", |trip, number| trip.flight = Some(number))
                .compensation(|_: &Trip| Undo { number: 0 })
                .compensation_attempts(3),
            step("hotel", hotel)
                .compensation(|_: &Trip| Undo { number: 0 })
                .compensation_attempts(3),
        ])
        .compensatable(
            step("visa", |trip, number| trip.visa = Some(number))
                .when(|trip: &Trip| trip.abroad)
                .compensation(|_: &Trip| Undo { number: 0 })
                .compensation_attempts(3),
        )
        .pivot(
            Step::new("pay")
                .command("money.commands", |trip: &Trip| Money { amount: trip.price })
                .reply(|trip: &mut Trip, done: Done| trip.paid = Some(done.number))
                .timeout(Duration::from_secs(1))
                .attempts(2)
                .probes(2)
                .backoff(Duration::from_secs(1), Duration::from_secs(5)),
        )
        .retriable(step("tickets", |trip, number| trip.tickets = Some(number)).rounds(2))
        .build()
        .unwrap()
}

pub(super) fn data(abroad: bool) -> Trip {
    Trip {
        price: 80,
        abroad,
        ..Trip::default()
    }
}

/// The trip of somebody with enough money.
pub(super) fn given(definition: &Definition<Trip>, abroad: bool) -> Given {
    with_business(Given::new(definition, &data(abroad)), "ada")
}

pub(super) fn with_business(given: Given, who: &str) -> Given {
    let (a, b, c) = (who.to_owned(), who.to_owned(), who.to_owned());
    given
        .reply("hold", &Done { number: 1 })
        .reply("flight", &Done { number: 2 })
        .reply("hotel", &Done { number: 3 })
        .reply("visa", &Done { number: 4 })
        .reply("pay", &Done { number: 5 })
        .reply("tickets", &Done { number: 6 })
        .listens("money.commands", [Money::KIND])
        .listens("flight.commands", [Do::KIND, Undo::KIND])
        .listens("hotel.commands", [Do::KIND, Undo::KIND])
        .listens("visa.commands", [Do::KIND, Undo::KIND])
        .listens("tickets.commands", [Do::KIND])
        .ledger(Ledger::new().with(who, 100).with("agency", 0))
        .does("hold", move |ledger, money: Money| {
            ledger.hold(&a, money.amount)
        })
        .undoes("hold", move |ledger, money: Money| {
            ledger.release(&b, money.amount)
        })
        .does("pay", move |ledger, money: Money| {
            ledger.capture(&c, "agency", money.amount)
        })
}

/// Two steps and a pivot: small enough for a search through everything.
pub(super) fn small() -> Definition<Trip> {
    Definition::<Trip>::builder("small", 1)
        .compensatable(
            step("flight", |trip, number| trip.flight = Some(number))
                .compensation(|_: &Trip| Undo { number: 0 })
                .compensation_attempts(2),
        )
        .pivot(step("pay", |trip, number| trip.paid = Some(number)).probes(1))
        .retriable(step("tickets", |trip, number| trip.tickets = Some(number)).rounds(2))
        .build()
        .unwrap()
}

/// Money is held by the first step, so that the ledger has something to say.
pub(super) fn small_given(definition: &Definition<Trip>) -> Given {
    Given::new(definition, &data(false))
        .reply("flight", &Done { number: 2 })
        .reply("pay", &Done { number: 5 })
        .reply("tickets", &Done { number: 6 })
        .listens("flight.commands", [Do::KIND, Undo::KIND])
        .listens("pay.commands", [Do::KIND])
        .listens("tickets.commands", [Do::KIND])
        .ledger(Ledger::new().with("ada", 100).with("agency", 0))
        .does("flight", |ledger: &mut Ledger, _: Do| {
            ledger.hold("ada", 80)
        })
        .undoes(
            "flight",
            |ledger: &mut Ledger, _: Undo| -> Result<(), Refusal> { ledger.release("ada", 80) },
        )
        .does("pay", |ledger: &mut Ledger, _: Do| {
            ledger.capture("ada", "agency", 80)
        })
}
