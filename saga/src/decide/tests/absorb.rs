//! Whatever happens in whatever order: what a story checks at each step holds, and an end is an
//! end.

use proptest::prelude::*;

use super::story::*;

/// One thing that happens: what is awaited, or anything at all.
#[derive(Debug, Clone)]
enum Happening {
    Awaited(u8),
    Timer,
    Anything(Input),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..4_u8).prop_map(Happening::Awaited),
        4 => Just(Happening::Timer),
        3 => anything().prop_map(Happening::Anything),
    ]
}

fn anything() -> impl Strategy<Value = Input> {
    let step = prop::sample::select(vec!["a", "b", "p", "r", "x"]);
    let phase = prop::sample::select(Phase::ALL);
    let place = (step, phase, 0..4_i32, 0..4_i32);
    (place, 0..6_u8).prop_map(|((step, phase, round, attempt), answer)| {
        let step = step.to_owned();
        let operation = |step| Operation {
            saga_id: Uuid::from_u128(7),
            step,
            phase,
            round,
        };
        let answer = match answer {
            0 => done(&step),
            1 => no(),
            2 => Answer::Compensated,
            3 => Answer::NullCompensated,
            4 => Answer::Tombstoned,
            _ => {
                return Input::Timer(Timer::Attempt(Attempt {
                    step,
                    phase,
                    round,
                    attempt,
                }));
            }
        };
        Input::Reply(Reply {
            operation: operation(step),
            answer,
        })
    })
}

fn happens(story: Story, what: &Happening) -> Story {
    let waiting = story.instance.waiting();
    match (what, waiting) {
        (Happening::Anything(input), _) => story.input(input),
        (Happening::Timer, _) if !story.timers.is_empty() => story.time_passes(),
        (Happening::Awaited(choice), Some(waiting)) => {
            let answer = match (waiting.phase, choice) {
                (Phase::Action, 0) => no(),
                (Phase::Action, _) => done(&waiting.step),
                (Phase::Compensation, 0) => Answer::NullCompensated,
                (Phase::Compensation, _) => Answer::Compensated,
            };
            story.reply(&waiting.step, waiting.phase, waiting.round, answer)
        }
        (Happening::Timer | Happening::Awaited(_), _) => story,
    }
}

proptest! {
    #[test]
    fn every_order_of_events_keeps_the_promises(
        happenings in prop::collection::vec(happening(), 1..60)
    ) {
        let mut story = Story::started();
        for what in &happenings {
            let before = story.instance.clone();
            let known = story.history.len();
            story = happens(story, what);
            let now = &story.instance;
            let pivot = |instance: &Instance| instance.step("p").unwrap().status;
            if pivot(now) == StepStatus::Succeeded {
                let back = matches!(now.status, Status::Compensating | Status::Compensated);
                prop_assert!(!back, "no way back over the pivot");
            }
            let undone = story.history[known..].iter().filter_map(|event| match event {
                Event::CommandSent { step, phase: Phase::Compensation, .. } => before.step(step),
                _ => None,
            });
            for step in undone {
                let known_without_effect = matches!(
                    step.status,
                    StepStatus::Pending | StepStatus::Failed | StepStatus::NullCompensated
                );
                prop_assert!(!known_without_effect, "{step:?} needs no compensation");
            }
        }
    }

    #[test]
    fn a_terminal_state_absorbs_every_input(
        happenings in prop::collection::vec(happening(), 0..30),
        way in 0..3_u8,
        later in prop::collection::vec(anything(), 1..20),
    ) {
        let mut story = Story::started();
        for what in &happenings {
            story = happens(story, what);
        }
        // Then to one of the ends, whichever is still open.
        for _ in 0..60 {
            story = match way {
                0 => happens(story, &Happening::Awaited(1)),
                1 => happens(story, &Happening::Awaited(0)),
                _ if story.timers.is_empty() => happens(story, &Happening::Awaited(1)),
                _ => story.time_passes(),
            };
        }
        prop_assume!(story.instance.status.is_terminal());
        for input in later {
            let before = story.instance.clone();
            let decision = decide(&story.plan, &before, &input).unwrap();
            prop_assert_eq!(&decision.effects, &[]);
            let only_ignored = decision.events.iter().all(|e| matches!(e, Event::Ignored { .. }));
            prop_assert!(only_ignored);
            story = story.input(&input);
            let mut now = story.instance.clone();
            (now.seq, now.ignored) = (before.seq, before.ignored);
            prop_assert_eq!(now, before);
        }
    }
}
