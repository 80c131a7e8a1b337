//! Effects outside of the database: every place to die at, and everything that can meet a row
//! that is `running`.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use outbox::{BatchHandler, Received};
use saga::{
    Operation,
    participant::{Participant, runner},
    wire::Outcome,
};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    outside::{Outside, Record, Turn},
    support::*,
};

/// Delivers to a participant built anew, then has the runner work at what is due.
async fn ask(pool: &PgPool, outside: &Outside, message: &Received) -> Result<(), outbox::Error> {
    deliver(pool, &outside.participant(), message).await?;
    outside.run(pool).await;
    Ok(())
}

/// Comes to nothing for now: nothing is said, and why stands beside the operation.
async fn fails(pool: &PgPool, outside: &Outside, message: &Received) {
    let before = count(pool, "outbox.log").await;
    ask(pool, outside, message).await.unwrap();
    assert_eq!(count(pool, "outbox.log").await, before, "nothing is said");
    assert!(!reasons(pool).await.is_empty());
}

/// Why operations were put off.
async fn reasons(pool: &PgPool) -> Vec<String> {
    let listed = runner::list(pool, 100).await.unwrap();
    listed
        .into_iter()
        .filter_map(|one| one.last_error)
        .collect()
}

/// The runner in the background, as a consumer has it.
fn run(pool: &PgPool, participant: Participant) -> (JoinHandle<()>, CancellationToken) {
    let stop = CancellationToken::new();
    let running = participant.runner(pool.clone()).run(stop.clone());
    (tokio::spawn(running), stop)
}

/// Waits for so many answers.
async fn answered(pool: &PgPool, expected: &[Outcome]) {
    testbed::until(PATIENCE, "the answers", || async {
        (count(pool, "outbox.log").await as usize >= expected.len()).then_some(())
    })
    .await;
    assert_eq!(outcomes(pool).await, expected);
}

async fn states(pool: &PgPool) -> Vec<String> {
    let states = sqlx::query_scalar("select state from saga.barrier order by phase, state");
    states.fetch_all(pool).await.unwrap()
}

/// The effect, its row in the own database and the one answer to it go together.
async fn done_once(pool: &PgPool, outside: &Outside, action: &Operation) {
    assert_eq!(outside.effects(), 1);
    assert_eq!(effects(pool).await, ["done hold"]);
    let Some(Record::Done { receipt }) = outside.record(action.key()) else {
        panic!("nothing was done");
    };
    let answers = answers(pool).await;
    assert!(!answers.is_empty());
    for (outcome, reply) in answers {
        assert_eq!(outcome, Outcome::Succeeded);
        let reply: Done = serde_json::from_slice(&reply).unwrap();
        assert_eq!(reply.receipt, receipt);
    }
}

#[tokio::test]
async fn an_effect_is_called_once_however_often_its_command_comes() {
    let (pool, outside) = (database("once").await, Outside::new(&[]));
    let action = action();
    for _ in 0..3 {
        ask(&pool, &outside, &command(&action, "")).await.unwrap();
    }
    done_once(&pool, &outside, &action).await;
    assert_eq!(outside.calls(), ["call"]);
    assert_eq!(outcomes(&pool).await.len(), 3);
    assert_eq!(states(&pool).await, ["answered"]);
}

