//! Every cell of the outcome table, and the way through it.

use super::story::*;

fn at_b() -> Story {
    Story::started().succeeds("a")
}

fn at_pivot() -> Story {
    at_b().succeeds("b")
}

fn at_retriable() -> Story {
    at_pivot().succeeds("p")
}

/// An attempt times out, waits, is sent again, times out: both attempts are spent.
fn never_answers(story: Story) -> Story {
    story.time_passes().time_passes().time_passes()
}

#[test]
fn a_start_sends_the_first_command() {
    Story::started().then(
        &["started", "sent a action 1.1"],
        &["send do.v1 to a.commands, action 1", "timer a action 1.1"],
    );
}

#[test]
fn each_success_sends_the_next_command_and_the_last_completes() {
    let end = Story::started()
        .succeeds("a")
        .then(
            &["succeeded a 1", "sent b action 1.1"],
            &[
                "no timer a action",
                "send do.v1 to b.commands, action 1",
                "timer b action 1.1",
            ],
        )
        .succeeds("b")
        .succeeds("p")
        .succeeds("r")
        .then(
            &["succeeded r 1", "completed"],
            &["no timer r action", "ended completed"],
        )
        .stands(Status::Completed);
    assert_eq!(
        end.instance.data["done"],
        serde_json::json!(["a", "b", "p", "r"])
    );
    assert_eq!(end.instance.reason, None);
}

#[test]
fn a_refused_first_step_leaves_nothing_to_undo() {
    let end = Story::started()
        .refuses("a", 1)
        .then(
            &["failed a 1", "turned back: no, thank you", "compensated"],
            &["no timer a action", "ended compensated"],
        )
        .stands(Status::Compensated);
    assert_eq!(end.instance.reason.as_deref(), Some("no, thank you"));
}

#[test]
fn a_refused_compensatable_step_undoes_only_the_earlier_ones() {
    at_b()
        .refuses("b", 1)
        .then(
            &[
                "failed b 1",
                "turned back: no, thank you",
                "sent a compensation 1.1",
            ],
            &[
                "no timer b action",
                "send undo.v1 to a.commands, compensation 1",
                "timer a compensation 1.1",
            ],
        )
        .stands(Status::Compensating)
        .compensates("a")
        .then(
            &["compensated a 1", "compensated"],
            &["no timer a compensation", "ended compensated"],
        );
}

#[test]
fn an_unknown_compensatable_step_is_undone_too_and_then_the_earlier_ones_in_reverse() {
    let end = never_answers(at_b())
        .then(
            &[
                "timed out b action 1.2",
                "unknown b 1",
                "turned back: b did not answer in time",
                "sent b compensation 1.1",
            ],
            &[
                "no timer b action",
                "send undo.v1 to b.commands, compensation 1",
                "timer b compensation 1.1",
            ],
        )
        .finds_nothing("b")
        .then(
            &["nothing to undo b 1", "sent a compensation 1.1"],
            &[
                "no timer b compensation",
                "send undo.v1 to a.commands, compensation 1",
                "timer a compensation 1.1",
            ],
        )
        .compensates("a")
        .stands(Status::Compensated);
    assert_eq!(
        end.instance.step("b").unwrap().status,
        StepStatus::NullCompensated
    );
    assert_eq!(
        end.instance.step("a").unwrap().status,
        StepStatus::Compensated
    );
    assert_eq!(end.instance.step("p").unwrap().status, StepStatus::Pending);
}

