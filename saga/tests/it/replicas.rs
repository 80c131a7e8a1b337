//! Several coordinators at once.

use std::sync::Arc;

use outbox::BatchHandler;
use saga::{Status, event::Event, wire::Outcome};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_coordinators_with_the_same_reply_take_one_turn() {
    let orders = database("orders").await;
    for round in 0..60 {
        let saga = start(&coordinator(), &orders, &Trip::default()).await;
        let commands = sent(&orders, "trip.commands").await;
        let command = commands.last().unwrap();
        // A success and a refusal of the same operation: whichever comes first settles it.
        let answers = [Outcome::Succeeded, Outcome::Failed, Outcome::Succeeded];
        let gate = Arc::new(tokio::sync::Barrier::new(answers.len()));
        let tasks = answers.map(|outcome| {
            let (pool, gate, reply) = (orders.clone(), gate.clone(), answer(command, outcome));
            tokio::spawn(async move {
                gate.wait().await;
                deliver(&pool, &coordinator().replies(), &reply).await
            })
        });
        for task in tasks {
            task.await
                .unwrap()
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        let history = history(&orders, saga.id).await;
        let settled = |event: &&Event| {
            matches!(
                event,
                Event::ActionSucceeded { .. } | Event::ActionFailed { .. }
            )
        };
        assert_eq!(history.iter().filter(settled).count(), 1, "{history:?}");
        let ignored = |event: &&Event| matches!(event, Event::Ignored { .. });
        assert_eq!(history.iter().filter(ignored).count(), 2, "{history:?}");
        instance(&orders, saga.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reply_and_a_timeout_at_once_take_one_turn_each_in_some_order() {
    let orders = database("orders").await;
    let coordinator = coordinator_of(definition_with(std::time::Duration::from_millis(1)));
    for round in 0..60 {
        let saga = start(&coordinator, &orders, &Trip::default()).await;
        let commands = sent(&orders, "trip.commands").await;
        let reply = answer(commands.last().unwrap(), Outcome::Failed);
        let gate = Arc::new(tokio::sync::Barrier::new(3));
        let replies = {
            let (pool, gate, replies) = (orders.clone(), gate.clone(), coordinator.replies());
            tokio::spawn(async move {
                gate.wait().await;
                deliver(&pool, &replies, &reply)
                    .await
                    .map_err(|error| error.to_string())
            })
        };
        let timers = [0, 1].map(|_| {
            let (gate, timers) = (gate.clone(), coordinator.timers(orders.clone()));
            tokio::spawn(async move {
                gate.wait().await;
                timers
                    .run_once()
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            })
        });
        for task in std::iter::once(replies).chain(timers) {
            task.await
                .unwrap()
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        // The reply settles the step whether its timer fired before or not.
        let state = instance(&orders, saga.id).await;
        assert_eq!(state.status, Status::Compensated, "{state:?}");
        let timers: i64 = sqlx::query_scalar("select count(*) from saga.timer where saga_id = $1")
            .bind(saga.id)
            .fetch_one(&orders)
            .await
            .unwrap();
        assert_eq!(timers, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_batches_with_the_same_sagas_in_opposite_order_do_not_deadlock() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    for round in 0..40 {
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(start(&coordinator, &orders, &Trip::default()).await.id);
        }
        let commands = sent(&orders, "trip.commands").await;
        let commands = &commands[commands.len() - ids.len()..];
        let forwards: Vec<_> = commands
            .iter()
            .map(|c| answer(c, Outcome::Failed))
            .collect();
        let backwards: Vec<_> = forwards.iter().rev().cloned().collect();
        let gate = Arc::new(tokio::sync::Barrier::new(2));
        let tasks = [forwards, backwards].map(|batch| {
            let (pool, gate, replies) = (orders.clone(), gate.clone(), coordinator.replies());
            tokio::spawn(async move {
                gate.wait().await;
                let mut tx = pool.begin().await?;
                replies.handle_batch(&mut tx, &batch).await?;
                tx.commit().await?;
                Ok::<_, outbox::Error>(())
            })
        });
        for task in tasks {
            task.await
                .unwrap()
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        for id in ids {
            assert_eq!(instance(&orders, id).await.status, Status::Compensated);
        }
    }
}

#[tokio::test]
async fn a_state_that_moved_on_meanwhile_is_not_overwritten() {
    // Somebody wrote without the lock: the numbers tell, and the turn is rolled back to be retried.
    let orders = database("orders").await;
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    let commands = sent(&orders, "trip.commands").await;
    let reply = answer(&commands[0], Outcome::Succeeded);
    sqlx::query("insert into saga.event values ($1, $2, 'resumed', '{\"type\":\"resumed\"}')")
        .bind(saga.id)
        .bind(saga.seq + 1)
        .execute(&orders)
        .await
        .unwrap();
    deliver(&orders, &coordinator().replies(), &reply)
        .await
        .unwrap_err();
    let seq: i64 = sqlx::query_scalar("select seq from saga.instance where id = $1")
        .bind(saga.id)
        .fetch_one(&orders)
        .await
        .unwrap();
    assert_eq!(seq, saga.seq);
}
