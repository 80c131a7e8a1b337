//! Each trial fails on something broken: a participant without its barrier, a compensation that does
//! too little, a definition whose closures are not what they should be, and decisions with one thing
//! wrong in each.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use outbox::Payload;

use super::sagas::*;
use crate::{
    decide::{Decision, Effect, decide},
    definition::Plan,
    event::{Event, Input},
    instance::{Instance, StepStatus},
    operation::Phase,
    testing::*,
};

/// What a trial says when it fails; none if it passes.
pub(super) fn complaint(trial: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(trial)).err()?;
    let text = panic.downcast::<String>().map(|text| *text);
    Some(text.unwrap_or_else(|_| "a panic without words".to_owned()))
}

#[track_caller]
fn fails(with: &str, trial: impl FnOnce()) {
    let complaint = complaint(trial).expect("the trial passes and should not");
    assert!(
        complaint.contains(with),
        "expected {with:?} in:\n{complaint}"
    );
}

pub(super) fn sound() -> Given {
    small_given(&small())
}

/// With money enough to pay for everything twice.
fn rich() -> Given {
    sound().ledger(Ledger::new().with("ada", 1_000).with("agency", 0))
}

pub(super) fn careless() -> Given {
    rich().without_barrier()
}

/// Decisions with one thing wrong.
pub(super) fn decided(
    wrong: impl Fn(&Instance, &Input, Decision) -> Decision + Send + Sync + 'static,
) -> Given {
    sound().decided_by(move |plan: &Plan, instance: &Instance, input: &Input| {
        Ok(wrong(instance, input, decide(plan, instance, input)?))
    })
}

/// The same, recorded and sent differently: what is left out of both is never noticed by itself.
pub(super) fn without(events: fn(&Event) -> bool, effects: fn(&Effect) -> bool) -> Given {
    decided(move |_, _, mut decision| {
        decision.events.retain(|event| !events(event));
        decision.effects.retain(|effect| !effects(effect));
        decision
    })
}

fn undoing(effect: &Effect) -> bool {
    matches!(effect, Effect::Send(command) if command.operation.phase == Phase::Compensation)
}

// --- participants ---

#[test]
fn a_participant_without_a_barrier_fails_where_something_is_repeated() {
    fails("took effect 2 times", || {
        drop(repeats_each_step(&careless()))
    });
    fails("took effect 2 times", || {
        drop(dies_after_each_commit(&careless()))
    });
    fails("was undone", || drop(times_out_at_each_step(&careless())));
    fails("the script", || {
        drop(explore(&careless(), &Bounds::unattended()))
    });
    fails("seed", || drop(wander(&careless(), 1, 100)));
    fails("seed", || {
        let mut world = World::new(1, careless().ledger).faults(300);
        let given = Arc::new(careless());
        for _ in 0..10 {
            world.start(&given);
        }
        drop(world.run());
    });
}

#[test]
fn a_compensation_that_gives_back_too_little_fails_where_a_step_fails() {
    let stingy = || {
        sound().undoes("flight", |ledger: &mut Ledger, _: Undo| {
            ledger.release("ada", 79)
        })
    };
    fails("the ledger is not what it was", || {
        drop(fails_at_each_step(&stingy()))
    });
    fails("the ledger is not what it was", || {
        drop(times_out_at_each_step(&stingy()))
    });
    fails("the ledger is not what it was", || {
        drop(explore(&stingy(), &Bounds::unattended()))
    });
}

#[test]
fn a_compensation_that_refuses_fails_where_a_step_fails() {
    let stubborn = sound().undoes("flight", |ledger: &mut Ledger, _: Undo| {
        ledger.release("ada", 81)
    });
    fails("must not be refused", || {
        drop(fails_at_each_step(&stubborn))
    });
}

#[test]
fn money_out_of_nothing_is_noticed_at_once() {
    let generous = sound().does("pay", |ledger: &mut Ledger, _: Do| {
        *ledger = ledger.clone().with("shop", 5);
        Ok(())
    });
    fails("in the ledger, now there is", || {
        drop(fails_at_each_step(&generous))
    });
}

// --- definitions ---

#[test]
fn a_closure_that_looks_at_something_else_is_noticed() {
    let calls = AtomicU32::new(0);
    let definition = trip_with(move |trip, _| {
        trip.hotel = Some(calls.fetch_add(1, Ordering::Relaxed));
    });
    let given = given(&definition, false);
    fails("the same question got two decisions", || {
        drop(fails_at_each_step(&given))
    });
}