#[test]
fn a_refused_pivot_undoes_the_earlier_steps_in_reverse() {
    at_pivot()
        .refuses("p", 1)
        .then(
            &[
                "failed p 1",
                "turned back: no, thank you",
                "sent b compensation 1.1",
            ],
            &[
                "no timer p action",
                "send undo.v1 to b.commands, compensation 1",
                "timer b compensation 1.1",
            ],
        )
        .compensates("b")
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn an_unknown_pivot_is_never_guessed_at() {
    let parked = never_answers(at_pivot())
        .then(
            &[
                "timed out p action 1.2",
                "unknown p 1",
                "parked: p did not answer in time",
            ],
            &["no timer p action", "parked"],
        )
        .stands(Status::Parked);
    let waiting = parked.instance.waiting().unwrap();
    assert_eq!(waiting.what, WaitingFor::LateReply);
}

#[test]
fn a_parked_pivot_goes_on_when_its_answer_comes_after_all() {
    never_answers(at_pivot())
        .succeeds("p")
        .then(
            &["resumed", "succeeded p 1", "sent r action 1.1"],
            &[
                "no timer p action",
                "send do.v1 to r.commands, action 1",
                "timer r action 1.1",
            ],
        )
        .stands(Status::Running);
    never_answers(at_pivot())
        .refuses("p", 1)
        .stands(Status::Compensating)
        .compensates("b")
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn a_refused_retriable_step_gets_a_new_round_with_a_new_key_after_a_wait() {
    let waiting = at_retriable()
        .refuses("r", 1)
        .then(
            &["failed r 1", "round r 2"],
            &["no timer r action", "timer r action 2.1"],
        )
        .stands(Status::Running);
    let first = waiting.instance.operation("r", Phase::Action, 1);
    let second = waiting.instance.operation("r", Phase::Action, 2);
    assert_ne!(first.key(), second.key());
    waiting
        .time_passes()
        .then(
            &["sent r action 2.1"],
            &["send do.v1 to r.commands, action 2", "timer r action 2.1"],
        )
        .reply("r", Phase::Action, 2, done("r"))
        .stands(Status::Completed);
}

#[test]
fn a_retriable_step_refused_in_every_round_parks_and_never_turns_back() {
    let parked = at_retriable()
        .refuses("r", 1)
        .time_passes()
        .refuses("r", 2)
        .then(
            &[
                "failed r 2",
                "parked: r was refused in each of 2 rounds, at last: no, thank you",
            ],
            &["no timer r action", "parked"],
        )
        .stands(Status::Parked);
    assert_eq!(parked.instance.waiting().unwrap().what, WaitingFor::Person);
    // The last round is settled: another answer to it must not count.
    parked
        .reply("r", Phase::Action, 2, done("r"))
        .ignored(IgnoredBecause::Contradiction)
        .stands(Status::Parked);
}

#[test]
fn an_unknown_retriable_step_parks_and_goes_on_with_a_late_answer() {
    never_answers(at_retriable())
        .then(
            &[
                "timed out r action 1.2",
                "unknown r 1",
                "parked: r did not answer in time",
            ],
            &["no timer r action", "parked"],
        )
        .succeeds("r")
        .then(
            &["resumed", "succeeded r 1", "completed"],
            &["no timer r action", "ended completed"],
        );
    never_answers(at_retriable())
        .refuses("r", 1)
        .then(
            &["resumed", "failed r 1", "round r 2"],
            &["no timer r action", "timer r action 2.1"],
        )
        .stands(Status::Running);
}

#[test]
fn a_compensation_has_a_budget_of_its_own_and_then_parks() {
    let parked = at_b()
        .refuses("b", 1)
        .time_passes()
        .then(
            &["timed out a compensation 1.1", "retry a compensation 1.2"],
            &["timer a compensation 1.2"],
        )
        .time_passes()
        .time_passes()
        .time_passes()
        .stands(Status::Compensating)
        .time_passes()
        .then(
            &[
                "timed out a compensation 1.3",
                "parked: the compensation of a did not answer in time",
            ],
            &["no timer a compensation", "parked"],
        )
        .stands(Status::Parked);
    assert_eq!(
        parked.instance.reason.as_deref(),
        Some("no, thank you"),
        "why it turned back"
    );
    parked
        .compensates("a")
        .then(
            &["resumed", "compensated a 1", "compensated"],
            &["no timer a compensation", "ended compensated"],
        )
        .stands(Status::Compensated);
}

#[test]
fn a_timeout_sends_the_same_operation_again_after_a_wait() {
    let waiting = Story::started()
        .time_passes()
        .then(
            &["timed out a action 1.1", "retry a action 1.2"],
            &["timer a action 1.2"],
        )
        .stands(Status::Running);
    let wait = waiting.timers.values().next().unwrap().1;
    assert!(wait <= Duration::from_secs(2), "{wait:?}");
    waiting.time_passes().then(
        &["sent a action 1.2"],
        &["send do.v1 to a.commands, action 1", "timer a action 1.2"],
    );
}

#[test]
fn an_answer_that_comes_while_waiting_to_retry_counts() {
    Story::started().time_passes().succeeds("a").then(
        &["succeeded a 1", "sent b action 1.1"],
        &[
            "no timer a action",
            "send do.v1 to b.commands, action 1",
            "timer b action 1.1",
        ],
    );
}

#[test]
fn an_action_called_off_by_its_tombstone_had_no_effect() {
    at_b()
        .reply("b", Phase::Action, 1, Answer::Tombstoned)
        .stands(Status::Compensating)
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn the_same_decision_is_taken_twice() {
    let story = Story::started();
    let (timer, _) = story.timers.values().next().unwrap().clone();
    let input = Input::Timer(timer);
    let once = decide(&story.plan, &story.instance, &input).unwrap();
    assert_eq!(once, decide(&story.plan, &story.instance, &input).unwrap());
}

#[test]
fn the_wait_doubles_up_to_its_cap() {
    let backoff = plan().steps[0].backoff;
    let key = Uuid::from_u128(1);
    for (tries, full) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 60), (40, 60)] {
        let wait = backoff.after(tries, key).as_secs_f64();
        let full = f64::from(full);
        assert!((0.0..=full).contains(&wait), "{tries}: {wait}");
        let longest = (0..200).map(|key| backoff.after(tries, Uuid::from_u128(key)));
        let longest = longest.max().unwrap().as_secs_f64();
        assert!(longest > full * 0.9, "{tries}: {longest}");
    }
    let spread = (0..100).map(|key| backoff.after(1, Uuid::from_u128(key)));
    let different: std::collections::BTreeSet<_> = spread.collect();
    assert!(
        different.len() > 50,
        "sagas that fail together do not come back together"
    );
}
