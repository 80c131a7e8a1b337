//! Effects outside of the database: every place to die at, and everything that can meet a row
//! that is `running`.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use outbox::{BatchHandler, Received};
use saga::{Operation, wire::Outcome};
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::{
    outside::{Outside, Record, Turn},
    support::*,
};

/// Delivers to a participant built anew, and says whether an error was transient.
async fn ask(pool: &PgPool, outside: &Outside, message: &Received) -> Result<(), outbox::Error> {
    deliver(pool, &outside.participant(pool), message).await
}

/// What a transient error leaves: nothing but the row that says that the effect may be there.
async fn fails(pool: &PgPool, outside: &Outside, message: &Received) {
    let before = count(pool, "outbox.log").await;
    let error = ask(pool, outside, message).await.unwrap_err();
    assert!(
        error.is_transient() && !error.is_database_outage(),
        "{error}"
    );
    assert_eq!(count(pool, "outbox.log").await, before, "nothing is said");
}

fn spawn(
    pool: &PgPool,
    outside: &Outside,
    message: &Received,
) -> JoinHandle<Result<(), outbox::Error>> {
    let (pool, outside, message) = (pool.clone(), outside.clone(), message.clone());
    tokio::spawn(async move { ask(&pool, &outside, &message).await })
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
async fn the_row_is_committed_before_the_call() {
    let (pool, outside) = (database("before").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let calling = spawn(&pool, &outside, &command(&action, ""));
    outside.asked(1).await;
    assert_eq!(states(&pool).await, ["running"]);
    outside.let_go();
    calling.await.unwrap().unwrap();
    done_once(&pool, &outside, &action).await;
}

#[tokio::test]
async fn a_crash_between_intent_and_effect_is_probed_and_then_called() {
    let (pool, outside) = (database("unbegun").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let dying = spawn(&pool, &outside, &command(&action, ""));
    outside.asked(1).await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    assert_eq!(states(&pool).await, ["running"]);
    ask(&pool, &outside, &command(&action, "")).await.unwrap();
    done_once(&pool, &outside, &action).await;
    assert_eq!(outside.calls(), ["call", "probe", "call"]);
}

#[tokio::test]
async fn a_crash_between_effect_and_answer_is_found_by_the_probe() {
    let (pool, outside) = (database("unanswered").await, Outside::new(&[]));
    let action = action();
    let forwards = command(&action, "");
    let mut dying = pool.begin().await.unwrap();
    outside
        .participant(&pool)
        .handle_batch(&mut dying, std::slice::from_ref(&forwards))
        .await
        .unwrap();
    dying.rollback().await.unwrap();
    assert_eq!((outside.effects(), states(&pool).await.len()), (1, 1));
    assert_eq!(states(&pool).await, ["running"]);
    assert!(effects(&pool).await.is_empty());
    ask(&pool, &outside, &forwards).await.unwrap();
    done_once(&pool, &outside, &action).await;
    assert_eq!(outside.calls(), ["call", "probe"]);
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
    ask(&pool, &outside, &command(&action, "")).await.unwrap();
    done_once(&pool, &outside, &action).await;
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
        (Outside::new(&[Turn::Fails]), Outcome::Failed, 0),
        (Outside::new(&[Turn::AnswerLost]), Outcome::Succeeded, 1),
        // Only an answer to its key settles it.
        (
            Outside::new(&[Turn::Fails]).irrevocable(),
            Outcome::Succeeded,
            1,
        ),
    ] {
        let action = action();
        fails(&pool, &outside, &command(&action, "")).await;
        ask(&pool, &outside, &command_until(&action, "", past))
            .await
            .unwrap();
        assert_eq!(outcomes(&pool).await.last(), Some(&outcome));
        assert_eq!(outside.effects(), done);
    }
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
        let participant = outside.participant(&pool);
        participant
            .handle_batch(&mut batch, std::slice::from_ref(&message))
            .await
            .unwrap();
    }
    batch.commit().await.unwrap();
    let expected = [
        Outcome::NullCompensated,
        Outcome::Tombstoned,
        Outcome::Succeeded,
        Outcome::Succeeded,
        Outcome::Compensated,
        Outcome::Succeeded,
    ];
    assert_eq!(outcomes(&pool).await, expected);
    assert_eq!(outside.effects(), 1);
}

#[tokio::test]
async fn a_compensation_waits_for_the_call_under_way_and_then_undoes_it() {
    let (pool, outside) = (database("waits").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let calling = spawn(&pool, &outside, &command(&action, ""));
    outside.asked(1).await;
    let undoing = spawn(&pool, &outside, &command(&undoing(&action), ""));
    somebody_waits(&pool).await;
    outside.let_go();
    calling.await.unwrap().unwrap();
    undoing.await.unwrap().unwrap();
    let expected = [Outcome::Succeeded, Outcome::Compensated];
    assert_eq!(outcomes(&pool).await, expected);
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
    let expected = [Outcome::NullCompensated, Outcome::Tombstoned];
    assert_eq!(outcomes(&pool).await, expected);
    assert_eq!(outside.calls(), ["call", "probe", "revoke"]);

    let (outside, done) = (Outside::new(&[Turn::AnswerLost]), action());
    fails(&pool, &outside, &command(&done, "")).await;
    let undo = command(&undoing(&done), "");
    ask(&pool, &outside, &undo).await.unwrap();
    ask(&pool, &outside, &command(&done, "")).await.unwrap();
    let expected = [Outcome::Compensated, Outcome::Succeeded];
    assert_eq!(outcomes(&pool).await[2..], expected);
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
    ask(&pool, &outside, &undo).await.unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::Compensated]);
    assert_eq!(effects(&pool).await, ["done hold", "undone hold"]);
}

#[tokio::test]
async fn two_workers_at_one_operation_make_one_call() {
    let (pool, outside) = (database("two").await, Outside::new(&[Turn::Waits]));
    let action = action();
    let first = spawn(&pool, &outside, &command(&action, ""));
    outside.asked(1).await;
    let second = spawn(&pool, &outside, &command(&action, ""));
    somebody_waits(&pool).await;
    outside.let_go();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    done_once(&pool, &outside, &action).await;
    assert_eq!(outside.calls(), ["call"], "the second one waited");
}

#[tokio::test]
async fn whoever_was_second_at_the_intent_probes_before_it_calls() {
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
    let second = spawn(&pool, &outside, &command(&action, ""));
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