#[test]
fn a_fold_that_depends_on_the_order_of_the_replies_is_noticed() {
    // The hotel's reply overwrites what the flight's said.
    let definition = trip_with(|trip, number| {
        trip.hotel = Some(number);
        trip.flight = None;
    });
    let bounds = Bounds {
        refusals: 0,
        losses: 0,
        duplicates: 0,
        early_timeouts: 0,
        ..Bounds::unattended()
    };
    let given = given(&definition, false);
    fails("depends on the order of the replies", || {
        drop(explore(&given, &bounds))
    });
}

#[test]
fn data_that_is_not_read_back_as_it_was_written_is_noticed() {
    use crate::definition::{Definition, Step};
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Forgetful {
        #[serde(default, skip_deserializing)]
        flight: Option<u32>,
    }
    let definition = Definition::<Forgetful>::builder("forgetful", 1)
        .compensatable(
            Step::new("flight")
                .command("flights", |_: &Forgetful| Do { number: 0 })
                .reply(|data: &mut Forgetful, done: Done| data.flight = Some(done.number))
                .compensation(|_: &Forgetful| Undo { number: 0 }),
        )
        .build()
        .unwrap();
    let given = Given::new(&definition, &Forgetful { flight: None });
    let given = given.reply("flight", &Done { number: 7 });
    let given = given.listens("flights", [Do::KIND, Undo::KIND]);
    fails("loses something", || drop(fails_at_each_step(&given)));
}

#[test]
fn a_reply_that_nobody_told_the_trial_is_asked_for() {
    let definition = small();
    let given = Given::new(&definition, &data(false));
    let given = given.listens("flight.commands", [Do::KIND]);
    fails("add `.reply(\"flight\", &…)`", || {
        drop(fails_at_each_step(&given))
    });
    fails("awaits replies of kind done.v1", || {
        drop(Given::new(&definition, &data(false)).reply("flight", &Undo { number: 1 }));
    });
    fails("has no step boat; it has flight, pay, tickets", || {
        drop(Given::new(&definition, &data(false)).reply("boat", &Done { number: 1 }));
    });
}

// --- decisions ---

#[test]
fn a_compensation_that_is_never_sent_is_noticed() {
    // Neither recorded nor sent: the saga counts as compensated and is not.
    let lazy = || {
        decided(|now, _, mut decision| {
            let undoes = decision.effects.iter().any(undoing);
            if undoes
                && now
                    .step("flight")
                    .is_some_and(|s| s.status == StepStatus::Succeeded)
            {
                decision.effects.retain(|effect| {
                    !undoing(effect) && !matches!(effect, Effect::SetTimer { .. })
                });
                decision.events.retain(|event| {
                    !matches!(
                        event,
                        Event::CommandSent {
                            phase: Phase::Compensation,
                            ..
                        }
                    )
                });
                decision.events.push(Event::StepNullCompensated {
                    step: "flight".to_owned(),
                    round: 1,
                });
                decision.events.push(Event::Compensated);
                decision.effects.push(Effect::StepSettled {
                    step: "flight".to_owned(),
                    status: StepStatus::NullCompensated,
                });
                decision
                    .effects
                    .push(Effect::Ended(crate::Status::Compensated));
            }
            decision
        })
    };
    fails("the effect of flight (null_compensated) is left", || {
        drop(fails_at_each_step(&lazy()))
    });
    fails("the effect of flight (null_compensated) is left", || {
        drop(explore(&lazy(), &Bounds::unattended()));
    });
}

#[test]
fn a_timeout_that_is_taken_for_a_refusal_is_noticed() {
    // The mistake of most sagas wired by hand: no answer, so nothing happened.
    let hasty = || {
        decided(|_, _, mut decision| {
            let given_up = decision.events.iter().position(
                |event| matches!(event, Event::ActionUnknown { step, .. } if step == "flight"),
            );
            let Some(at) = given_up else { return decision };
            decision.events.truncate(at);
            decision.events.push(Event::ActionFailed {
                step: "flight".to_owned(),
                round: 1,
                refusal: crate::wire::Refusal::new("timeout", "It did not answer."),
                answer: None,
            });
            decision.events.push(Event::CompensationStarted {
                reason: "It did not answer.".to_owned(),
            });
            decision.events.push(Event::Compensated);
            decision.effects = vec![Effect::Ended(crate::Status::Compensated)];
            decision
        })
    };
    fails("the effect of flight (failed) is left", || {
        drop(times_out_at_each_step(&hasty()))
    });
    fails("the effect of flight (failed) is left", || {
        drop(explore(&hasty(), &Bounds::unattended()));
    });
    fails("the effect of flight (failed) is left", || {
        drop(wander(&hasty(), 1, 300))
    });
}

