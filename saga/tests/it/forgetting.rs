//! How long the barrier remembers.

use std::time::Duration;

use outbox::Received;
use saga::{
    Operation,
    participant::retention::{self, forget},
    wire::{COMMAND_EXPIRY, Outcome},
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    outside::{Outside, Turn},
    support::*,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RETENTION: Duration = Duration::from_secs(15 * 24 * 60 * 60);

/// An action of a saga that began, and was answered, so many days ago.
fn old(days: u64) -> Operation {
    let then = std::time::SystemTime::now() - days as u32 * DAY;
    let then = then.duration_since(std::time::UNIX_EPOCH).unwrap();
    let then = uuid::Timestamp::from_unix(uuid::NoContext, then.as_secs(), 0);
    Operation {
        saga_id: Uuid::new_v7(then),
        ..action()
    }
}

async fn put_back(pool: &PgPool, days: i32) {
    sqlx::query("update saga.barrier set recorded_at = recorded_at - make_interval(days => $1)")
        .bind(days)
        .execute(pool)
        .await
        .unwrap();
}

async fn take(pool: &PgPool, message: &Received) -> Result<(), outbox::Error> {
    deliver(pool, &participant(), message).await
}

#[tokio::test]
async fn what_is_older_than_the_retention_goes_and_the_rest_stays() {
    let pool = database("forget").await;
    let settled = old(16);
    take(&pool, &command(&settled, "")).await.unwrap();
    take(&pool, &command(&undoing(&settled), "")).await.unwrap();
    put_back(&pool, 14).await;
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    put_back(&pool, 2).await;
    take(&pool, &command(&action(), "")).await.unwrap();
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 2);
    assert_eq!(count(&pool, "saga.barrier").await, 1);
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
}

#[tokio::test]
async fn more_than_a_batch_goes_in_batches() {
    let pool = database("forget_many").await;
    sqlx::query(
        "insert into saga.barrier
           (saga_id, step, round, phase, op_key, state, outcome, reply_kind, reply, recorded_at)
         select gen_random_uuid(), 'hold', 1, 'action', gen_random_uuid(), 'answered', 'failed',
                'saga.refused.v1', '{}', now() - interval '16 days'
         from generate_series(1, 2500)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let (one, other) = tokio::join!(forget(&pool, RETENTION), forget(&pool, RETENTION));
    assert_eq!(one.unwrap() + other.unwrap(), 2500);
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    assert_eq!(count(&pool, "saga.barrier_horizon").await, 1);
}

#[tokio::test]
async fn a_running_operation_is_never_forgotten() {
    let pool = database("forget_running").await;
    let (outside, action) = (Outside::new(&[Turn::AnswerLost]), old(400));
    let participant = outside.participant(&pool);
    deliver(&pool, &participant, &command(&action, ""))
        .await
        .unwrap_err();
    put_back(&pool, 400).await;
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    // Its answer is new, however old its row.
    deliver(&pool, &participant, &command(&action, ""))
        .await
        .unwrap();
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    assert_eq!(count(&pool, "saga.barrier").await, 1);
}

#[tokio::test]
async fn that_nothing_is_found_proves_nothing_where_it_may_have_been_forgotten() {
    let pool = database("forgotten").await;
    let (forgotten, unsettled) = (old(16), old(14));
    take(&pool, &command(&forgotten, "")).await.unwrap();
    put_back(&pool, 16).await;
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 1);
    for message in [command(&undoing(&forgotten), ""), probe(&forgotten)] {
        let error = take(&pool, &message).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&forgotten.saga_id.to_string()), "{text}");
    }
    assert_eq!(count(&pool, "saga.barrier").await, 0, "nothing is stored");
    assert_eq!(outcomes(&pool).await, [Outcome::Succeeded]);

    let undo = command(&undoing(&unsettled), "");
    take(&pool, &undo).await.unwrap();
    take(&pool, &probe(&old(13))).await.unwrap();
    let expected = [Outcome::NullCompensated, Outcome::Tombstoned];
    assert_eq!(outcomes(&pool).await[1..], expected);
}

#[tokio::test]
async fn a_retention_that_commands_outlive_is_refused() {
    let pool = database("forget_refused").await;
    for retention in [COMMAND_EXPIRY, Duration::ZERO] {
        let error = forget(&pool, retention).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("86400s"), "{text}");
        let stop = CancellationToken::new();
        let error = retention::run(pool.clone(), retention, stop).await;
        assert_eq!(error.unwrap_err().to_string(), text);
    }
    forget(&pool, COMMAND_EXPIRY + DAY).await.unwrap();
}

#[tokio::test]
async fn the_loop_forgets_at_once_and_stops_when_it_should() {
    let pool = database("forget_loop").await;
    take(&pool, &command(&action(), "")).await.unwrap();
    put_back(&pool, 16).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(retention::run(pool.clone(), RETENTION, stop.clone()));
    testbed::until(PATIENCE, "an empty barrier", || async {
        (count(&pool, "saga.barrier").await == 0).then_some(())
    })
    .await;
    stop.cancel();
    running.await.unwrap().unwrap();
}
