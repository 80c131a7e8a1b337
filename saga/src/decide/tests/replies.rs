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
fn an_answer_to_a_former_round_is_a_duplicate_until_the_new_one_is_sent_and_then_stale() {
    Story::started()
        .succeeds("a")
        .succeeds("b")
        .succeeds("p")
        .refuses("r", 1)
        .succeeds("r")
        .ignored(IgnoredBecause::Duplicate)
        .time_passes()
        .succeeds("r")
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
        .ignored(IgnoredBecause::Anomaly)
        .compensates("a")
        .stands(Status::Compensated)
        .succeeds("b")
        .ignored(IgnoredBecause::Anomaly)
        .refuses("b", 1)
        .ignored(IgnoredBecause::AfterTerminal);
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
        .ignored(IgnoredBecause::AfterTerminal)
        .succeeds("no such step")
        .ignored(IgnoredBecause::AfterTerminal)
        .stands(Status::Compensated);
}

#[test]
fn a_timer_nobody_waits_for_is_dropped() {
    let of = |step: &str, phase, round, attempt| {
        Input::Timer(Timer {
            step: step.to_owned(),
            phase,
            round,
            attempt,
        })
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
fn an_awaited_reply_that_cannot_be_read_is_an_error_and_changes_nothing() {
    let story = Story::started();
    let operation = story.instance.operation("a", Phase::Action, 1);
    let reply = |kind: &str, payload: &[u8]| {
        let answer = Answer::Succeeded {
            kind: kind.to_owned(),
            payload: payload.to_vec(),
        };
        let operation = operation.clone();
        Input::Reply(Reply { operation, answer })
    };
    for (kind, payload) in [
        ("done.v1", "{}"),
        ("done.v1", "\u{0}"),
        ("done.v1", "{\"step\": 41414141}"),
        ("done.v2", "{\"step\": \"a\"}"),
    ] {
        let input = reply(kind, payload.as_bytes());
        let error = decide(&story.plan, &story.instance, &input).unwrap_err();
        assert!(matches!(error, Error::Reply { .. }), "{error}");
        assert!(!error.is_transient());
        assert!(!error.to_string().contains("41414141"), "{error}");
    }
    // Not read at all when nobody waits for it.
    story
        .succeeds("a")
        .input(&reply("done.v1", b"{}"))
        .ignored(IgnoredBecause::Duplicate);
}

#[test]
fn data_of_another_type_is_refused_at_the_start() {
    let data = json!({"done": "not a list, and 41414141"});
    let error = start(&plan(), Uuid::nil(), "key", &data).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error}");
    assert!(!error.to_string().contains("41414141"), "{error}");
}