#[test]
fn a_saga_that_turns_back_over_its_pivot_is_noticed() {
    let timid = || {
        decided(|_, _, mut decision| {
            let probed = decision
                .events
                .iter()
                .any(|e| matches!(e, Event::ProbeSent { .. }));
            if probed {
                decision
                    .events
                    .retain(|e| !matches!(e, Event::ProbeSent { .. }));
                decision.events.push(Event::ActionUnknown {
                    step: "pay".to_owned(),
                    round: 1,
                });
                decision.events.push(Event::CompensationStarted {
                    reason: "silence".to_owned(),
                });
                decision.events.push(Event::CommandSent {
                    step: "flight".to_owned(),
                    phase: Phase::Compensation,
                    round: 1,
                    attempt: 1,
                    op_key: crate::Operation {
                        saga_id: uuid::Uuid::from_u128(1),
                        step: "flight".to_owned(),
                        phase: Phase::Compensation,
                        round: 1,
                    }
                    .key(),
                });
            }
            decision
        })
    };
    fails("flight was undone before pay", || {
        drop(times_out_at_each_step(&timid()))
    });
}

#[test]
fn a_duplicate_that_counts_twice_is_noticed() {
    let forgetful = || {
        decided(|_, _, mut decision| {
            let repeated = decision.events.iter().any(|event| {
                matches!(event, Event::Ignored { reason, .. } if *reason == crate::event::IgnoredBecause::Duplicate)
            });
            if repeated {
                decision.effects.push(Effect::Parked {
                    reason: "what now?".to_owned(),
                });
                decision.events.push(Event::Parked {
                    step: "flight".to_owned(),
                    reason: "what now?".to_owned(),
                    awaits_reply: false,
                });
            }
            decision
        })
    };
    assert!(complaint(|| drop(repeats_each_step(&forgetful()))).is_some());
    assert!(complaint(|| drop(dies_after_each_commit(&forgetful()))).is_some());
    assert!(complaint(|| drop(explore(&forgetful(), &Bounds::unattended()))).is_some());
}

#[test]
fn a_timer_that_is_never_set_is_noticed() {
    let sleepy = || {
        without(
            |_| false,
            |effect| matches!(effect, Effect::SetTimer { .. }),
        )
    };
    fails("the moments it waits for", || {
        drop(fails_at_each_step(&sleepy()))
    });
}

#[test]
fn a_command_that_is_recorded_and_not_sent_is_noticed() {
    let mute = || without(|_| false, |effect| matches!(effect, Effect::Send(_)));
    fails("what is recorded as sent is not what is sent", || {
        drop(fails_at_each_step(&mute()));
    });
}

#[test]
fn a_timer_that_fires_for_nothing_is_noticed() {
    let lost = || {
        decided(|_, input, decision| match input {
            Input::Timer(_) => Decision::default(),
            _ => decision,
        })
    };
    fails("the moments it waits for", || {
        drop(times_out_at_each_step(&lost()))
    });
}

// --- what a failure says ---

#[test]
fn a_counterexample_is_the_shortest_and_replays() {
    let careless = careless();
    let bounds = Bounds::unattended();
    let found = search(&careless, &bounds).unwrap_err();
    let moves = found.script.lines().count();
    assert!(
        moves <= 3,
        "a repeated command needs two or three moves:\n{found}"
    );
    let again = replay(&careless, &bounds, &found.script).unwrap_err();
    assert_eq!(again.broken, found.broken);
    assert_eq!(again.script, found.script);
    // With the barrier back, the same script is harmless as far as it is possible.
    let harmless = replay(&rich(), &bounds, &found.script).unwrap();
    assert!(harmless.contains("now: running"), "{harmless}");
}

#[test]
fn a_line_that_is_not_possible_is_answered_by_those_that_are() {
    fails(
        "`nonsense` is not possible here; possible is\n  command flight action 1: succeeds",
        || {
            drop(replay(&sound(), &Bounds::unattended(), "nonsense"));
        },
    );
}
