//! The barrier's cases, the races among them on two connections.

use chrono::{TimeDelta, Utc};
use outbox::{BatchHandler, Received};
use saga::wire::{self, Outcome};

use crate::support::*;

#[tokio::test]
async fn a_duplicate_command_gets_the_same_reply_and_no_second_effect() {
    let pool = database("duplicate").await;
    let command = command(&action(), "");
    for _ in 0..3 {
        deliver(&pool, &participant(), &command).await.unwrap();
    }
    let answers = answers(&pool).await;
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].0, Outcome::Succeeded);
    // The receipt is drawn at each execution: equal bytes are one execution.
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(effects(&pool).await, ["done hold"]);
}

#[tokio::test]
async fn a_new_round_is_a_new_execution() {
    let pool = database("rounds").await;
    let first = action();
    let second = saga::Operation {
        round: 2,
        ..first.clone()
    };
    let mood = "refuse first round";
    deliver(&pool, &participant(), &command(&first, mood))
        .await
        .unwrap();
    deliver(&pool, &participant(), &command(&second, mood))
        .await
        .unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::Failed, Outcome::Succeeded]);
}

#[tokio::test]
async fn a_compensation_undoes_once_what_its_action_did() {
    let pool = database("undo").await;
    let action = action();
    deliver(&pool, &participant(), &command(&action, ""))
        .await
        .unwrap();
    for _ in 0..2 {
        let undo = command(&undoing(&action), "");
        deliver(&pool, &participant(), &undo).await.unwrap();
    }
    let expected = [
        Outcome::Succeeded,
        Outcome::Compensated,
        Outcome::Compensated,
    ];
    assert_eq!(outcomes(&pool).await, expected);
    assert_eq!(effects(&pool).await, ["done hold", "undone hold"]);
}

#[tokio::test]
async fn a_compensation_that_comes_first_keeps_the_action_from_taking_effect() {
    let pool = database("tombstone").await;
    let action = action();
    let undo = command(&undoing(&action), "");
    let late = command(&action, "");
    for message in [&undo, &late, &undo, &late] {
        deliver(&pool, &participant(), message).await.unwrap();
    }
    let expected = [
        Outcome::NullCompensated,
        Outcome::Tombstoned,
        Outcome::NullCompensated,
        Outcome::Tombstoned,
    ];
    assert_eq!(outcomes(&pool).await, expected);
    assert!(effects(&pool).await.is_empty());
}

#[tokio::test]
async fn a_refusal_rolls_the_business_back_and_is_stored() {
    let pool = database("refusal").await;
    let action = action();
    let command_ = command(&action, "refuse");
    deliver(&pool, &participant(), &command_).await.unwrap();
    deliver(&pool, &participant(), &command_).await.unwrap();
    // Later it would have been welcome, but this operation has its answer.
    deliver(&pool, &participant(), &command(&action, ""))
        .await
        .unwrap();
    let answers = answers(&pool).await;
    assert_eq!(answers[0].0, Outcome::Failed);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let refusal: serde_json::Value = serde_json::from_slice(&answers[0].1).unwrap();
    assert_eq!(
        refusal,
        serde_json::json!({"code": "no", "message": "no, thank you"})
    );
    assert!(effects(&pool).await.is_empty());

    let undo = command(&undoing(&action), "");
    deliver(&pool, &participant(), &undo).await.unwrap();
    assert_eq!(
        outcomes(&pool).await.last(),
        Some(&Outcome::NullCompensated)
    );
    assert!(
        effects(&pool).await.is_empty(),
        "nothing was done, so nothing is undone"
    );
}

#[tokio::test]
async fn silence_leaves_nothing() {
    let pool = database("silence").await;
    let action = action();
    deliver(&pool, &participant(), &command(&action, "silent"))
        .await
        .unwrap();
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    assert_eq!(count(&pool, "outbox.log").await, 0);
    assert!(effects(&pool).await.is_empty());

    let undo = command(&undoing(&action), "");
    deliver(&pool, &participant(), &undo).await.unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::NullCompensated]);
}

#[tokio::test]
async fn an_error_is_no_answer_and_leaves_nothing() {
    let pool = database("error").await;
    let action = action();
    let error = deliver(&pool, &participant(), &command(&action, "fail"))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    assert_eq!(count(&pool, "outbox.log").await, 0);
    deliver(&pool, &participant(), &command(&action, ""))
        .await
        .unwrap();
    assert_eq!(outcomes(&pool).await, [Outcome::Succeeded]);
}

#[tokio::test]
async fn an_expired_action_is_refused_but_its_stored_answer_and_its_compensation_are_not() {
    let pool = database("expired").await;
    let past = Utc::now() - TimeDelta::seconds(1);
    let action_ = action();
    deliver(&pool, &participant(), &command_until(&action_, "", past))
        .await
        .unwrap();
    let stored = answers(&pool).await.remove(0);
    assert_eq!(stored.0, Outcome::Failed);
    assert!(
        String::from_utf8(stored.1.clone())
            .unwrap()
            .contains("\"expired\"")
    );
    deliver(&pool, &participant(), &command(&action_, ""))
        .await
        .unwrap();
    assert_eq!(answers(&pool).await[1], stored, "settled is settled");
    assert!(effects(&pool).await.is_empty());

    let other = action();
    deliver(&pool, &participant(), &command(&other, ""))
        .await
        .unwrap();
    deliver(&pool, &participant(), &command_until(&other, "", past))
        .await
        .unwrap();
    let undo = command_until(&undoing(&other), "", past);
    deliver(&pool, &participant(), &undo).await.unwrap();
    let expected = [Outcome::Succeeded, Outcome::Succeeded, Outcome::Compensated];
    assert_eq!(outcomes(&pool).await[2..], expected);
}

