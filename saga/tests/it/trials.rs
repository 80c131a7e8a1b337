//! Sagas in great numbers on a real server. What dies is the shop's matter: `e2e` has its trials.

use std::{collections::HashMap, time::Duration};

use saga::{Status, wire::Outcome};
use sqlx::{AssertSqlSafe, PgPool};
use testbed::until;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    REPLIES, Trip, answer, coordinator_of, count, database, definition_with, deliver, instance,
    make_due, sent, start,
};

mod clocked;

/// How long a step may take, and how long it is waited for at most before it is tried again.
const WAIT: Duration = Duration::from_secs(3600);
/// For all of them on a busy machine.
const LONG: Duration = Duration::from_secs(600);
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_timers_due_at_once_neither_starve_others_nor_come_back_together() {
    let trials = testbed::trials();
    let mut trial = trials.begin("timers due at once");
    let many: i64 = trials.pick(3_000, 100_000);
    let orders = database("many_timers").await;
    let coordinator = coordinator_of(definition_with(WAIT));
    let first = start(&coordinator, &orders, &Trip::default()).await;
    let sick = start(&coordinator, &orders, &Trip::default()).await;
    multiply(&orders, first.id, many - 1).await;
    make_due(&orders, None).await;
    sqlx::query("analyze saga.instance")
        .execute(&orders)
        .await
        .unwrap();
    // It stands in front of all the others, and cannot go on.
    let spoil = "update saga.instance set hash = 'of another graph' where id = $1";
    sqlx::query(spoil)
        .bind(sick.id)
        .execute(&orders)
        .await
        .unwrap();
    make_due(&orders, Some(sick.id)).await;

    let shutdown = CancellationToken::new();
    let replicas: Vec<_> = (0..2)
        .map(|_| tokio::spawn(coordinator.timers(orders.clone()).run(shutdown.clone())))
        .collect();
    until(LONG, "the timers to begin", async || {
        (timed_out(&orders).await > 0).then_some(())
    })
    .await;
    // Sagas that are answered go on meanwhile.
    let mut live = HashMap::new();
    let answered = trials.pick(2, 20);
    for _ in 0..answered {
        let saga = start(&coordinator, &orders, &Trip::default()).await;
        live.insert(saga.id, answer_all(&orders, &coordinator, saga.id).await);
    }
    let still_due = many - timed_out(&orders).await;
    until(LONG, "every timer to have fired", async || {
        let due = "saga.instance where look_at <= clock_timestamp()";
        (count(&orders, due).await == 0).then_some(())
    })
    .await;
    shutdown.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
    assert!(
        still_due > 0,
        "{many} timers fired before {answered} sagas were answered"
    );
    assert!(
        live.values().all(|status| *status == Status::Completed),
        "{live:?}"
    );
    assert_eq!(timed_out(&orders).await, many, "each fired once");
    put_off(&orders, sick.id).await;
    a_few_a_transaction(&orders).await;
    spread(&orders, many).await;
    trial.counted(usize::try_from(many).unwrap(), 0);
}

/// Copies a saga with its history and its timers. Whatever columns there are.
async fn multiply(orders: &PgPool, id: Uuid, times: i64) {
    let mut tx = orders.begin().await.unwrap();
    let copies = "create temp table copy on commit drop as
                  select gen_random_uuid() as id from generate_series(1, $1)";
    let copies = copies.replace("$1", &times.to_string());
    sqlx::query(AssertSqlSafe(copies))
        .execute(&mut *tx)
        .await
        .unwrap();
    for (table, column, other) in [
        ("saga.instance", "id", ", 'business_key', copy.id"),
        ("saga.event", "saga_id", ""),
    ] {
        let sql = format!(
            "insert into {table}
             select (jsonb_populate_record(null::{table},
                         to_jsonb(t) || jsonb_build_object('{column}', copy.id{other}))).*
             from {table} t, copy where t.{column} = $1"
        );
        let copied = sqlx::query(AssertSqlSafe(sql)).bind(id);
        let copied = copied.execute(&mut *tx).await.unwrap().rows_affected();
        assert!(copied >= times.cast_unsigned(), "{table}: {copied}");
    }
    tx.commit().await.unwrap();
}

async fn timed_out(orders: &PgPool) -> i64 {
    count(orders, "saga.event where kind = 'attempt_timed_out'").await
}

/// Answers whatever one saga asks until it has ended.
async fn answer_all(orders: &PgPool, coordinator: &saga::Coordinator, id: Uuid) -> Status {
    let mut answered = 0;
    loop {
        let commands = sent(orders, "trip.commands").await.into_iter();
        let ours: Vec<_> = commands
            .filter(|command| command.key == id.to_string())
            .collect();
        let Some(command) = ours.get(answered) else {
            return instance(orders, id).await.status;
        };
        let reply = answer(command, Outcome::Succeeded);
        assert_eq!(reply.topic, REPLIES);
        deliver(orders, &coordinator.replies(), &reply)
            .await
            .unwrap();
        answered += 1;
    }
}

async fn put_off(orders: &PgPool, sick: Uuid) {
    let failures: i32 = sqlx::query_scalar("select failures from saga.instance where id = $1")
        .bind(sick)
        .fetch_one(orders)
        .await
        .unwrap();
    assert!(failures > 0, "the sick one was never tried");
}

/// No transaction held more sagas than a batch has: replies wait for a few at most.
async fn a_few_a_transaction(orders: &PgPool) {
    let most: i64 = sqlx::query_scalar(
        "select max(sagas) from (
             select count(distinct saga_id) as sagas from saga.event
             where kind = 'attempt_timed_out' group by xmin::text) as t",
    )
    .fetch_one(orders)
    .await
    .unwrap();
    assert!((2..=100).contains(&most), "{most} sagas in one transaction");
}

/// Their next attempts are spread over the whole pause.
async fn spread(orders: &PgPool, many: i64) {
    let tenths: Vec<i64> = sqlx::query_scalar(
        "select count(*) from saga.timer t join saga.event e
                on e.saga_id = t.saga_id and e.kind = 'attempt_timed_out'
         group by least(floor(10 * extract(epoch from t.fire_at - e.recorded_at) / $1), 9)",
    )
    .bind(WAIT.as_secs_f64())
    .fetch_all(orders)
    .await
    .unwrap();
    assert_eq!(tenths.len(), 10, "{tenths:?}");
    let fair = many / 10;
    assert!(
        tenths.iter().all(|n| (fair / 2..2 * fair).contains(n)),
        "{tenths:?}"
    );
}
