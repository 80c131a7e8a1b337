//! A saga of your own, with its trials: book a hotel, then pay. `cargo run -p saga --example trip`
//! tells one story of it; `cargo test -p saga --example trip` tries it.
//!
//! Read it from the top: the words, the saga, the world it meets, the trials.

use std::time::Duration;

use outbox::Payload;
use saga::{
    Definition, Status, Step,
    testing::{Given, Ledger, Script},
};
use serde::{Deserialize, Serialize};

// --- the words: a command, a reply and a command that undoes, for each step ---

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct BookHotel {
    nights: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct HotelBooked {
    booking: u32,
}

/// It names the trip's hotel, not the booking: when a booking was not answered, nobody here knows
/// its number.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct CancelHotel {
    nights: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct TakeMoney {
    amount: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct MoneyTaken {
    receipt: u32,
}

impl Payload for BookHotel {
    const KIND: &'static str = "hotel.book.v1";
}
impl Payload for HotelBooked {
    const KIND: &'static str = "hotel.booked.v1";
}
impl Payload for CancelHotel {
    const KIND: &'static str = "hotel.cancel.v1";
}
impl Payload for TakeMoney {
    const KIND: &'static str = "money.take.v1";
}
impl Payload for MoneyTaken {
    const KIND: &'static str = "money.taken.v1";
}

// --- the saga ---

/// What it knows: what it was started with, and what was answered.
#[derive(Debug, Serialize, Deserialize)]
struct Trip {
    nights: u32,
    price: i64,
    booking: Option<u32>,
    receipt: Option<u32>,
}

impl Trip {
    fn new(nights: u32, price: i64) -> Self {
        Self {
            nights,
            price,
            booking: None,
            receipt: None,
        }
    }
}

/// The hotel can be cancelled; once the money is taken, there is no way back.
fn definition() -> Result<Definition<Trip>, saga::Error> {
    Definition::builder("trip", 1)
        .compensatable(
            Step::new("book-hotel")
                .command("hotel.commands", |trip: &Trip| BookHotel {
                    nights: trip.nights,
                })
                .reply(|trip: &mut Trip, booked: HotelBooked| trip.booking = Some(booked.booking))
                .compensation(|trip: &Trip| CancelHotel {
                    nights: trip.nights,
                })
                .timeout(Duration::from_secs(5)),
        )
        .pivot(
            Step::new("take-money")
                .command("money.commands", |trip: &Trip| TakeMoney {
                    amount: trip.price,
                })
                .reply(|trip: &mut Trip, taken: MoneyTaken| trip.receipt = Some(taken.receipt))
                .timeout(Duration::from_secs(5)),
        )
        .build()
}

// --- the world it meets ---

/// What each participant answers, and what it does to the rooms and the money.
fn world(definition: &Definition<Trip>) -> Given {
    Given::new(definition, &Trip::new(3, 240))
        .reply("book-hotel", &HotelBooked { booking: 7 })
        .reply("take-money", &MoneyTaken { receipt: 9 })
        .listens("hotel.commands", [BookHotel::KIND, CancelHotel::KIND])
        .listens("money.commands", [TakeMoney::KIND])
        .ledger(
            Ledger::new()
                .with("ada", 1_000)
                .with("agency", 0)
                .with("rooms", 20),
        )
        .does("book-hotel", |ledger, book: BookHotel| {
            ledger.hold("rooms", i64::from(book.nights))
        })
        .undoes("book-hotel", |ledger, cancel: CancelHotel| {
            ledger.release("rooms", i64::from(cancel.nights))
        })
        .does("take-money", |ledger, take: TakeMoney| {
            ledger.transfer("ada", "agency", take.amount)
        })
}

// --- a story ---

fn main() -> Result<(), saga::Error> {
    let definition = definition()?;
    let story = Script::of(&definition, &Trip::new(3, 240))
        .expect_command("book-hotel", &BookHotel { nights: 3 })
        .never_answers("book-hotel")
        .expect_turned_back_because("book-hotel did not answer in time")
        .expect_compensation("book-hotel", &CancelHotel { nights: 3 })
        .succeeds("book-hotel", &HotelBooked { booking: 7 })
        .compensates("book-hotel")
        .expect_status(Status::Compensated);
    println!("{}", story.story());
    println!(
        "\n{}",
        saga::testing::fails_at_each_step(&world(&definition))
    );
    Ok(())
}

// --- the trials ---

#[cfg(test)]
mod tests {
    use saga::testing::{
        Bounds, dies_after_each_commit, explore, fails_at_each_step, repeats_each_step,
        times_out_at_each_step, wander,
    };

    use super::*;

    fn given() -> Given {
        world(&definition().unwrap())
    }

    #[test]
    fn it_fails_well_at_each_step() {
        fails_at_each_step(&given());
    }

    #[test]
    fn it_bears_repetition() {
        repeats_each_step(&given());
    }

    #[test]
    fn it_survives_its_coordinator() {
        dies_after_each_commit(&given());
    }

    #[test]
    fn it_bears_silence() {
        times_out_at_each_step(&given());
    }

    #[test]
    fn no_order_of_what_may_happen_breaks_it() {
        let explored = explore(&given(), &Bounds::default());
        assert!(explored.ends("completed") && explored.ends("compensated"));
    }

    #[test]
    fn it_wanders_to_an_end() {
        wander(&given(), 1, 200);
    }

    #[test]
    fn a_hotel_that_is_booked_and_cannot_be_paid_is_given_back() {
        Script::of(&definition().unwrap(), &Trip::new(3, 240))
            .succeeds("book-hotel", &HotelBooked { booking: 7 })
            .expect_sent("take-money")
            .refuses("take-money", "card_declined", "The card was declined.")
            .expect_compensation("book-hotel", &CancelHotel { nights: 3 })
            .compensates("book-hotel")
            .expect_undone(["book-hotel"]);
    }

    #[test]
    fn the_story_of_the_program_is_told() {
        main().unwrap();
    }
}