#[tokio::test]
async fn commands_nobody_can_read_are_permanent_errors() {
    let pool = database("unreadable").await;
    let good = command(&action(), "");
    let broken: [fn(&mut Received); 9] = [
        |m| drop(m.headers.remove(wire::SAGA_ID)),
        |m| drop(m.headers.remove(wire::REPLY_TOPIC)),
        |m| drop(m.headers.insert(wire::PHASE.into(), "sideways".into())),
        |m| drop(m.headers.insert(wire::ROUND.into(), "2".into())),
        |m| drop(m.headers.insert(wire::EXPIRES_AT.into(), "tomorrow".into())),
        |m| m.kind = "trip.unknown.v1".into(),
        |m| m.payload = None,
        |m| m.payload = Some(b"{\"mood\": 41414141}".to_vec()),
        |m| m.payload = Some(vec![0xff, 0x00]),
    ];
    for (index, spoil) in broken.iter().enumerate() {
        let mut message = good.clone();
        spoil(&mut message);
        let error = deliver(&pool, &participant(), &message).await.unwrap_err();
        assert!(!error.is_transient(), "{index}: {error}");
        assert!(!error.to_string().contains("41414141"), "{index}: {error}");
    }
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    deliver(&pool, &participant(), &good).await.unwrap();
}

#[tokio::test]
async fn a_compensation_waits_for_an_action_under_way_and_then_undoes_it() {
    let pool = database("overtaking").await;
    let action = action();
    let mut under_way = pool.begin().await.unwrap();
    let forwards = command(&action, "");
    participant()
        .handle_batch(&mut under_way, std::slice::from_ref(&forwards))
        .await
        .unwrap();
    let undo = command(&undoing(&action), "");
    let other = pool.clone();
    let compensation = tokio::spawn(async move { deliver(&other, &participant(), &undo).await });
    somebody_waits(&pool).await;
    under_way.commit().await.unwrap();
    compensation.await.unwrap().unwrap();
    assert_eq!(
        outcomes(&pool).await,
        [Outcome::Succeeded, Outcome::Compensated]
    );
    assert_eq!(effects(&pool).await, ["done hold", "undone hold"]);
}

#[tokio::test]
async fn a_compensation_that_waited_for_an_action_rolled_back_finds_nothing() {
    let pool = database("rolled_back").await;
    let action = action();
    let mut under_way = pool.begin().await.unwrap();
    let forwards = command(&action, "");
    participant()
        .handle_batch(&mut under_way, std::slice::from_ref(&forwards))
        .await
        .unwrap();
    let undo = command(&undoing(&action), "");
    let other = pool.clone();
    let compensation = tokio::spawn(async move { deliver(&other, &participant(), &undo).await });
    somebody_waits(&pool).await;
    under_way.rollback().await.unwrap();
    compensation.await.unwrap().unwrap();
    deliver(&pool, &participant(), &forwards).await.unwrap();
    assert_eq!(
        outcomes(&pool).await,
        [Outcome::NullCompensated, Outcome::Tombstoned]
    );
    assert!(effects(&pool).await.is_empty());
}

#[tokio::test]
async fn an_action_waits_for_a_compensation_under_way_and_then_stays_away() {
    let pool = database("called_off").await;
    let action = action();
    let mut under_way = pool.begin().await.unwrap();
    let undo = command(&undoing(&action), "");
    participant()
        .handle_batch(&mut under_way, std::slice::from_ref(&undo))
        .await
        .unwrap();
    let forwards = command(&action, "");
    let other = pool.clone();
    let late = tokio::spawn(async move { deliver(&other, &participant(), &forwards).await });
    somebody_waits(&pool).await;
    under_way.commit().await.unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(
        outcomes(&pool).await,
        [Outcome::NullCompensated, Outcome::Tombstoned]
    );
    assert!(effects(&pool).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn action_and_compensation_at_once_never_leave_an_effect_and_never_deadlock() {
    let pool = database("at_once").await;
    for round in 0..200 {
        let action = action();
        let messages = [
            command(&action, ""),
            command(&undoing(&action), ""),
            command(&action, ""),
            command(&undoing(&action), ""),
        ];
        let gate = std::sync::Arc::new(tokio::sync::Barrier::new(messages.len()));
        let tasks = messages.map(|message| {
            let (pool, gate) = (pool.clone(), gate.clone());
            tokio::spawn(async move {
                gate.wait().await;
                deliver(&pool, &participant(), &message).await
            })
        });
        for task in tasks {
            task.await
                .unwrap()
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        let effects: Vec<String> =
            sqlx::query_scalar("select what from effect where op_key in ($1, $2) order by seq")
                .bind(action.key())
                .bind(undoing(&action).key())
                .fetch_all(&pool)
                .await
                .unwrap();
        let whole = effects.is_empty() || effects == ["done", "undone"];
        assert!(whole, "round {round}: {effects:?}");
    }
}
