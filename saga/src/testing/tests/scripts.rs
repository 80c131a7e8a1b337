//! Scripts: what they tell, what they expect, and what they say when it is not so.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::sagas::*;
use crate::{
    event::IgnoredBecause,
    instance::{Status, WaitingFor},
    intervention::What,
    testing::Script,
};

fn story() -> Script {
    Script::of(&trip(), &data(true))
}

fn booked() -> Script {
    story()
        .lock_granted("credit")
        .succeeds("hold", &Done { number: 1 })
        .succeeds("flight", &Done { number: 2 })
        .succeeds("hotel", &Done { number: 3 })
}

#[test]
fn a_whole_trip() {
    let script = story()
        .expect_nothing_sent()
        .expect_waiting_for(WaitingFor::Lock, "credit")
        .lock_granted("credit")
        .expect_command("hold", &Money { amount: 80 })
        .succeeds("hold", &Done { number: 1 })
        .expect_sent("flight")
        .expect_sent("hotel")
        .succeeds("hotel", &Done { number: 3 })
        .expect_nothing_sent()
        .succeeds("hotel", &Done { number: 3 })
        .expect_ignored(IgnoredBecause::Duplicate)
        .succeeds("flight", &Done { number: 2 })
        .expect_sent("visa")
        .succeeds("visa", &Done { number: 4 })
        .succeeds("pay", &Done { number: 5 })
        .operator_may_not(What::Cancel {}, "cannot be undone")
        .succeeds("tickets", &Done { number: 6 })
        .expect_status(Status::Completed)
        .expect_undone([])
        .expect_skipped([]);
    let trip: Trip = script.data();
    assert_eq!(
        (trip.flight, trip.hotel, trip.visa),
        (Some(2), Some(3), Some(4))
    );
}

#[test]
fn back_in_reverse() {
    story()
        .lock_granted("credit")
        .succeeds("hold", &Done { number: 1 })
        .succeeds("flight", &Done { number: 2 })
        .refuses("hotel", "full", "The hotel is full.")
        .expect_turned_back_because("The hotel is full.")
        .expect_compensation("flight", &Undo { number: 0 })
        .compensates("flight")
        .expect_compensation("hold", &Money { amount: 80 })
        .never_answers("hold")
        .expect_parked_because("the compensation of hold did not answer in time")
        .operator(What::Retry { step: None })
        .expect_compensation_sent("hold")
        .compensates("hold")
        .expect_status(Status::Compensated)
        .expect_undone(["flight", "hold"]);
}

#[test]
fn a_silent_pivot_is_asked_before_anybody_guesses() {
    booked()
        .succeeds("visa", &Done { number: 4 })
        .expect_sent("pay")
        .time_passes()
        .expect_nothing_sent()
        .time_passes()
        .expect_sent("pay")
        .time_passes()
        .expect_probed("pay")
        .never_answers("pay")
        .expect_status(Status::Parked)
        .expect_parked_because("pay did not answer")
        .succeeds("pay", &Done { number: 5 })
        .expect_sent("tickets");
    booked()
        .succeeds("visa", &Done { number: 4 })
        .never_answers("pay")
        .operator(What::Retry { step: None })
        .was_called_off("pay")
        .expect_compensation_sent("visa");
}

#[test]
fn a_deadline_and_a_lock_that_is_not_to_be_had() {
    booked()
        .deadline_passes()
        .expect_turned_back_because("its deadline passed")
        .finds_nothing_to_undo("visa")
        .expect_compensation_sent("flight")
        .expect_compensation_sent("hotel");
    story()
        .lock_refused("credit")
        .expect_turned_back_because("more of credit than there is")
        .expect_status(Status::Compensated);
}

#[test]
fn what_is_not_as_expected_fails_with_the_story_so_far() {
    let complaint = |story: &dyn Fn()| {
        let panic = catch_unwind(AssertUnwindSafe(story)).expect_err("this passes");
        *panic.downcast::<String>().expect("the story")
    };
    let cases: [(&dyn Fn(), &str); 8] = [
        (
            &|| drop(booked().expect_sent("pay")),
            "expected the action of pay to be sent",
        ),
        (
            &|| drop(booked().expect_status(Status::Completed)),
            "expected the saga to be completed, it is running",
        ),
        (
            &|| drop(booked().expect_undone(["hold"])),
            "expected [\"hold\"] to be undone, it is []",
        ),
        (
            &|| drop(booked().expect_parked_because("x")),
            "expected it to be parked, it is not",
        ),
        (&|| drop(booked().expect_nothing_sent()), "and visa was"),
        (
            &|| drop(booked().expect_command("visa", &Do { number: 9 })),
            "expected Do { number: 9 } to be sent, it is Do { number: 0 }",
        ),
        (
            &|| drop(booked().operator_may_not(What::Pause {}, "x")),
            "and it is allowed",
        ),
        (
            &|| drop(booked().never_answers("hold")),
            "hold is not asked anything",
        ),
    ];
    for (story, expected) in cases {
        let complaint = complaint(story);
        assert!(complaint.contains(expected), "{complaint}");
        assert!(
            complaint.contains("the story so far:\n> the saga starts"),
            "{complaint}"
        );
        assert!(complaint.contains("hotel took effect"), "{complaint}");
        assert!(complaint.contains("now: running"), "{complaint}");
    }
}
