//! A sound saga passes everything.

use super::sagas::*;
use crate::testing::*;

#[test]
fn a_sound_saga_passes_every_trial() {
    for abroad in [true, false] {
        let given = given(&trip(), abroad);
        println!("{}", fails_at_each_step(&given));
        println!("{}", repeats_each_step(&given));
        println!("{}", dies_after_each_commit(&given));
        println!("{}", times_out_at_each_step(&given));
    }
}

#[test]
fn a_sound_saga_passes_every_trial_with_effects_outside_of_a_database() {
    let given = given(&trip(), true).external("pay").external("flight");
    println!("{}", fails_at_each_step(&given));
    println!("{}", repeats_each_step(&given));
    println!("{}", dies_after_each_commit(&given));
    println!("{}", times_out_at_each_step(&given));
}

#[test]
fn no_order_of_what_may_happen_breaks_a_sound_saga() {
    let explored = explore(&small_given(&small()), &Bounds::default());
    for ending in ["completed", "compensated", "abandoned", "paused", "parked"] {
        assert!(explored.ends(ending), "{explored}");
    }
}

#[test]
fn nor_one_with_stages_a_condition_a_lock_and_a_deadline() {
    let bounds = Bounds {
        early_timeouts: 1,
        losses: 0,
        duplicates: 0,
        ..Bounds::unattended()
    };
    let faults = [
        Bounds {
            losses: 1,
            ..bounds
        },
        Bounds {
            duplicates: 1,
            refusals: 0,
            ..bounds
        },
        Bounds {
            interventions: 1,
            early_timeouts: 0,
            ..bounds
        },
    ];
    for bounds in faults {
        let explored = explore(&given(&trip(), true), &bounds);
        assert!(
            explored.ends("completed") && explored.ends("compensated"),
            "{explored}"
        );
    }
}

#[test]
fn nor_one_with_an_effect_outside_of_a_database() {
    let bounds = Bounds {
        interventions: 0,
        ..Bounds::default()
    };
    let given = small_given(&small()).external("pay").external("flight");
    let explored = explore(&given, &bounds);
    assert!(
        explored.ends("completed") && explored.ends("compensated"),
        "{explored}"
    );
}

#[test]
fn a_sound_saga_wanders_to_an_end() {
    let wandered = wander(&given(&trip(), true).external("pay"), 1, 200);
    assert_eq!(wandered.runs, 200);
    assert!(wandered.endings.len() >= 4, "{wandered}");
}