#[tokio::test]
async fn the_row_is_committed_before_the_call_and_no_transaction_is_open_during_it() {
    let (pool, outside) = (database("before").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let forwards = command(&action, "");
    deliver(&pool, &outside.participant(), &forwards)
        .await
        .unwrap();
    assert_eq!(states(&pool).await, ["running"]);
    assert!(outside.calls().is_empty(), "the consumer calls nothing");
    let (running, stop) = run(&pool, outside.participant());
    outside.asked(1).await;
    let open: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and xact_start is not null and pid <> pg_backend_pid()",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(open, 0);
    outside.let_go();
    answered(&pool, &[Outcome::Succeeded]).await;
    stop.cancel();
    running.await.unwrap();
    done_once(&pool, &outside, &action).await;
}

#[tokio::test]
async fn a_batch_that_is_rolled_back_has_called_nothing() {
    let (pool, outside) = (database("rolled_back_outside").await, Outside::new(&[]));
    let forwards = command(&action(), "");
    let mut dying = pool.begin().await.unwrap();
    outside
        .participant()
        .handle_batch(&mut dying, std::slice::from_ref(&forwards))
        .await
        .unwrap();
    dying.rollback().await.unwrap();
    outside.run(&pool).await;
    assert!(outside.calls().is_empty());
    assert_eq!(count(&pool, "saga.barrier").await, 0);
}

#[tokio::test]
async fn a_runner_that_dies_in_its_call_is_followed_by_one_that_probes_and_then_calls() {
    let (pool, outside) = (database("unbegun").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let forwards = command(&action, "");
    deliver(&pool, &outside.participant(), &forwards)
        .await
        .unwrap();
    let (dying, _) = run(&pool, outside.participant());
    outside.asked(1).await;
    // Its tasks go with it, as a process's do.
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    outside.run(&pool).await;
    assert_eq!(outside.calls(), ["call"], "its lease is not over");
    due(&pool).await;
    outside.run(&pool).await;
    done_once(&pool, &outside, &action).await;
    assert_eq!(outside.calls(), ["call", "probe", "call"]);
}

#[tokio::test]
async fn whoever_lost_its_lease_writes_nothing() {
    let (pool, outside) = (database("fenced").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let forwards = command(&action, "");
    deliver(&pool, &outside.participant(), &forwards)
        .await
        .unwrap();
    let (slow, stop) = run(&pool, outside.participant());
    outside.asked(1).await;
    due(&pool).await;
    // The other one asks first, then calls: done once, under the same key.
    outside.run(&pool).await;
    outside.let_go();
    stop.cancel();
    slow.await.unwrap();
    done_once(&pool, &outside, &action).await;
    assert_eq!(count(&pool, "outbox.log").await, 1);
    assert_eq!(count(&pool, "saga.external").await, 0);
}

#[tokio::test]
async fn a_crash_between_effect_and_answer_is_found_by_the_probe() {
    let (pool, outside) = (database("unanswered").await, Outside::new(&[]));
    let action = action();
    // What cannot be stored: as if the process had died there.
    let refuse = "alter table saga.barrier add constraint dying check (outcome is null) not valid";
    sqlx::query(refuse).execute(&pool).await.unwrap();
    let forwards = command(&action, "");
    ask(&pool, &outside, &forwards).await.unwrap();
    assert_eq!((outside.effects(), states(&pool).await.len()), (1, 1));
    assert_eq!(states(&pool).await, ["running"]);
    assert!(effects(&pool).await.is_empty());
    let mend = "alter table saga.barrier drop constraint dying";
    sqlx::query(mend).execute(&pool).await.unwrap();
    due(&pool).await;
    outside.run(&pool).await;
    done_once(&pool, &outside, &action).await;
    assert_eq!(outside.calls(), ["call", "probe"]);
}

#[tokio::test]
async fn a_slow_effect_holds_up_neither_its_batch_nor_other_kinds() {
    let turns = [Turn::Waits; 4];
    let (pool, outside) = (database("slow").await, Outside::new(&turns).at_once(4));
    // Four slow ones and a refused one in one batch; beside them somebody who needs nothing outside.
    let slow: Vec<Operation> = (0..4).map(|_| action()).collect();
    let mut batch: Vec<_> = slow.iter().map(|action| command(action, "")).collect();
    batch.push(command(&action(), "not admitted"));
    batch.push(command(&undoing(&action()), ""));
    let mut tx = pool.begin().await.unwrap();
    let participant = outside.participant();
    participant.handle_batch(&mut tx, &batch).await.unwrap();
    tx.commit().await.unwrap();
    let (running, stop) = run(&pool, participant);
    // All four at once, and the neighbours have their answers.
    outside.asked(4).await;
    let neighbours = [Outcome::Failed, Outcome::NullCompensated];
    let mut answered_now = outcomes(&pool).await;
    answered_now.sort_by_key(|outcome| outcome.as_str().len());
    assert_eq!(answered_now, neighbours);
    let listed = runner::list(&pool, 10).await.unwrap();
    assert_eq!(listed.len(), 4);
    assert!(
        listed
            .iter()
            .all(|one| one.is_worked_at && one.waiting == 1)
    );
    for _ in 0..4 {
        outside.let_go();
    }
    testbed::until(PATIENCE, "all answers", || async {
        (count(&pool, "outbox.log").await == 6).then_some(())
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(count(&pool, "saga.external").await, 0);
}

#[tokio::test]
async fn an_effect_that_nobody_asks_about_again_is_listed_and_brought_to_its_end() {
    let (pool, outside) = (database("unasked").await, Outside::new(&[Turn::AnswerLost]));
    let action = action();
    ask(&pool, &outside, &command(&action, "")).await.unwrap();
    let listed = runner::list(&pool, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].tries), (1, 1));
    assert_eq!(listed[0].saga_id, action.saga_id);
    let reason = listed[0].last_error.clone().unwrap();
    assert!(
        reason.contains("the line is dead") && reason.contains("step hold"),
        "{reason}"
    );
    due(&pool).await;
    outside.run(&pool).await;
    done_once(&pool, &outside, &action).await;
    assert!(runner::list(&pool, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_row_that_a_program_without_a_runner_left_behind_is_settled() {
    let pool = database("left_behind").await;
    let outside = Outside::new(&[]);
    let [done, unknown] = [action(), action()];
    outside.arrives(done.key());
    for operation in [&done, &unknown] {
        sqlx::query(
            "insert into saga.barrier
               (saga_id, step, round, phase, op_key, state, command_kind, command)
             values ($1, $2, $3, 'action', $4, 'running', 'trip.do.v1', '{\"mood\": \"\"}')",
        )
        .bind(operation.saga_id)
        .bind(&operation.step)
        .bind(operation.round)
        .bind(operation.key())
        .execute(&pool)
        .await
        .unwrap();
    }
    // What the migration does with such rows.
    sqlx::query(
        "insert into saga.external (saga_id, step, round, phase, kind, tries, begun_at)
         select saga_id, step, round, phase, command_kind, 1, recorded_at
         from saga.barrier where state = 'running'",
    )
    .execute(&pool)
    .await
    .unwrap();
    outside.run(&pool).await;
    // Found, and stored; nobody is told. The other one is not called on a guess.
    assert_eq!(states(&pool).await, ["answered", "running"]);
    assert_eq!(outside.calls(), ["probe", "probe"]);
    assert_eq!(count(&pool, "outbox.log").await, 0);
    ask(&pool, &outside, &command(&unknown, "")).await.unwrap();
    ask(&pool, &outside, &command(&done, "")).await.unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::Succeeded; 2]);

    // Too old for its command ever to come in time: called off.
    let forgotten = action();
    fails(
        &pool,
        &Outside::new(&[Turn::Fails]),
        &command(&forgotten, ""),
    )
    .await;
    for older in [
        "delete from saga.external_command",
        "update saga.external set begun_at = now() - interval '25 hours', next_at = now()",
    ] {
        sqlx::query(older).execute(&pool).await.unwrap();
    }
    outside.run(&pool).await;
    assert_eq!(outside.record(forgotten.key()), Some(Record::Revoked));
    assert_eq!(states(&pool).await, ["answered"; 3]);
}

#[tokio::test]
async fn a_panic_outside_is_put_off_with_its_text_and_harms_nobody() {
    let (pool, outside) = (database("panics").await, Outside::new(&[Turn::Panics]));
    let [sick, well] = [action(), action()];
    ask(&pool, &outside, &command(&sick, "")).await.unwrap();
    ask(&pool, &outside, &command(&well, "")).await.unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::Succeeded]);
    let reasons = reasons(&pool).await;
    let saga = sick.saga_id.to_string();
    assert!(
        reasons[0].contains("no such gateway") && reasons[0].contains(&saga),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn a_lost_answer_is_found_and_a_failed_call_is_made_again() {
    let pool = database("lost").await;
    for (turn, calls) in [
        (Turn::AnswerLost, vec!["call", "probe"]),
        (Turn::Fails, vec!["call", "probe", "call"]),
    ] {
        let (outside, action) = (Outside::new(&[turn]), action());
        fails(&pool, &outside, &command(&action, "")).await;
        ask(&pool, &outside, &command(&action, "")).await.unwrap();
        assert_eq!((outside.effects(), outside.calls()), (1, calls));
    }
    assert_eq!(effects(&pool).await, ["done hold", "done hold"]);
}

#[tokio::test]
async fn an_outside_that_does_not_answer_is_not_waited_for() {
    let pool = database("hanging").await;
    let outside = Outside::new(&[Turn::Hangs]).impatient();
    let action = action();
    let forwards = command(&action, "");
    let failing = fails(&pool, &outside, &forwards);
    let failed = tokio::time::timeout(PATIENCE, failing).await;
    failed.expect("it is waited for");
    ask(&pool, &outside, &command(&action, "")).await.unwrap();
    done_once(&pool, &outside, &action).await;
}

#[tokio::test]
async fn while_nobody_knows_nothing_is_called_again_or_answered() {
    let (pool, outside) = (database("unknown").await, Outside::new(&[Turn::AnswerLost]));
    let action = action();
    fails(&pool, &outside, &command(&action, "")).await;
    outside.answer_probes(false);
    for message in [
        command(&action, ""),
        command(&undoing(&action), ""),
        probe(&action),
    ] {
        fails(&pool, &outside, &message).await;
        assert_eq!(states(&pool).await, ["running"]);
    }
    assert_eq!(outside.calls(), ["call", "probe", "probe", "probe"]);
    outside.answer_probes(true);
    due(&pool).await;
    outside.run(&pool).await;
    // Whoever waits is answered, and the compensation goes on after its action.
    let mut all = outcomes(&pool).await;
    assert_eq!(all.pop(), Some(Outcome::Compensated));
    assert_eq!(all, [Outcome::Succeeded; 3]);
    assert_eq!(effects(&pool).await, ["done hold", "undone hold"]);
}

#[tokio::test]
async fn a_refusal_is_stored_and_its_compensation_finds_nothing() {
    let pool = database("refused").await;
    let not_begun = (Outside::new(&[]), "not admitted", 0);
    let refused = (Outside::new(&[Turn::Refuses]), "", 1);
    for (outside, mood, calls) in [not_begun, refused] {
        let action = action();
        for message in [
            command(&action, mood),
            command(&action, ""),
            command(&undoing(&action), ""),
        ] {
            ask(&pool, &outside, &message).await.unwrap();
        }
        let expected = [Outcome::Failed, Outcome::Failed, Outcome::NullCompensated];
        let all = outcomes(&pool).await;
        assert_eq!(all[all.len() - 3..], expected);
        assert_eq!((outside.effects(), outside.calls().len()), (0, calls));
    }
    assert!(effects(&pool).await.is_empty());
}

#[tokio::test]
async fn what_the_own_rows_speak_against_is_revoked_before_it_is_refused() {
    let (pool, outside) = (database("spoken_against").await, Outside::new(&[]));
    let action = action();
    ask(&pool, &outside, &command(&action, "refuse"))
        .await
        .unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::Failed]);
    assert_eq!(outside.record(action.key()), Some(Record::Revoked));
    assert_eq!(outside.effects(), 0);
    assert!(effects(&pool).await.is_empty());

    let stubborn = Outside::new(&[]).irrevocable();
    let other = command(&self::action(), "refuse");
    fails(&pool, &stubborn, &other).await;
    assert_eq!(states(&pool).await, ["answered", "running"]);
}

#[tokio::test]
async fn a_failing_settlement_leaves_the_row_and_the_effect_is_found_again() {
    let (pool, outside) = (database("settling").await, Outside::new(&[]));
    let action = action();
    fails(&pool, &outside, &command(&action, "fail")).await;
    // What was asked is kept with the row: the mood is that of the first command.
    fails(&pool, &outside, &command(&action, "")).await;
    assert_eq!(outside.calls(), ["call", "probe"]);
    assert_eq!((outside.effects(), states(&pool).await.len()), (1, 1));
    assert!(effects(&pool).await.is_empty());
}

#[tokio::test]
async fn silence_leaves_no_row() {
    let (pool, outside) = (database("silent").await, Outside::new(&[Turn::Silent]));
    let action = action();
    ask(&pool, &outside, &command(&action, "")).await.unwrap();
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    assert_eq!(count(&pool, "outbox.log").await, 0);
    let undo = command(&undoing(&action), "");
    ask(&pool, &outside, &undo).await.unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::NullCompensated]);
}

