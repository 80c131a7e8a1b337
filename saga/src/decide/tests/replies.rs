//! Replies and timers that nobody waits for, and replies that cannot be read.

use serde_json::json;

use super::story::*;

#[test]
fn an_answer_that_comes_again_is_a_duplicate() {
    Story::started()
        .succeeds("a")
        .succeeds("a")
        .ignored(IgnoredBecause::Duplicate)
        .succeeds("b")
        .refuses("p", 1)
        .refuses("p", 1)
        .ignored(IgnoredBecause::Duplicate)
        .compensates("b")
        .compensates("b")
        .ignored(IgnoredBecause::Duplicate);
}

#[test]
fn another_answer_to_a_former_round_contradicts_it_even_when_the_new_one_is_sent() {
    Story::started()
        .succeeds("a")
        .succeeds("b")
        .succeeds("p")
        .refuses("r", 1)
        .refuses("r", 1)
        .ignored(IgnoredBecause::Duplicate)
        .succeeds("r")
        .ignored(IgnoredBecause::Contradiction)
        .time_passes()
        .succeeds("r")
        .ignored(IgnoredBecause::Contradiction)
        .refuses("r", 1)
        .ignored(IgnoredBecause::Stale)
        .stands(Status::Running);
}

#[test]
fn a_success_that_comes_while_its_step_is_being_undone_is_stale() {
    let compensating = Story::started().time_passes().time_passes().time_passes();
    compensating
        .stands(Status::Compensating)
        .succeeds("a")
        .ignored(IgnoredBecause::Stale)
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn a_success_after_its_compensation_found_nothing_is_an_anomaly_even_at_the_end() {
    let unanswered = || {
        let story = Story::started().succeeds("a");
        story.time_passes().time_passes().time_passes()
    };
    unanswered()
        .finds_nothing("b")
        .succeeds("b")
        .ignored(IgnoredBecause::LateSuccess)
        .compensates("a")
        .stands(Status::Compensated)
        .succeeds("b")
        .ignored(IgnoredBecause::LateSuccess)
        .refuses("b", 1)
        .ignored(IgnoredBecause::Stale);
    // What was really undone had its effect: nothing strange about its late success.
    unanswered()
        .compensates("b")
        .succeeds("b")
        .ignored(IgnoredBecause::Stale);
}

#[test]
fn what_was_never_asked_is_unexpected() {
    let story = Story::started();
    let other_saga = Operation {
        saga_id: Uuid::from_u128(8),
        ..story.instance.operation("a", Phase::Action, 1)
    };
    let reply = Reply {
        operation: other_saga,
        answer: done("a"),
    };
    story
        .succeeds("b")
        .ignored(IgnoredBecause::Unexpected)
        .succeeds("no such step")
        .ignored(IgnoredBecause::Unexpected)
        .refuses("a", 2)
        .ignored(IgnoredBecause::Unexpected)
        .refuses("a", 0)
        .ignored(IgnoredBecause::Unexpected)
        .compensates("a")
        .ignored(IgnoredBecause::Unexpected)
        .reply("a", Phase::Action, 1, Answer::Compensated)
        .ignored(IgnoredBecause::Unexpected)
        .input(&Input::Reply(reply))
        .ignored(IgnoredBecause::Unexpected)
        .succeeds("a")
        .stands(Status::Running);
}

#[test]
fn a_compensation_may_not_refuse() {
    Story::started()
        .succeeds("a")
        .refuses("b", 1)
        .reply("a", Phase::Compensation, 1, no())
        .ignored(IgnoredBecause::Unexpected)
        .stands(Status::Compensating)
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn after_the_end_nothing_counts() {
    Story::started()
        .refuses("a", 1)
        .refuses("a", 1)
        .ignored(IgnoredBecause::Duplicate)
        .succeeds("a")
        .ignored(IgnoredBecause::Contradiction)
        .succeeds("no such step")
        .ignored(IgnoredBecause::AfterTerminal)
        .stands(Status::Compensated);
}

#[test]
fn a_timer_nobody_waits_for_is_dropped() {
    let of = |step: &str, phase, round, attempt| {
        Input::Timer(Timer::Attempt(Attempt {
            step: step.to_owned(),
            phase,
            round,
            attempt,
        }))
    };
    Story::started()
        .input(&of("b", Phase::Action, 1, 1))
        .nothing_happens()
        .input(&of("a", Phase::Compensation, 1, 1))
        .nothing_happens()
        .input(&of("a", Phase::Action, 2, 1))
        .nothing_happens()
        .input(&of("a", Phase::Action, 1, 2))
        .nothing_happens()
        .refuses("a", 1)
        .input(&of("a", Phase::Action, 1, 1))
        .nothing_happens();
}

#[test]
fn an_awaited_reply_that_cannot_be_read_parks_its_saga_and_a_readable_one_lets_it_go_on() {
    let reply = |story: &Story, kind: &str, payload: &[u8]| {
        let answer = Answer::Succeeded {
            kind: kind.to_owned(),
            payload: payload.to_vec(),
        };
        let operation = story.instance.operation("a", Phase::Action, 1);
        Input::Reply(Reply { operation, answer })
    };
    for (kind, payload) in [
        ("done.v1", "{}"),
        ("done.v1", "\u{0}"),
        ("done.v1", "{\"step\": 41414141}"),
        ("done.v2", "{\"step\": \"a\"}"),
    ] {
        let story = Story::started();
        let input = reply(&story, kind, payload.as_bytes());
        let parked = story.input(&input).stands(Status::Parked);
        let reason = parked.instance.parked_reason.clone().unwrap();
        assert!(reason.contains("cannot read"), "{reason}");
        assert!(!reason.contains("41414141"), "{reason}");
        parked
            .input(&input)
            .ignored(IgnoredBecause::Unreadable)
            .succeeds("a")
            .stands(Status::Running);
    }
    // Not read at all when nobody waits for it: another answer than the first, whatever it says.
    let story = Story::started().succeeds("a");
    let input = reply(&story, "done.v1", b"{}");
    story.input(&input).ignored(IgnoredBecause::Contradiction);
}

#[test]
fn data_of_another_type_is_refused_at_the_start() {
    let data = json!({"done": "not a list, and 41414141"});
    let error = start(&plan(), Uuid::nil(), "key", &data).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error}");
    assert!(!error.to_string().contains("41414141"), "{error}");
}
