//! Questions what became of an action, in each of its states.

use outbox::Received;
use saga::wire::{self, Outcome};

use crate::{
    outside::{Outside, Turn},
    support::*,
};

#[tokio::test]
async fn a_probe_is_answered_as_the_action_was() {
    let pool = database("probe_answered").await;
    for (mood, outcome) in [("", Outcome::Succeeded), ("refuse", Outcome::Failed)] {
        let action = action();
        for message in [command(&action, mood), probe(&action), probe(&action)] {
            deliver(&pool, &participant(), &message).await.unwrap();
        }
        let all = answers(&pool).await;
        let last = &all[all.len() - 3..];
        assert_eq!(last[0].0, outcome);
        assert!(last.iter().all(|answer| *answer == last[0]));
    }
    assert_eq!(effects(&pool).await, ["done hold"]);
}

#[tokio::test]
async fn a_probe_that_finds_nothing_keeps_the_action_from_ever_taking_effect() {
    let pool = database("probe_nothing").await;
    let outside = Outside::new(&[]);
    for participant in [participant(), outside.participant()] {
        let action = action();
        for message in [
            probe(&action),
            command(&action, ""),
            probe(&action),
            command(&undoing(&action), ""),
        ] {
            deliver(&pool, &participant, &message).await.unwrap();
        }
        let all = outcomes(&pool).await;
        let expected = [
            Outcome::Tombstoned,
            Outcome::Tombstoned,
            Outcome::Tombstoned,
            Outcome::NullCompensated,
        ];
        assert_eq!(all[all.len() - 4..], expected);
    }
    assert!(effects(&pool).await.is_empty());
    assert!(outside.calls().is_empty(), "a probe carries nothing out");
}

#[tokio::test]
async fn a_probe_of_an_action_that_was_called_off_says_so() {
    let pool = database("probe_tombstone").await;
    let action = action();
    for message in [command(&undoing(&action), ""), probe(&action)] {
        deliver(&pool, &participant(), &message).await.unwrap();
    }
    let expected = [Outcome::NullCompensated, Outcome::Tombstoned];
    assert_eq!(outcomes(&pool).await, expected);
}

#[tokio::test]
async fn a_probe_waits_for_an_action_under_way() {
    let pool = database("probe_waits").await;
    let action = action();
    let mut under_way = pool.begin().await.unwrap();
    let forwards = command(&action, "");
    let batch = std::slice::from_ref(&forwards);
    outbox::BatchHandler::handle_batch(&participant(), &mut under_way, batch)
        .await
        .unwrap();
    let (other, question) = (pool.clone(), probe(&action));
    let probing = tokio::spawn(async move { deliver(&other, &participant(), &question).await });
    somebody_waits(&pool).await;
    under_way.commit().await.unwrap();
    probing.await.unwrap().unwrap();
    let answers = answers(&pool).await;
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_probe_of_a_running_effect_finds_it_or_calls_it_off() {
    let pool = database("probe_running").await;
    for (turn, outcome, calls) in [
        (
            Turn::AnswerLost,
            Outcome::Succeeded,
            ["call", "probe"].as_slice(),
        ),
        (
            Turn::Fails,
            Outcome::Tombstoned,
            &["call", "probe", "revoke"],
        ),
    ] {
        let (outside, action) = (Outside::new(&[turn]), action());
        let participant = outside.participant();
        deliver(&pool, &participant, &command(&action, ""))
            .await
            .unwrap();
        outside.run(&pool).await;
        // What was asked stands in the row: a question needs no payload.
        let question = Received {
            payload: Some(b"{}".to_vec()),
            ..probe(&action)
        };
        for message in [question.clone(), command(&action, ""), question] {
            deliver(&pool, &participant, &message).await.unwrap();
            outside.run(&pool).await;
        }
        let all = outcomes(&pool).await;
        assert_eq!(all[all.len() - 4..], [outcome; 4], "the command too");
        assert_eq!(outside.calls(), calls);
    }
    assert_eq!(effects(&pool).await, ["done hold"]);
}

#[tokio::test]
async fn a_probe_that_cannot_be_answered_yet_stores_nothing() {
    let pool = database("probe_unknown").await;
    let (outside, action) = (Outside::new(&[Turn::Fails]).irrevocable(), action());
    let participant = outside.participant();
    for message in [command(&action, ""), probe(&action)] {
        deliver(&pool, &participant, &message).await.unwrap();
        outside.run(&pool).await;
    }
    assert_eq!(count(&pool, "outbox.log").await, 0);
    assert_eq!(outside.calls(), ["call", "probe", "revoke"]);
    // It arrived late after all.
    outside.arrives(action.key());
    due(&pool).await;
    outside.run(&pool).await;
    assert_eq!(outcomes(&pool).await, [Outcome::Succeeded; 2]);
}

#[tokio::test]
async fn questions_nobody_can_answer_are_permanent_errors() {
    let pool = database("probe_wrong").await;
    let unknown = Received {
        kind: "trip.unknown.v1".into(),
        ..probe(&action())
    };
    let mut undecided = probe(&action());
    undecided
        .headers
        .insert(wire::PROBE.into(), "perhaps".into());
    for message in [unknown, undecided, probe(&undoing(&action()))] {
        let error = deliver(&pool, &participant(), &message).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
    }
    assert_eq!(count(&pool, "saga.barrier").await, 0);
}
