//! Mistakes that people make in a definition, in its trial or in the decisions, each made once: the
//! kit tells of it in a message that somebody reads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use outbox::Payload;

use super::{
    broken::{careless, complaint, decided, sound, without},
    sagas::*,
};
use crate::{
    decide::Effect,
    definition::{Definition, Replied, Step},
    event::{Event, IgnoredBecause, Timer},
    locks::Claim,
    operation::Phase,
    testing::*,
};

/// A trial by its name.
type Trial = (&'static str, fn(&Given));

/// Every trial of the kit, each of which meets a saga that is broken from its start.
const TRIALS: [Trial; 7] = [
    ("fails_at_each_step", |given| {
        drop(fails_at_each_step(given))
    }),
    ("repeats_each_step", |given| drop(repeats_each_step(given))),
    ("dies_after_each_commit", |given| {
        drop(dies_after_each_commit(given))
    }),
    ("times_out_at_each_step", |given| {
        drop(times_out_at_each_step(given))
    }),
    ("explore", |given| {
        drop(explore(given, &Bounds::unattended()))
    }),
    ("wander", |given| drop(wander(given, 1, 20))),
    ("World", |given| {
        let mut world = World::new(1, given.ledger.clone());
        world.start(&Arc::new(given.clone()));
        drop(world.run());
    }),
];

/// What a trial says, which must be short.
#[track_caller]
fn told(name: &str, given: &Given, trial: fn(&Given)) -> String {
    let told = complaint(|| trial(given));
    let told = told.unwrap_or_else(|| panic!("{name} passes, and should not"));
    assert!(told.lines().count() <= 180, "{name} says too much:\n{told}");
    told
}

/// Each trial says this.
#[track_caller]
fn everybody_says(expected: &str, given: &Given) {
    for (name, trial) in TRIALS {
        let told = told(name, given, trial);
        assert!(
            told.contains(expected),
            "{name}: expected {expected:?} in:\n{told}"
        );
    }
}

/// The search says this.
#[track_caller]
fn explore_says(expected: &str, given: &Given) {
    explore_within(expected, given, &Bounds::unattended());
}

#[track_caller]
fn explore_within(expected: &str, given: &Given, bounds: &Bounds) {
    let found = search(given, bounds).expect_err("the search passes, and should not");
    let told = found.to_string();
    assert!(told.contains(expected), "expected {expected:?} in:\n{told}");
    assert!(told.lines().count() <= 180, "it says too much:\n{told}");
}

fn attended() -> Bounds {
    Bounds {
        interventions: 2,
        losses: 1,
        refusals: 0,
        duplicates: 0,
        ..Bounds::default()
    }
}

/// Flight, then pay; the given is theirs, and the flight's answer is folded as said.
fn two_steps(
    flight: impl FnOnce(Replied<Trip>) -> crate::definition::Compensatable<Trip>,
) -> Definition<Trip> {
    let first = step("flight", |trip, number| trip.flight = Some(number));
    Definition::<Trip>::builder("two", 1)
        .compensatable(flight(first))
        .pivot(step("pay", |trip, number| trip.paid = Some(number)).probes(1))
        .build()
        .unwrap()
}

fn two_given(definition: &Definition<Trip>) -> Given {
    Given::new(definition, &data(false))
        .reply("flight", &Done { number: 2 })
        .reply("pay", &Done { number: 5 })
        .listens("flight.commands", [Do::KIND, Undo::KIND])
        .listens("pay.commands", [Do::KIND])
}

fn undoable(step: Replied<Trip>) -> crate::definition::Compensatable<Trip> {
    step.compensation(|_: &Trip| Undo { number: 0 })
}

// --- in a definition ---

#[test]
fn swapped_topics() {
    let swapped = |given: Given| {
        given
            .listens("flight.commands", [Money::KIND])
            .listens("money.commands", [Do::KIND, Undo::KIND])
    };
    let definition = Definition::<Trip>::builder("swapped", 1)
        .compensatable(undoable(step("flight", |trip, number| {
            trip.flight = Some(number);
        })))
        .pivot(
            Step::new("pay")
                .command("money.commands", |trip: &Trip| Money { amount: trip.price })
                .reply(|_: &mut Trip, _: Done| {}),
        )
        .build()
        .unwrap();
    let given = Given::new(&definition, &data(false))
        .reply("flight", &Done { number: 2 })
        .reply("pay", &Done { number: 5 });
    everybody_says(
        "the action of flight is sent as do.v1 on flight.commands, where nobody listens for it; it is \
         listened for on money.commands",
        &swapped(given.clone()),
    );
    everybody_says(
        "say who does: `.listens(\"flight.commands\", [\"do.v1\", …])`",
        &given,
    );
}

#[test]
fn a_compensation_from_its_own_steps_answer() {
    let definition = two_steps(|flight| {
        flight.compensation(|trip: &Trip| Undo {
            number: trip.flight.unwrap_or(0),
        })
    });
    everybody_says(
        "the compensation of flight is made from the answer of flight, which may be lost: \
         {\"number\":2} with it, {\"number\":0} without",
        &two_given(&definition),
    );
    let definition = two_steps(|flight| {
        flight.compensation(|trip: &Trip| Undo {
            number: trip.flight.expect("the flight was answered"),
        })
    });
    everybody_says(
        "the compensation of flight cannot be made without the answer of flight, which may be lost: the \
         compensation of step flight panicked: the flight was answered",
        &two_given(&definition),
    );
}

#[test]
fn a_compensation_from_the_answer_of_a_step_beside_it() {
    let definition = Definition::<Trip>::builder("beside", 1)
        .parallel([
            undoable(step("flight", |trip, number| trip.flight = Some(number))),
            step("hotel", |trip, number| trip.hotel = Some(number)).compensation(|trip: &Trip| {
                Undo {
                    number: trip.flight.unwrap_or(0),
                }
            }),
        ])
        .build()
        .unwrap();
    let given = Given::new(&definition, &data(false))
        .reply("flight", &Done { number: 2 })
        .reply("hotel", &Done { number: 3 })
        .listens("flight.commands", [Do::KIND, Undo::KIND])
        .listens("hotel.commands", [Do::KIND, Undo::KIND]);
    everybody_says(
        "the compensation of hotel is made from the answer of flight",
        &given,
    );
}

#[test]
fn a_timeout_longer_than_the_deadline() {
    let mut given = two_given(&two_steps(undoable));
    given.plan.deadline = Some(Duration::from_secs(1));
    everybody_says(
        "flight waits 1s for its answer, and the saga's deadline is 1s: it never times out",
        &given,
    );
    given.plan.deadline = Some(Duration::from_millis(1500));
    given.plan.steps[0].attempts = 3;
    everybody_says(
        "attempt 3 of flight can only begin after 2s, and the saga's deadline is 1.5s: it is never made",
        &given,
    );
}

#[test]
fn a_timeout_of_nothing_or_of_a_century() {
    let mut given = two_given(&two_steps(undoable));
    given.plan.steps[0].timeout = Duration::ZERO;
    everybody_says("flight waits no time at all for its answer", &given);
    given.plan.steps[0].timeout = Duration::from_secs(100 * 365 * 24 * 3600);
    everybody_says("flight waits 3153600000s: longer than a year", &given);
}

#[test]
fn a_random_number_in_the_first_command() {
    let drawn = Arc::new(AtomicU32::new(0));
    let definition = Definition::<Trip>::builder("random", 1)
        .pivot(
            Step::new("pay")
                .command("pay.commands", move |_: &Trip| Do {
                    number: drawn.fetch_add(1, Ordering::Relaxed),
                })
                .reply(|_: &mut Trip, _: Done| {})
                .attempts(1),
        )
        .build()
        .unwrap();
    let given = Given::new(&definition, &data(false))
        .reply("pay", &Done { number: 5 })
        .listens("pay.commands", [Do::KIND]);
    everybody_says("the saga was started twice with the same data", &given);
}

#[test]
fn a_fold_a_command_and_a_participant_that_panic() {
    let fold = Definition::<Trip>::builder("panics", 1)
        .compensatable(undoable(step("flight", |_, number| {
            panic!("no flight {number}")
        })))
        .pivot(step("pay", |trip, number| trip.paid = Some(number)))
        .build()
        .unwrap();
    let fold = two_given(&fold);
    everybody_says(
        "the fold of the reply of step flight panicked: no flight 2",
        &fold,
    );
    for (name, trial) in TRIALS {
        let told = told(name, &fold, trial);
        assert!(
            told.contains("sends flight 1.1"),
            "{name} tells no story:\n{told}"
        );
    }
    let command = Definition::<Trip>::builder("panics", 1)
        .compensatable(undoable(step("flight", |_, _| {})))
        .pivot(
            Step::new("pay")
                .command("pay.commands", |trip: &Trip| Do {
                    number: trip.flight.expect("a flight"),
                })
                .reply(|_: &mut Trip, _: Done| {}),
        )
        .build()
        .unwrap();
    let command = two_given(&command);
    everybody_says("the command of step pay panicked: a flight", &command);
    let world = told("World", &command, TRIALS[6].1);
    assert!(world.contains("seed 1"), "{world}");
}

// --- a claim that is granted and not noticed, as the second of two of one resource was ---

/// Folds as a saga does that knows two claims and is told of one: the second is never granted.
fn one_is_forgotten(given: Given) -> Given {
    given.decided_by(|plan, instance, input| {
        let mut decision = crate::decide::decide(plan, instance, input)?;
        let granted = |event: &Event| matches!(event, Event::LockGranted { .. });
        if decision.events.iter().any(granted) {
            decision
                .events
                .retain(|event| !granted(event) && !matches!(event, Event::CommandSent { .. }));
            decision.effects.clear();
        }
        Ok(decision)
    })
}

fn pays(definition: &Definition<Trip>) -> Given {
    Given::new(definition, &data(false))
        .reply("pay", &Done { number: 5 })
        .listens("pay.commands", [Do::KIND])
}

#[test]
fn a_lock_that_is_never_noticed() {
    let definition = Definition::<Trip>::builder("locked", 1)
        .lock(|_: &Trip| Claim::exclusive("account/ada"))
        .pivot(step("pay", |trip, number| trip.paid = Some(number)))
        .build()
        .unwrap();
    let given = one_is_forgotten(pays(&definition));
    everybody_says("it neither ended nor waits for a person", &given);
    // With a deadline it ends, and still never works.
    let mut given = given;
    given.plan.deadline = Some(Duration::from_secs(60));
    explore_says("neither to an end nor to a stop that anybody sees", &given);
}

/// Sender and receiver are the same.
#[test]
fn two_claims_of_one_resource_are_one() {
    let definition = Definition::<Trip>::builder("twice", 1)
        .lock(|_: &Trip| Claim::exclusive("account/ada"))
        .lock(|_: &Trip| Claim::exclusive("account/ada"))
        .pivot(step("pay", |trip, number| trip.paid = Some(number)))
        .build()
        .unwrap();
    let explored = explore(&pays(&definition), &attended());
    assert!(explored.ends("completed"), "{explored}");
}

// --- in its trial ---

#[test]
fn a_misspelt_account() {
    let given = sound().does("pay", |ledger: &mut Ledger, _: Do| {
        ledger.capture("ada", "agencie", 80)
    });
    everybody_says(
        "what the participant of pay does panicked: there is no account \"agencie\"; there are ada, \
         agency",
        &given,
    );
}

#[test]
fn an_answer_of_a_step_that_was_never_sent() {
    let script = || Script::of(&small(), &data(false));
    let told = complaint(|| drop(script().succeeds("pay", &Done { number: 5 }))).unwrap();
    assert!(
        told.starts_with("pay answers succeeded, and the action of pay was never sent"),
        "{told}"
    );
    let told = complaint(|| drop(script().compensates("flight"))).unwrap();
    assert!(
        told.contains("the compensation of flight was never sent"),
        "{told}"
    );
}

#[test]
fn a_saga_that_never_completes() {
    let poor = || sound().ledger(Ledger::new().with("ada", 79).with("agency", 0));
    for (name, trial) in TRIALS.into_iter().filter(|(name, _)| *name != "World") {
        let told = told(name, &poor(), trial);
        assert!(
            told.contains("never completes: it is compensated")
                || told.contains("expected the saga to be completed"),
            "{name}:\n{told}"
        );
    }
}

#[test]
fn a_story_that_nobody_would_read_is_cut() {
    let patient = |definition: &Definition<Trip>| Script::of(definition, &data(false));
    let definition = Definition::<Trip>::builder("patient", 1)
        .pivot(
            step("pay", |trip, number| trip.paid = Some(number))
                .attempts(3_000)
                .probes(0),
        )
        .build()
        .unwrap();
    let script = patient(&definition).never_answers("pay");
    let told = complaint(|| drop(script.expect_sent("tickets"))).unwrap();
    assert!(told.lines().count() < 100, "{told}");
    assert!(
        told.contains("lines are left out") && told.contains("sends pay 1.1"),
        "{told}"
    );
    assert!(told.contains("parked at pay"), "{told}");
}

#[test]
fn what_is_not_needed_for_a_failure_is_left_out_of_its_script() {
    let found = search(&careless(), &Bounds::unattended()).unwrap_err();
    let shortest = found.script.lines().count();
    let told = complaint(|| drop(wander(&careless(), 1, 100))).unwrap();
    let (_, script) = told.split_once("for `replay`:\n").unwrap();
    let (script, _) = script.split_once("\n\n").unwrap();
    assert!(script.lines().count() <= shortest + 4, "{told}");
    assert!(
        replay(&careless(), &Bounds::unattended(), script).is_err(),
        "{told}"
    );
}

// --- in the decisions ---

#[test]
fn an_effect_that_is_left_out() {
    type LeftOut = fn(&Effect) -> bool;
    let cases: [(LeftOut, &str); 3] = [
        (|effect| matches!(effect, Effect::Ended(_)), "Ended("),
        (
            |effect| matches!(effect, Effect::StepSettled { .. }),
            "StepSettled",
        ),
        (|effect| matches!(effect, Effect::Parked { .. }), "Parked"),
    ];
    for (left_out, expected) in cases {
        let given = without(|_| false, left_out);
        let told = search(&given, &Bounds::unattended())
            .unwrap_err()
            .to_string();
        assert!(
            told.contains("what is recorded asks for the effects") && told.contains(expected),
            "{told}"
        );
    }
}

#[test]
fn a_timer_of_nothing_of_a_century_and_of_another_phase() {
    for wrong in [Duration::ZERO, Duration::from_secs(100 * 365 * 24 * 3600)] {
        let given = decided(move |_, _, mut decision| {
            for effect in &mut decision.effects {
                if let Effect::SetTimer { after, .. } = effect {
                    *after = wrong;
                }
            }
            decision
        });
        explore_says("the definition says", &given);
    }
    let backoff = decided(|_, _, mut decision| {
        for effect in &mut decision.effects {
            if let Effect::SetTimer { timer, after } = effect
                && matches!(timer, Timer::Attempt(due) if due.attempt > 1)
            {
                *after = Duration::from_secs(6);
            }
        }
        decision
    });
    explore_says(
        "waits 6s for its next try, the definition says 5s",
        &backoff,
    );
}

#[test]
fn a_reply_that_is_ignored_for_another_reason() {
    let renamed = |from: IgnoredBecause, to: IgnoredBecause| {
        decided(move |_, _, mut decision| {
            for event in &mut decision.events {
                if let Event::Ignored { reason, .. } = event
                    && *reason == from
                {
                    *reason = to;
                }
            }
            decision
        })
    };
    use IgnoredBecause::{AfterTerminal, Contradiction, Duplicate, Stale, Unexpected};
    explore_says("it is duplicate", &renamed(Duplicate, Stale));
    explore_says("it is duplicate", &renamed(Duplicate, Contradiction));
    explore_says("it is stale", &renamed(Stale, Unexpected));
    explore_says("it is stale", &renamed(Stale, AfterTerminal));
    explore_within(
        "it is after_terminal",
        &renamed(AfterTerminal, Unexpected),
        &attended(),
    );
}

#[test]
fn a_command_of_another_kind_or_on_another_topic() {
    let elsewhere = decided(|_, _, mut decision| {
        for effect in &mut decision.effects {
            if let Effect::Send(command) = effect
                && command.operation.step == "pay"
            {
                "flight.commands".clone_into(&mut command.topic);
            }
        }
        decision
    });
    explore_says(
        "is sent as do.v1 on flight.commands, the definition says do.v1 on pay",
        &elsewhere,
    );
    let otherwise = decided(|_, _, mut decision| {
        for effect in &mut decision.effects {
            if let Effect::Send(command) = effect
                && command.operation.phase == Phase::Compensation
            {
                command.kind = Do::KIND;
            }
        }
        decision
    });
    explore_says("the compensation of flight is sent as do.v1", &otherwise);
}

#[test]
fn a_budget_that_is_not_spent_or_exceeded() {
    let mut patient = sound();
    patient.plan.steps[0].attempts = 4;
    // It gives up after three.
    let hasty = patient.decided_by(|plan, instance, input| {
        let mut plan = plan.clone();
        plan.steps[0].attempts = 3;
        crate::decide::decide(&plan, instance, input)
    });
    let told = complaint(|| drop(times_out_at_each_step(&hasty))).unwrap();
    let expected =
        "gives up after the action of flight was sent 3 times in round 1; its budget is 4";
    assert!(told.contains(expected), "{told}");
    let bounds = Bounds {
        attempts: 4,
        losses: 4,
        ..Bounds::unattended()
    };
    explore_within(expected, &hasty, &bounds);
}

#[test]
fn a_claim_that_an_end_does_not_give_back() {
    let (instance, decision) = crate::decide::start(
        &given(&trip(), false).plan,
        uuid::Uuid::from_u128(1),
        "trial",
        &serde_json::to_value(data(false)).unwrap(),
    )
    .unwrap();
    let mut claims = claims::Claims::default();
    claims.follow(&instance, &decision);
    claims.time_goes_on();
    claims.promises(&instance).unwrap();
    let ended = crate::Instance {
        status: crate::Status::Compensated,
        ..instance
    };
    let told = claims.promises(&ended).unwrap_err().reason();
    assert_eq!(
        told,
        "it is compensated, and still waits for credit, for ever"
    );
    claims.settle("credit", true).unwrap();
    let told = claims.promises(&ended).unwrap_err().reason();
    assert_eq!(told, "it is compensated, and still holds credit, for ever");
}

#[test]
fn a_saga_that_is_brought_to_another_version_keeps_every_promise() {
    let next = |topic: &'static str| {
        Definition::<Trip>::builder("small", 2)
            .migrates_from(1, |trip: Trip| trip)
            .compensatable(
                step("flight", |trip, number| trip.flight = Some(number))
                    .compensation(|_: &Trip| Undo { number: 0 })
                    .compensation_attempts(2),
            )
            .pivot(step("pay", |trip, number| trip.paid = Some(number)).probes(1))
            .retriable(
                Step::new("tickets")
                    .command(topic, |_: &Trip| Do { number: 0 })
                    .reply(|trip: &mut Trip, done: Done| trip.tickets = Some(done.number))
                    .rounds(2)
                    .attempts(2),
            )
            .retriable(step("visa", |trip, number| trip.visa = Some(number)).rounds(2))
            .build()
            .unwrap()
    };
    let next = |topic| {
        small_given(&next(topic))
            .reply("visa", &Done { number: 4 })
            .listens("visa.commands", [Do::KIND])
            .listens("post.commands", [Do::KIND])
    };
    let bounds = Bounds {
        interventions: 1,
        losses: 1,
        duplicates: 0,
        refusals: 0,
        ..Bounds::default()
    };
    let migrated = explore(&sound().migrates_to(next("tickets.commands")), &bounds);
    let alone = explore(&sound(), &bounds);
    assert!(
        migrated.states > alone.states,
        "nobody was migrated: {migrated}{alone}"
    );
    drop(wander(
        &sound().migrates_to(next("tickets.commands")),
        7,
        100,
    ));
    // Where tickets were asked for already, it is refused; elsewhere they are asked for there.
    let moved = explore(&sound().migrates_to(next("post.commands")), &bounds);
    assert!(moved.ends("completed"), "{moved}");
    let told = complaint(|| drop(sound().migrates_to(sound()))).unwrap();
    assert!(told.contains("has no migration from version 1"), "{told}");
}

#[test]
fn a_step_that_was_begun_on_one_topic_and_goes_on_on_another() {
    let mut books = books::Books::default();
    let operation = crate::Operation {
        saga_id: uuid::Uuid::from_u128(1),
        step: "tickets".to_owned(),
        phase: Phase::Action,
        round: 1,
    };
    let command = |phase, topic: &str| crate::decide::Command {
        operation: crate::Operation {
            phase,
            ..operation.clone()
        },
        attempt: 1,
        topic: topic.to_owned(),
        kind: Do::KIND,
        payload: Vec::new(),
        probe: false,
    };
    books.send(&command(Phase::Action, "tickets")).unwrap();
    books.send(&command(Phase::Action, "tickets")).unwrap();
    let told = books
        .send(&command(Phase::Action, "post"))
        .unwrap_err()
        .reason();
    assert_eq!(
        told,
        "the action of tickets was sent as do.v1 on tickets, and now as do.v1 on post"
    );
    let told = books
        .send(&command(Phase::Compensation, "post"))
        .unwrap_err()
        .reason();
    assert!(told.contains("its compensation on post"), "{told}");
}
