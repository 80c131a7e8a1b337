//! Stages, conditions, probes, deadlines, locks, interventions and migrations.

use serde_json::json;

use super::story::*;
use crate::{
    decide::{allowed, migrate},
    definition::{Builder, Compensatable, Definition, Replied, Step},
    event::LockAnswer,
    intervention::{Intervention, OperationName, What},
    locks::Claim,
};

fn step(name: &'static str) -> Replied<Data> {
    Step::new(name)
        .command(format!("{name}.commands"), |_: &Data| Do {
            step: name.to_owned(),
        })
        .reply(|data: &mut Data, done: Done| data.done.push(done.step))
        .timeout(Duration::from_secs(1))
        .backoff(Duration::from_secs(2), Duration::from_secs(60))
        .attempts(1)
}

fn undoable(name: &'static str) -> Compensatable<Data> {
    step(name)
        .compensation(move |_: &Data| Undo {
            step: name.to_owned(),
        })
        .compensation_attempts(1)
}

fn story<Stage>(builder: Builder<Data, Stage>) -> Story {
    Story::of(plan_of(builder))
}

fn plan_of<Stage>(builder: Builder<Data, Stage>) -> Plan {
    builder.build().unwrap().plan
}

fn begin() -> Builder<Data, crate::definition::BeforePivot> {
    Definition::builder("letters", 1)
}

/// a beside b, then c, then the pivot.
fn side_by_side() -> Story {
    let builder = begin().parallel([undoable("a"), undoable("b")]);
    story(builder.compensatable(undoable("c")).pivot(step("p")))
}

fn wish(what: What) -> Input {
    Input::Intervention(intervention(what))
}

fn intervention(what: What) -> Intervention {
    Intervention {
        what,
        actor: "ada".to_owned(),
        reason: "because".to_owned(),
    }
}

/// Why it is refused.
#[track_caller]
fn refused(story: &Story, what: What) -> String {
    let error = decide(&story.plan, &story.instance, &wish(what)).unwrap_err();
    assert!(matches!(error, Error::NotAllowed { .. }), "{error}");
    error.to_string()
}

#[test]
fn steps_of_a_stage_are_sent_together_and_the_next_waits_for_all_of_them() {
    side_by_side()
        .then(
            &["started", "sent a action 1.1", "sent b action 1.1"],
            &[
                "send do.v1 to a.commands, action 1",
                "timer a action 1.1",
                "send do.v1 to b.commands, action 1",
                "timer b action 1.1",
            ],
        )
        .succeeds("b")
        .then(&["succeeded b 1"], &["no timer b action"])
        .succeeds("a")
        .then(
            &["succeeded a 1", "sent c action 1.1"],
            &[
                "no timer a action",
                "send do.v1 to c.commands, action 1",
                "timer c action 1.1",
            ],
        );
}

#[test]
fn a_refusal_undoes_what_is_under_way_beside_it_without_waiting() {
    side_by_side()
        .refuses("a", 1)
        .then(
            &[
                "failed a 1",
                "unknown b 1",
                "turned back: no, thank you",
                "sent b compensation 1.1",
            ],
            &[
                "no timer a action",
                "no timer b action",
                "send undo.v1 to b.commands, compensation 1",
                "timer b compensation 1.1",
            ],
        )
        .succeeds("b")
        .ignored(IgnoredBecause::Stale)
        .compensates("b")
        .stands(Status::Compensated);
}