#[tokio::test]
async fn a_command_that_cannot_be_read_begins_nothing() {
    let (pool, outside) = (database("unreadable_outside").await, Outside::new(&[]));
    let mut message = command(&action(), "");
    for payload in [None, Some(b"{\"mood\": 41414141}".to_vec())] {
        message.payload = payload;
        let error = ask(&pool, &outside, &message).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        assert!(!error.to_string().contains("41414141"), "{error}");
    }
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    assert!(outside.calls().is_empty());
}

#[tokio::test]
async fn an_expired_command_begins_nothing_and_what_was_begun_is_called_off() {
    let pool = database("expired_outside").await;
    let past = Utc::now() - TimeDelta::seconds(1);
    let (outside, first) = (Outside::new(&[]), action());
    ask(&pool, &outside, &command_until(&first, "", past))
        .await
        .unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::Failed]);
    assert!(outside.calls().is_empty());

    for (outside, outcome, done) in [
        (Outside::new(&[Turn::Fails]), Some(Outcome::Failed), 0),
        (
            Outside::new(&[Turn::AnswerLost]),
            Some(Outcome::Succeeded),
            1,
        ),
        // Nobody may call it any more, and nobody can say that it will never come.
        (Outside::new(&[Turn::Fails]).irrevocable(), None, 0),
    ] {
        let (action, before) = (action(), outcomes(&pool).await.len());
        fails(&pool, &outside, &command(&action, "")).await;
        expire(&pool).await;
        ask(&pool, &outside, &command_until(&action, "", past))
            .await
            .unwrap();
        assert_eq!(outcomes(&pool).await.get(before), outcome.as_ref());
        assert_eq!(outside.effects(), done);
    }
}

