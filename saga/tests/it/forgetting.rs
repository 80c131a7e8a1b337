//! How long the barrier remembers.

use std::time::Duration;

use outbox::{BatchHandler, Received};
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

/// The barrier has been forgetting for years: its horizon is where this retention has it.
async fn settle_horizon(pool: &PgPool) {
    sqlx::query(
        "insert into saga.barrier_horizon (forgotten_before, raised_at)
         values (now() - interval '15 days 1 hour', now() - interval '1 day')",
    )
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
    settle_horizon(&pool).await;
    let settled = old(14);
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
    settle_horizon(&pool).await;
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
    settle_horizon(&pool).await;
    let (outside, action) = (Outside::new(&[Turn::AnswerLost]), old(14));
    let participant = outside.participant();
    deliver(&pool, &participant, &command(&action, ""))
        .await
        .unwrap();
    outside.run(&pool).await;
    put_back(&pool, 400).await;
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    // Its answer is new, however old its row.
    due(&pool).await;
    outside.run(&pool).await;
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    assert_eq!(count(&pool, "saga.barrier").await, 1);
}

#[tokio::test]
async fn that_nothing_is_found_proves_nothing_where_it_may_have_been_forgotten() {
    let pool = database("forgotten").await;
    settle_horizon(&pool).await;
    sqlx::query("delete from saga.barrier_horizon")
        .execute(&pool)
        .await
        .unwrap();
    let (forgotten, unsettled) = (old(16), old(14));
    take(&pool, &command(&forgotten, "")).await.unwrap();
    put_back(&pool, 16).await;
    settle_horizon(&pool).await;
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 1);
    for message in [
        command(&forgotten, ""),
        command(&undoing(&forgotten), ""),
        probe(&forgotten),
    ] {
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

/// As a coordinator sends it, which knows when it sent the action first.
fn begun(mut message: Received, days: u32) -> Received {
    let began = chrono::Utc::now() - days * DAY;
    let began = (saga::wire::BEGUN_AT.to_owned(), began.to_rfc3339());
    message.headers.extend([began]);
    message
}

#[tokio::test]
async fn an_operation_that_was_first_sent_before_what_is_remembered_is_neither_done_nor_answered() {
    let pool = database("begun").await;
    settle_horizon(&pool).await;
    let outside = Outside::new(&[]);
    // Its id says nothing of its age, or that it is young, or old: the header counts.
    let nameless = Operation {
        saga_id: Uuid::new_v5(&Uuid::now_v7(), b"saga"),
        ..action()
    };
    for operation in [nameless.clone(), action(), old(400)] {
        for message in [command(&operation, ""), probe(&operation)] {
            for participant in [participant(), outside.participant()] {
                let message = begun(message.clone(), 16);
                let error = deliver(&pool, &participant, &message).await.unwrap_err();
                assert!(!error.is_transient(), "{error}");
                assert!(error.to_string().contains("forgotten"), "{error}");
            }
        }
        let together = [begun(command(&operation, ""), 16), command(&action(), "")];
        let mut tx = pool.begin().await.unwrap();
        let handled = participant().handle_batch(&mut tx, &together).await;
        handled.unwrap_err();
    }
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    assert_eq!(count(&pool, "outbox.log").await, 0);
    assert!(effects(&pool).await.is_empty() && outside.calls().is_empty());
    // A saga may be old when it begins a step.
    for operation in [nameless, old(400)] {
        take(&pool, &begun(command(&operation, ""), 1))
            .await
            .unwrap();
    }
    assert_eq!(outcomes(&pool).await, [Outcome::Succeeded; 2]);
}

#[tokio::test]
async fn where_nothing_tells_its_age_nothing_is_answered_on_a_guess() {
    let pool = database("ageless").await;
    let ageless = || Operation {
        saga_id: Uuid::new_v5(&Uuid::now_v7(), b"saga"),
        ..action()
    };
    // Nothing has ever been forgotten here: that nothing is found is proof.
    take(&pool, &probe(&ageless())).await.unwrap();
    settle_horizon(&pool).await;
    for message in [
        probe(&ageless()),
        command(&ageless(), ""),
        command(&undoing(&ageless()), ""),
    ] {
        let error = take(&pool, &message).await.unwrap_err();
        assert!(error.to_string().contains("forgotten"), "{error}");
    }
    assert_eq!(outcomes(&pool).await, [Outcome::Tombstoned]);
}

#[tokio::test]
async fn a_large_step_of_the_clock_does_not_make_the_barrier_forget_everything() {
    let pool = database("clock_jump").await;
    for _ in 0..3 {
        take(&pool, &command(&action(), "")).await.unwrap();
    }
    // A year passes between two looks: everything is older than the retention by the clock.
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    for table in [
        "barrier set recorded_at = recorded_at",
        "barrier_horizon set raised_at = raised_at",
    ] {
        let back = format!("update saga.{table} - interval '1 year'");
        sqlx::query(sqlx::AssertSqlSafe(back))
            .execute(&pool)
            .await
            .unwrap();
    }
    let back =
        "update saga.barrier_horizon set forgotten_before = forgotten_before - interval '1 year'";
    sqlx::query(back).execute(&pool).await.unwrap();
    for _look in 0..100 {
        assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    }
    let moved: bool = sqlx::query_scalar(
        "select forgotten_before < now() - interval '1 year' from saga.barrier_horizon",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(moved, "by a day, not by a year");
    assert_eq!(count(&pool, "saga.barrier").await, 3);

    // With an empty horizon the oldest row says where forgetting begins.
    sqlx::query("delete from saga.barrier_horizon")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(forget(&pool, RETENTION).await.unwrap(), 0);
    assert_eq!(count(&pool, "saga.barrier").await, 3);
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
    settle_horizon(&pool).await;
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

#[tokio::test]
async fn however_often_an_action_is_sent_again_its_command_says_when_it_was_sent_first() {
    let (orders, services) = (
        database("begun_orders").await,
        database("begun_services").await,
    );
    start(&coordinator(), &orders, &Trip::default()).await;
    // It waited for a person, say.
    sqlx::query("update saga.event set recorded_at = recorded_at - interval '20 days'")
        .execute(&orders)
        .await
        .unwrap();
    let timers = coordinator().timers(orders.clone());
    for _overdue_then_again in 0..2 {
        make_due(&orders, None).await;
        timers.run_once().await.unwrap();
    }
    let commands = sent(&orders, "trip.commands").await;
    let [first, again] = &commands[..] else {
        panic!("{} commands", commands.len())
    };
    let [first, again] = [first, again].map(|sent| saga::wire::Command::parse(sent).unwrap());
    let now = chrono::Utc::now();
    assert_eq!((first.attempt, again.attempt), (1, 2));
    assert!(first.begun_at.unwrap() > now - DAY && again.expires_at > now);
    let age = now - again.begun_at.unwrap();
    assert!(
        (age - chrono::TimeDelta::days(20)).abs() < chrono::TimeDelta::days(1),
        "{age}"
    );
    // Which took effect there, and was forgotten.
    settle_horizon(&services).await;
    let error = take(&services, &commands[1]).await.unwrap_err();
    assert!(error.to_string().contains("forgotten"), "{error}");
    assert!(effects(&services).await.is_empty());
}