#[test]
fn stages_are_undone_in_reverse_and_each_at_once() {
    side_by_side()
        .succeeds("a")
        .succeeds("b")
        .succeeds("c")
        .refuses("p", 1)
        .then(
            &[
                "failed p 1",
                "turned back: no, thank you",
                "sent c compensation 1.1",
            ],
            &[
                "no timer p action",
                "send undo.v1 to c.commands, compensation 1",
                "timer c compensation 1.1",
            ],
        )
        .compensates("c")
        .then(
            &[
                "compensated c 1",
                "sent a compensation 1.1",
                "sent b compensation 1.1",
            ],
            &[
                "no timer c compensation",
                "send undo.v1 to a.commands, compensation 1",
                "timer a compensation 1.1",
                "send undo.v1 to b.commands, compensation 1",
                "timer b compensation 1.1",
            ],
        )
        .compensates("b")
        .stands(Status::Compensating)
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn a_stuck_compensation_keeps_the_saga_parked_while_its_neighbour_settles() {
    let parked = side_by_side()
        .succeeds("a")
        .succeeds("b")
        .refuses("c", 1)
        .fires("a")
        .stands(Status::Parked)
        .compensates("b")
        .then(&["compensated b 1"], &["no timer b compensation"])
        .stands(Status::Parked);
    parked.compensates("a").then(
        &["resumed", "compensated a 1", "compensated"],
        &["no timer a compensation", "ended compensated"],
    );
}

#[test]
fn a_step_whose_condition_does_not_hold_is_left_out_forwards_and_back() {
    let builder = begin()
        .compensatable(undoable("a"))
        .compensatable(undoable("b").when(|data| data.done.is_empty()))
        .compensatable(undoable("c").when(|data| data.done.len() == 1));
    story(builder.pivot(step("p")))
        .succeeds("a")
        .then(
            &["succeeded a 1", "skipped b", "sent c action 1.1"],
            &[
                "no timer a action",
                "send do.v1 to c.commands, action 1",
                "timer c action 1.1",
            ],
        )
        .succeeds("c")
        .refuses("p", 1)
        .compensates("c")
        .then(
            &["compensated c 1", "sent a compensation 1.1"],
            &[
                "no timer c compensation",
                "send undo.v1 to a.commands, compensation 1",
                "timer a compensation 1.1",
            ],
        )
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn a_saga_all_of_whose_steps_are_left_out_completes() {
    let left_out = step("p").when(|data: &Data| !data.done.is_empty());
    story(begin().pivot(left_out))
        .then(&["started", "skipped p", "completed"], &["ended completed"]);
}

#[test]
fn an_unanswered_pivot_is_asked_about_before_it_is_parked() {
    let builder = begin().compensatable(undoable("a"));
    let probed = || {
        story(builder_with(builder_again(), 2))
            .succeeds("a")
            .time_passes()
    };
    drop(builder);
    probed()
        .then(
            &["timed out p action 1.1", "probed p 1.2"],
            &["ask do.v1 to p.commands, action 1", "timer p action 1.2"],
        )
        .succeeds("p")
        .stands(Status::Completed);
    probed()
        .refuses("p", 1)
        .stands(Status::Compensating)
        .compensates("a")
        .stands(Status::Compensated);
    // The participant has never heard of it, and from now on never will.
    probed()
        .reply("p", Phase::Action, 1, Answer::Tombstoned)
        .stands(Status::Compensating);
    probed()
        .time_passes()
        .then(
            &["timed out p action 1.2", "probed p 1.3"],
            &["ask do.v1 to p.commands, action 1", "timer p action 1.3"],
        )
        .time_passes()
        .then(
            &[
                "timed out p action 1.3",
                "unknown p 1",
                "parked: p did not answer in time",
            ],
            &["no timer p action", "parked"],
        )
        .stands(Status::Parked)
        .succeeds("p")
        .stands(Status::Completed);
}

fn builder_again() -> Builder<Data, crate::definition::BeforePivot> {
    begin().compensatable(undoable("a"))
}

fn builder_with(
    builder: Builder<Data, crate::definition::BeforePivot>,
    probes: i32,
) -> Builder<Data, crate::definition::AfterPivot> {
    builder.pivot(step("p").probes(probes))
}

#[test]
fn a_deadline_turns_back_as_long_as_there_is_a_way() {
    let timely = || {
        let builder = begin().deadline(Duration::from_secs(60));
        story(builder.compensatable(undoable("a")).pivot(step("p")))
    };
    let deadline = Input::Timer(Timer::Deadline);
    timely()
        .input(&deadline)
        .then(
            &[
                "deadline_passed",
                "unknown a 1",
                "turned back: its deadline passed",
                "sent a compensation 1.1",
            ],
            &[
                "no timer a action",
                "send undo.v1 to a.commands, compensation 1",
                "timer a compensation 1.1",
            ],
        )
        .input(&deadline)
        .nothing_happens();
    let late = timely()
        .succeeds("a")
        .input(&deadline)
        .then(&["deadline_passed"], &[])
        .stands(Status::Running);
    assert!(late.instance.late);
    late.succeeds("p")
        .stands(Status::Completed)
        .input(&deadline)
        .nothing_happens();
}

fn locked() -> Story {
    let builder = begin().lock(|_: &Data| Claim::exclusive("till"));
    story(builder.compensatable(undoable("a")))
}

fn till(granted: bool) -> Input {
    Input::Lock(LockAnswer {
        resource: "till".to_owned(),
        granted,
    })
}

#[test]
fn nothing_is_sent_before_the_lock_is_held() {
    let waiting = locked().then(&["started", "asked for 1 of till"], &["acquire 1"]);
    assert_eq!(waiting.instance.waiting().unwrap().what, WaitingFor::Lock);
    waiting
        .input(&till(true))
        .then(
            &["holds till", "sent a action 1.1"],
            &["send do.v1 to a.commands, action 1", "timer a action 1.1"],
        )
        .input(&till(true))
        .nothing_happens();
    locked()
        .input(&till(false))
        .then(
            &[
                "too much of till",
                "turned back: it asks for more of till than there is",
                "compensated",
            ],
            &["ended compensated"],
        )
        .stands(Status::Compensated);
    locked()
        .input(&wish(What::Cancel {}))
        .stands(Status::Compensated)
        .input(&till(true))
        .nothing_happens();
}

#[test]
fn a_paused_saga_counts_answers_and_sends_nothing() {
    let paused = side_by_side().input(&wish(What::Pause {}));
    let paused = paused.then(&["pause by ada"], &[]);
    let timer = paused.timers.values().next().unwrap().0.clone();
    let paused = paused
        .input(&Input::Timer(timer))
        .nothing_happens()
        .succeeds("a")
        .succeeds("b")
        .then(&["succeeded b 1"], &["no timer b action"]);
    assert_eq!(paused.instance.waiting().unwrap().what, WaitingFor::Person);
    assert_eq!(
        refused(&paused, What::Pause {}),
        "pause is not possible: it is paused already"
    );
    paused.input(&wish(What::Resume {})).then(
        &["resume by ada", "sent c action 1.1"],
        &["send do.v1 to c.commands, action 1", "timer c action 1.1"],
    );
    // What was under way gets its whole time once more.
    side_by_side()
        .succeeds("a")
        .input(&wish(What::Pause {}))
        .input(&wish(What::Resume {}))
        .then(&["resume by ada"], &["timer b action 1.1"]);
}

#[test]
fn a_saga_is_cancelled_until_its_pivot_is_sent() {
    let before = side_by_side().succeeds("a").succeeds("b").succeeds("c");
    assert_eq!(
        refused(&before, What::Cancel {}),
        "cancel is not possible: a step was sent that cannot be undone"
    );
    let cancelled = side_by_side().succeeds("a").input(&wish(What::Cancel {}));
    let cancelled = cancelled.then(
        &[
            "cancel by ada",
            "unknown b 1",
            "turned back: cancelled by ada: because",
            "sent a compensation 1.1",
            "sent b compensation 1.1",
        ],
        &[
            "no timer b action",
            "send undo.v1 to a.commands, compensation 1",
            "timer a compensation 1.1",
            "send undo.v1 to b.commands, compensation 1",
            "timer b compensation 1.1",
        ],
    );
    refused(&cancelled, What::Cancel {});
    cancelled
        .finds_nothing("b")
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn a_retry_of_an_unknown_operation_is_the_same_operation_and_of_a_refused_one_a_new_round() {
    let at_pivot = || {
        story(builder_with(builder_again(), 0))
            .succeeds("a")
            .time_passes()
            .stands(Status::Parked)
    };
    at_pivot()
        .input(&wish(What::Retry { step: None }))
        .then(
            &["retry by ada", "resumed", "sent p action 1.1"],
            &["send do.v1 to p.commands, action 1", "timer p action 1.1"],
        )
        .succeeds("p")
        .stands(Status::Completed);
    let spent = story(begin().retriable(step("r").rounds(1)))
        .refuses("r", 1)
        .stands(Status::Parked);
    let step = Some("r".to_owned());
    spent
        .input(&wish(What::Retry { step }))
        .then(
            &["retry by ada", "resumed", "sent r action 2.1"],
            &["send do.v1 to r.commands, action 2", "timer r action 2.1"],
        )
        .reply("r", Phase::Action, 2, done("r"))
        .stands(Status::Completed);
    let running = story(begin().retriable(crate::decide::tests::shapes::step("r")));
    refused(&running, What::Retry { step: None });
    let nobody = Some("nobody".to_owned());
    let why = refused(&at_pivot(), What::Retry { step: nobody });
    assert_eq!(why, "retry is not possible: there is no step nobody");
}

#[test]
fn a_step_is_completed_by_hand_with_the_reply_that_would_have_come() {
    let parked = || {
        story(builder_with(builder_again(), 0))
            .succeeds("a")
            .time_passes()
    };
    let by_hand = |reply| What::CompleteStep {
        step: "p".to_owned(),
        reply,
    };
    let completed = parked().input(&wish(by_hand(json!({"step": "p"}))));
    let completed = completed
        .then(
            &[
                "complete_step by ada",
                "resumed",
                "succeeded p 1",
                "completed",
            ],
            &["no timer p action", "ended completed"],
        )
        .stands(Status::Completed);
    assert_eq!(completed.instance.data["done"], json!(["a", "p"]));
    let why = refused(&parked(), by_hand(json!({"41414141": 1})));
    assert!(why.contains("not a done.v1"), "{why}");
    assert!(!why.contains("41414141"), "{why}");
    let why = refused(
        &parked(),
        What::CompleteStep {
            step: "a".to_owned(),
            reply: json!({}),
        },
    );
    assert_eq!(why, "complete_step is not possible: a has no open action");
}

#[test]
fn a_compensation_is_skipped_and_the_earlier_ones_go_on() {
    let builder = begin().compensatable(undoable("a"));
    let parked = story(builder.compensatable(undoable("b")).pivot(step("p")))
        .succeeds("a")
        .succeeds("b")
        .refuses("p", 1)
        .time_passes()
        .stands(Status::Parked);
    let step = || "b".to_owned();
    parked
        .input(&wish(What::SkipCompensation { step: step() }))
        .then(
            &[
                "skip_compensation by ada",
                "resumed",
                "left undone b 1",
                "sent a compensation 1.1",
            ],
            &[
                "no timer b compensation",
                "send undo.v1 to a.commands, compensation 1",
                "timer a compensation 1.1",
            ],
        )
        .compensates("b")
        .ignored(IgnoredBecause::Contradiction)
        .compensates("a")
        .stands(Status::Compensated);
}

#[test]
fn what_contradicts_a_person_is_an_anomaly() {
    assert!(IgnoredBecause::Contradiction.is_anomaly());
    let by_hand = || {
        let reply = json!({"step": "a"});
        let step = "a".to_owned();
        story(builder_with(builder_again(), 0)).input(&wish(What::CompleteStep { step, reply }))
    };
    // Done by hand, and by its participant: twice.
    by_hand()
        .succeeds("a")
        .ignored(IgnoredBecause::Contradiction);
    by_hand()
        .refuses("a", 1)
        .ignored(IgnoredBecause::Contradiction);
    // Done by hand, so its participant has nothing to undo.
    by_hand().refuses("p", 1).finds_nothing("a").then(
        &[
            "anomaly a null_compensated",
            "nothing to undo a 1",
            "compensated",
        ],
        &["no timer a compensation", "ended compensated"],
    );
    by_hand()
        .refuses("p", 1)
        .compensates("a")
        .stands(Status::Compensated);
    // Nobody knows whether it took effect, and a person says that nothing is to be undone.
    let skipped = || {
        let step = "a".to_owned();
        story(builder_with(builder_again(), 0))
            .time_passes()
            .time_passes()
            .stands(Status::Parked)
            .input(&wish(What::SkipCompensation { step }))
            .stands(Status::Compensated)
    };
    skipped()
        .compensates("a")
        .ignored(IgnoredBecause::Contradiction);
    skipped()
        .succeeds("a")
        .ignored(IgnoredBecause::Contradiction);
    skipped().finds_nothing("a").ignored(IgnoredBecause::Stale);
    skipped().refuses("a", 1).ignored(IgnoredBecause::Stale);
}

#[test]
fn a_success_that_comes_while_its_step_is_undone_is_remembered() {
    let undone = || {
        side_by_side()
            .refuses("a", 1)
            .succeeds("b")
            .ignored(IgnoredBecause::Stale)
    };
    undone().succeeds("b").ignored(IgnoredBecause::Duplicate);
    undone()
        .refuses("b", 1)
        .ignored(IgnoredBecause::Contradiction);
    undone().finds_nothing("b").then(
        &[
            "anomaly b null_compensated",
            "nothing to undo b 1",
            "compensated",
        ],
        &["no timer b compensation", "ended compensated"],
    );
    let compensated = undone().compensates("b").stands(Status::Compensated);
    compensated.succeeds("b").ignored(IgnoredBecause::Duplicate);
    // Before its compensation is sent, too.
    side_by_side()
        .input(&wish(What::Pause {}))
        .input(&wish(What::Cancel {}))
        .succeeds("a")
        .ignored(IgnoredBecause::Stale)
        .input(&wish(What::Resume {}))
        .finds_nothing("a")
        .then(
            &["anomaly a null_compensated", "nothing to undo a 1"],
            &["no timer a compensation"],
        );
}

#[test]
fn a_success_of_a_round_that_was_refused_is_an_anomaly() {
    story(begin().retriable(step("r").rounds(3)))
        .refuses("r", 1)
        .time_passes()
        .refuses("r", 1)
        .ignored(IgnoredBecause::Stale)
        .succeeds("r")
        .ignored(IgnoredBecause::Contradiction)
        .reply("r", Phase::Action, 2, done("r"))
        .stands(Status::Completed);
}

#[test]
fn a_resumed_saga_gives_each_phase_its_own_time() {
    let undone = undoable("a")
        .compensation_attempts(2)
        .compensation_timeout(Duration::from_secs(60));
    let story = story(begin().compensatable(undone).pivot(step("p")));
    let key = |phase: &'static str| ("a".to_owned(), phase);
    let action = story
        .input(&wish(What::Pause {}))
        .input(&wish(What::Resume {}));
    assert_eq!(action.timers[&key("action")].1, Duration::from_secs(1));
    let undoing = action.succeeds("a").refuses("p", 1);
    assert_eq!(
        undoing.timers[&key("compensation")].1,
        Duration::from_secs(60)
    );
    let resumed = undoing
        .input(&wish(What::Pause {}))
        .input(&wish(What::Resume {}));
    assert_eq!(
        resumed.timers[&key("compensation")].1,
        Duration::from_secs(60)
    );
}

#[test]
fn whoever_answers_for_ever_makes_no_history_that_grows_for_ever() {
    let mut ended = story(begin().pivot(step("p")))
        .succeeds("p")
        .stands(Status::Completed);
    for _ in 0..200 {
        ended = ended.succeeds("p");
    }
    assert_eq!(ended.instance.ignored, 50);
    // What a person should look at still finds room, and is bounded too.
    ended = ended.refuses("p", 1).ignored(IgnoredBecause::Contradiction);
    for _ in 0..200 {
        ended = ended.refuses("p", 1);
    }
    assert_eq!(ended.instance.ignored, 100);
    assert_eq!(ended.instance.seq as usize, ended.history.len());
    // An answer that counts always does, however many did not.
    let mut waiting = side_by_side().refuses("a", 1);
    for _ in 0..200 {
        waiting = waiting.refuses("a", 1);
    }
    waiting
        .succeeds("b")
        .ignored(IgnoredBecause::Stale)
        .finds_nothing("b")
        .then(
            &[
                "anomaly b null_compensated",
                "nothing to undo b 1",
                "compensated",
            ],
            &["no timer b compensation", "ended compensated"],
        );
}

#[test]
fn a_resource_claimed_twice_is_claimed_once() {
    let twice = || {
        let builder = begin().lock(|_: &Data| Claim::exclusive("till"));
        let builder = builder.lock(|_: &Data| Claim::exclusive("till"));
        story(builder.compensatable(undoable("a")))
    };
    twice()
        .then(&["started", "asked for 1 of till"], &["acquire 1"])
        .input(&till(true))
        .then(
            &["holds till", "sent a action 1.1"],
            &["send do.v1 to a.commands, action 1", "timer a action 1.1"],
        );
    // One that has waited for itself goes on with the next thing that happens to it.
    let story = twice().input(&wish(What::Pause {}));
    let mut stuck = story.instance.clone();
    let lock = stuck.locks[0].clone();
    stuck.locks = vec![
        crate::instance::LockState {
            held: true,
            ..lock.clone()
        },
        lock,
    ];
    assert_ne!(stuck.waiting().unwrap().what, WaitingFor::Lock);
    let resumed = decide(&story.plan, &stuck, &wish(What::Resume {})).unwrap();
    let sends = |effect: &Effect| matches!(effect, Effect::Send(_));
    assert!(resumed.effects.iter().any(sends), "{resumed:?}");
}

#[test]
fn an_abandoned_saga_is_over_and_an_answer_after_that_is_an_anomaly() {
    side_by_side()
        .input(&wish(What::Abandon {}))
        .then(&["abandon by ada", "abandoned"], &["ended abandoned"])
        .stands(Status::Abandoned)
        .succeeds("a")
        .ignored(IgnoredBecause::AfterTerminal);
    assert!(IgnoredBecause::AfterTerminal.is_anomaly());
}

#[test]
fn what_is_allowed_is_what_is_not_refused() {
    let sagas = [
        side_by_side(),
        side_by_side().input(&wish(What::Pause {})),
        side_by_side().refuses("a", 1),
        story(builder_with(builder_again(), 0))
            .succeeds("a")
            .time_passes(),
        side_by_side().input(&wish(What::Abandon {})),
    ];
    let wishes = [
        What::Pause {},
        What::Resume {},
        What::Cancel {},
        What::Retry { step: None },
        What::Abandon {},
    ];
    for saga in sagas {
        let allowed = allowed(&saga.plan, &saga.instance);
        assert_eq!(allowed.len(), OperationName::ALL.len());
        for what in &wishes {
            let said = allowed.iter().find(|a| a.operation == what.name());
            let done = decide(&saga.plan, &saga.instance, &wish(what.clone()));
            let said = &said.unwrap().refused_because;
            assert_eq!(said.is_none(), done.is_ok(), "{what:?}: {said:?}");
        }
    }
}

#[test]
fn a_compensation_that_finds_nothing_of_a_step_that_said_it_was_done_is_an_anomaly() {
    side_by_side()
        .succeeds("a")
        .refuses("b", 1)
        .finds_nothing("a")
        .then(
            &[
                "anomaly a null_compensated",
                "nothing to undo a 1",
                "compensated",
            ],
            &["no timer a compensation", "ended compensated"],
        );
}

fn second_version() -> Builder<Data, crate::definition::BeforePivot> {
    Definition::builder("letters", 2).migrates_from(1, |old: Data| old)
}

fn migrated(story: &Story, to: &Plan) -> Result<Decision, Error> {
    let to_version = What::Migrate { to: to.version() };
    migrate(&story.plan, to, &story.instance, &intervention(to_version))
}

#[test]
fn a_saga_in_flight_goes_on_under_a_version_with_more_to_come() {
    let story = story(builder_with(builder_again(), 0));
    let to = second_version()
        .compensatable(undoable("a"))
        .compensatable(undoable("new"));
    let to = plan_of(to.pivot(step("p")));
    let decision = migrated(&story, &to).unwrap();
    let mut instance = story.instance.clone();
    decision
        .events
        .iter()
        .for_each(|event| instance.apply(event));
    assert_eq!((instance.version, instance.hash.as_str()), (2, to.hash()));
    assert_eq!(decision.effects, [], "what was sent stays sent");
    let reply = Reply {
        operation: instance.operation("a", Phase::Action, 1),
        answer: done("a"),
    };
    let next = decide(&to, &instance, &Input::Reply(reply)).unwrap();
    let sent = next.effects.iter().find_map(|effect| match effect {
        Effect::Send(command) => Some(command.operation.step.as_str()),
        _ => None,
    });
    assert_eq!(sent, Some("new"));
}

#[test]
fn a_migration_that_would_forget_reorder_or_reinterpret_is_refused() {
    let begun = || story(builder_with(builder_again(), 0)).succeeds("a");
    let why = |to: Plan, story: &Story| migrated(story, &to).unwrap_err().to_string();
    let without = plan_of(second_version().pivot(step("p")));
    assert!(why(without, &begun()).contains("step a was begun, and the target has none"));
    let other = second_version().pivot(step("a")).retriable(step("p"));
    assert!(why(plan_of(other), &begun()).contains("begun as compensatable"));
    let before = second_version()
        .compensatable(undoable("new"))
        .compensatable(undoable("a"));
    let before = plan_of(before.pivot(step("p")));
    assert!(why(before, &begun()).contains("its place in the order has passed"));
    let both = begin()
        .compensatable(undoable("a"))
        .compensatable(undoable("b"));
    let both = story(both.pivot(step("p"))).succeeds("a");
    let swapped = second_version()
        .compensatable(undoable("b"))
        .compensatable(undoable("a"));
    let swapped = plan_of(swapped.pivot(step("p")));
    assert!(why(swapped, &both).contains("in the target it is earlier"));
    let stranger = Definition::builder("letters", 3).compensatable(undoable("a"));
    let stranger = plan_of(stranger.pivot(step("p")));
    assert!(why(stranger, &begun()).contains("has no migration from version 1"));
    let elsewhere = |name| {
        Step::new(name)
            .command("elsewhere", |_: &Data| Do {
                step: "a".to_owned(),
            })
            .reply(|data: &mut Data, done: Done| data.done.push(done.step))
    };
    let ended = begun().succeeds("p");
    let same = second_version()
        .compensatable(undoable("a"))
        .pivot(step("p"));
    assert!(why(plan_of(same), &ended).contains("completed already"));

    // What is still to be sent of a begun step goes where its action went, or nowhere.
    let undo = |_: &Data| Undo {
        step: "a".to_owned(),
    };
    let moved = || second_version().compensatable(elsewhere("a").compensation(undo));
    let moved = || plan_of(moved().pivot(step("p")));
    let moved_topic =
        "step a was begun, and its topic is a.commands; in the target it is elsewhere";
    assert!(why(moved(), &started()).contains(moved_topic));
    assert!(
        why(moved(), &begun()).contains(moved_topic),
        "it may be compensated"
    );
    let probed = || begun().time_passes().stands(Status::Parked);
    assert!(why(moved(), &probed()).contains(moved_topic));
    let pivot = second_version()
        .compensatable(undoable("a"))
        .pivot(elsewhere("p"));
    let pivot = plan_of(pivot);
    assert!(why(pivot.clone(), &begun()).contains("step p was begun, and its topic is p.commands"));
    assert!(migrated(&started(), &pivot).is_ok(), "p was not begun");
    let renamed = step("a").compensation(|_: &Data| Do {
        step: "a".to_owned(),
    });
    let renamed = plan_of(second_version().compensatable(renamed).pivot(step("p")));
    assert!(
        why(renamed, &begun()).contains("its compensation is undo.v1; in the target it is do.v1")
    );
    let asked = Step::new("a")
        .command("a.commands", |_: &Data| Undo {
            step: "a".to_owned(),
        })
        .reply(|data: &mut Data, done: Done| data.done.push(done.step))
        .compensation(undo);
    let asked = plan_of(second_version().compensatable(asked).pivot(step("p")));
    assert!(why(asked.clone(), &started()).contains("its command is do.v1"));
    assert!(
        migrated(&begun(), &asked).is_ok(),
        "nothing but its compensation is to come"
    );
    let answered = Step::new("a")
        .command("a.commands", |_: &Data| Do {
            step: "a".to_owned(),
        })
        .reply(|data: &mut Data, undo: Undo| data.done.push(undo.step))
        .compensation(undo);
    let answered = plan_of(second_version().compensatable(answered).pivot(step("p")));
    assert!(
        why(answered, &started()).contains("its reply is done.v1; in the target it is undo.v1")
    );
    // Once nothing will be undone any more, what is done may have moved.
    let retried = begin()
        .compensatable(undoable("a"))
        .retriable(step("r").rounds(2));
    let retried = story(retried).succeeds("a");
    let moved = second_version().compensatable(elsewhere("a").compensation(undo));
    let moved = plan_of(moved.retriable(step("r").rounds(2)));
    assert!(migrated(&retried, &moved).is_ok());
    // A refused action is settled; its next round is another operation.
    let retried = retried.refuses("r", 1);
    let moved = plan_of(
        second_version()
            .compensatable(undoable("a"))
            .retriable(elsewhere("r")),
    );
    assert!(migrated(&retried, &moved).is_ok());
}

#[test]
fn the_targets_deadline_and_tags_are_applied_and_other_claims_refused() {
    let begin = || begin().tags(|_: &Data| [("shop", "one")]);
    let begun = |builder: Builder<Data, crate::definition::BeforePivot>| {
        story(builder.compensatable(undoable("a")).pivot(step("p")))
    };
    let end = |builder: Builder<Data, crate::definition::BeforePivot>| {
        plan_of(builder.compensatable(undoable("a")).pivot(step("p")))
    };
    let after = |story: &Story, to: &Plan| {
        let decision = migrated(story, to).unwrap();
        let mut instance = story.instance.clone();
        decision
            .events
            .iter()
            .for_each(|event| instance.apply(event));
        (instance, decision.effects)
    };
    let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
    let deadline = |after| Effect::SetTimer {
        timer: Timer::Deadline,
        after,
    };
    let without = begun(begin());
    let to = end(second_version()
        .deadline(hour)
        .tags(|_: &Data| [("shop", "two")]));
    let (instance, effects) = after(&without, &to);
    assert_eq!(effects, [deadline(hour)]);
    assert_eq!(
        instance.tags,
        [("shop".to_owned(), "two".to_owned())].into()
    );
    let timely = begun(begin().deadline(hour));
    assert_eq!(
        after(&timely, &end(second_version().deadline(minute))).1,
        [deadline(minute)]
    );
    let same = end(second_version()
        .deadline(hour)
        .tags(|_: &Data| [("shop", "one")]));
    let (instance, effects) = after(&timely, &same);
    assert_eq!(effects, [], "its time goes on");
    assert_eq!(instance.tags, timely.instance.tags);
    // The timer of the former version's deadline stands, and means nothing any more.
    let (instance, effects) = after(&timely, &end(second_version()));
    assert_eq!((effects, instance.tags.len()), (Vec::new(), 0));
    let passed = decide(
        &end(second_version()),
        &instance,
        &Input::Timer(Timer::Deadline),
    );
    assert_eq!(passed.unwrap(), Decision::default());

    let claim = |resource: &'static str| move |_: &Data| Claim::exclusive(resource);
    let why = |story: &Story, to: &Plan| migrated(story, to).unwrap_err().to_string();
    let claims = end(second_version().lock(claim("till")));
    let new = "the target claims 1 of till, and the saga has not claimed that";
    assert!(why(&without, &claims).contains(new));
    let holds = begun(begin().lock(claim("till"))).input(&till(true));
    assert_eq!(after(&holds, &claims).1, []);
    let fewer = why(&holds, &end(second_version()));
    assert!(
        fewer.contains("the saga claims till, and the target does not"),
        "{fewer}"
    );
    let more = |_: &Data| Claim {
        units: 2,
        ..Claim::exclusive("till")
    };
    let more = why(&holds, &end(second_version().lock(more)));
    assert!(more.contains("the target claims 2 of till"), "{more}");
    // On the way back nothing is claimed any more.
    let back = holds
        .input(&wish(What::Cancel {}))
        .stands(Status::Compensating);
    assert_eq!(after(&back, &end(second_version())).1, []);
}

fn started() -> Story {
    story(builder_with(builder_again(), 0))
}