/// The commands that wait have expired.
async fn expire(pool: &PgPool) {
    sqlx::query(
        "update saga.external_command
         set headers = headers::jsonb || '{\"saga-expires-at\": \"2020-01-01T00:00:00Z\"}'",
    )
    .execute(pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_compensation_that_comes_first_keeps_the_effect_from_being_called() {
    let (pool, outside) = (database("overtaken_outside").await, Outside::new(&[]));
    let action = action();
    for message in [command(&undoing(&action), ""), command(&action, "")] {
        ask(&pool, &outside, &message).await.unwrap();
    }
    let expected = [Outcome::NullCompensated, Outcome::Tombstoned];
    assert_eq!(outcomes(&pool).await, expected);
    assert!(outside.calls().is_empty());
}

#[tokio::test]
async fn compensation_and_action_of_one_batch_do_not_wait_for_each_other() {
    let (pool, outside) = (database("one_batch").await, Outside::new(&[]));
    let (overtaken, twice) = (action(), action());
    let mut batch = pool.begin().await.unwrap();
    for message in [
        command(&undoing(&overtaken), ""),
        command(&overtaken, ""),
        command(&twice, ""),
        command(&twice, ""),
        command(&undoing(&twice), ""),
        probe(&twice),
    ] {
        let participant = outside.participant();
        participant
            .handle_batch(&mut batch, std::slice::from_ref(&message))
            .await
            .unwrap();
    }
    batch.commit().await.unwrap();
    outside.run(&pool).await;
    // Before anything was called it was not wanted any more.
    let expected = [
        Outcome::NullCompensated,
        Outcome::Tombstoned,
        Outcome::Tombstoned,
        Outcome::Tombstoned,
        Outcome::Tombstoned,
        Outcome::NullCompensated,
    ];
    assert_eq!(outcomes(&pool).await, expected);
    assert_eq!(outside.calls(), [""; 0]);
}

#[tokio::test]
async fn a_compensation_waits_for_the_call_under_way_and_then_undoes_it() {
    let (pool, outside) = (database("waits").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let participant = outside.participant();
    deliver(&pool, &participant, &command(&action, ""))
        .await
        .unwrap();
    let (running, stop) = run(&pool, participant.clone());
    outside.asked(1).await;
    let undo = command(&undoing(&action), "");
    deliver(&pool, &participant, &undo).await.unwrap();
    outside.let_go();
    answered(&pool, &[Outcome::Succeeded, Outcome::Compensated]).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(effects(&pool).await, ["done hold", "undone hold"]);
    assert_eq!(outside.calls(), ["call"]);
}

#[tokio::test]
async fn a_compensation_that_meets_a_running_effect_calls_it_off_or_undoes_it() {
    let pool = database("meets_running").await;
    let (outside, nothing_done) = (Outside::new(&[Turn::Fails]), action());
    fails(&pool, &outside, &command(&nothing_done, "")).await;
    let undo = command(&undoing(&nothing_done), "");
    ask(&pool, &outside, &undo).await.unwrap();
    ask(&pool, &outside, &command(&nothing_done, ""))
        .await
        .unwrap();
    let expected = [
        Outcome::Tombstoned,
        Outcome::NullCompensated,
        Outcome::Tombstoned,
    ];
    assert_eq!(outcomes(&pool).await, expected);
    assert_eq!(outside.calls(), ["call", "probe", "revoke"]);

    let (outside, done) = (Outside::new(&[Turn::AnswerLost]), action());
    fails(&pool, &outside, &command(&done, "")).await;
    let undo = command(&undoing(&done), "");
    ask(&pool, &outside, &undo).await.unwrap();
    ask(&pool, &outside, &command(&done, "")).await.unwrap();
    let expected = [Outcome::Succeeded, Outcome::Compensated, Outcome::Succeeded];
    assert_eq!(outcomes(&pool).await[3..], expected);
    assert_eq!(effects(&pool).await, ["done hold", "undone hold"]);
    assert_eq!(outside.calls(), ["call", "probe"]);
}

#[tokio::test]
async fn an_effect_that_cannot_be_called_off_holds_its_compensation_up() {
    let pool = database("not_safe").await;
    let outside = Outside::new(&[Turn::ArrivesLate]).irrevocable().impatient();
    let action = action();
    fails(&pool, &outside, &command(&action, "")).await;
    let undo = command(&undoing(&action), "");
    fails(&pool, &outside, &undo).await;
    assert_eq!(states(&pool).await, ["running"], "nothing is committed");
    outside.let_go();
    testbed::until(PATIENCE, "the late arrival", || async {
        (outside.effects() == 1).then_some(())
    })
    .await;
    due(&pool).await;
    outside.run(&pool).await;
    let expected = [Outcome::Succeeded, Outcome::Compensated];
    assert_eq!(outcomes(&pool).await, expected);
    assert_eq!(effects(&pool).await, ["done hold", "undone hold"]);
}

#[tokio::test]
async fn two_workers_at_one_operation_make_one_call() {
    let (pool, outside) = (database("two").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let participant = outside.participant();
    let forwards = || command(&action, "");
    deliver(&pool, &participant, &forwards()).await.unwrap();
    let (first, stop) = run(&pool, participant.clone());
    outside.asked(1).await;
    // Sent again while the outside is slow: one more waits, nobody calls.
    deliver(&pool, &participant, &forwards()).await.unwrap();
    outside.run(&pool).await;
    outside.let_go();
    answered(&pool, &[Outcome::Succeeded; 2]).await;
    stop.cancel();
    first.await.unwrap();
    done_once(&pool, &outside, &action).await;
    assert_eq!(outside.calls(), ["call"], "the second one waited");
}

#[tokio::test]
async fn whoever_meets_a_row_that_another_program_wrote_probes_before_it_calls() {
    let (pool, outside) = (database("second").await, Outside::new(&[]));
    let action = action();
    let mut first = pool.begin().await.unwrap();
    sqlx::query(
        "insert into saga.barrier
           (saga_id, step, round, phase, op_key, state, command_kind, command)
         values ($1, $2, $3, 'action', $4, 'running', 'trip.do.v1', '{\"mood\": \"\"}')",
    )
    .bind(action.saga_id)
    .bind(&action.step)
    .bind(action.round)
    .bind(action.key())
    .execute(&mut *first)
    .await
    .unwrap();
    let second = {
        let (pool, outside, forwards) = (pool.clone(), outside.clone(), command(&action, ""));
        tokio::spawn(async move { ask(&pool, &outside, &forwards).await })
    };
    somebody_waits(&pool).await;
    // The first one commits its intent, and dies.
    first.commit().await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(outside.calls(), ["probe", "call"]);
    done_once(&pool, &outside, &action).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_leaves_no_effect_that_is_not_known_or_undone() {
    let pool = database("outside_at_once").await;
    for round in 0..40 {
        let turn = [Turn::Fails, Turn::AnswerLost][round % 2];
        let (outside, action) = (Outside::new(&[turn]), action());
        let messages = [
            command(&action, ""),
            command(&action, ""),
            command(&undoing(&action), ""),
            probe(&action),
            command(&undoing(&action), ""),
        ];
        let gate = Arc::new(tokio::sync::Barrier::new(messages.len()));
        let tasks = messages.map(|message| {
            let (pool, outside, gate) = (pool.clone(), outside.clone(), gate.clone());
            tokio::spawn(async move {
                gate.wait().await;
                // What a consumer does with a transient error.
                while let Err(error) = ask(&pool, &outside, &message).await {
                    assert!(error.is_transient(), "round {round}: {error}");
                }
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
        // What its pauses come to.
        testbed::until(PATIENCE, "all answers", || async {
            due(&pool).await;
            outside.run(&pool).await;
            (count(&pool, "saga.external").await == 0).then_some(())
        })
        .await;
        let effects: Vec<String> =
            sqlx::query_scalar("select what from effect where op_key in ($1, $2) order by seq")
                .bind(action.key())
                .bind(undoing(&action).key())
                .fetch_all(&pool)
                .await
                .unwrap();
        let whole = match outside.record(action.key()) {
            Some(Record::Done { .. }) => effects == ["done", "undone"],
            _ => effects.is_empty(),
        };
        assert!(whole, "round {round}: {effects:?} {:?}", outside.calls());
        assert!(outside.effects() <= 1, "round {round}");
    }
    let open: i64 = sqlx::query_scalar("select count(*) from saga.barrier where outcome is null")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(open, 0, "everything is answered");
}
