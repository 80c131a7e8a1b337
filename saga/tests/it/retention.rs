//! What is forgotten, and what never is.

use std::{collections::BTreeSet, time::Duration};

use saga::{
    locks::{self, Claim},
    retention::{KEEP, Retention},
    wire::Outcome,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::*;

/// A saga that was refused at its first step and has ended.
async fn ended(pool: &PgPool) -> Uuid {
    let saga = start(&coordinator(), pool, &Trip::default()).await;
    let command = sent(pool, "trip.commands").await.pop().unwrap();
    let reply = answer(&command, Outcome::Failed);
    deliver(pool, &coordinator().replies(), &reply)
        .await
        .unwrap();
    saga.id
}

async fn ended_days_ago(pool: &PgPool, saga: Uuid, days: i32) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update saga.instance set ended_at = now() - make_interval(days => $2) where id = $1",
    )
    .bind(saga)
    .bind(days)
    .execute(pool)
    .await?;
    Ok(())
}

async fn left(pool: &PgPool) -> BTreeSet<Uuid> {
    let left = sqlx::query_scalar("select id from saga.instance");
    left.fetch_all(pool).await.unwrap().into_iter().collect()
}

fn retention(pool: &PgPool) -> Retention {
    Retention::new(pool.clone(), KEEP).unwrap()
}

#[tokio::test]
async fn what_ended_long_ago_goes_with_its_history_and_the_rest_stays_whole() {
    let pool = database("retention").await;
    let (old, young) = (ended(&pool).await, ended(&pool).await);
    for rest in [
        "insert into saga.anomaly (saga_id, seq, kind, definition, step, phase, round, outcome)
         values ($1, 9, 'late_success', 'trip', 'hold', 'action', 1, 'succeeded')",
        "insert into saga.pending (saga_id, step, phase, round, outcome, kind)
         values ($1, 'hold', 'action', 1, 'succeeded', 'trip.done.v1')",
    ] {
        sqlx::query(rest).bind(old).execute(&pool).await.unwrap();
    }
    ended_days_ago(&pool, old, 31).await.unwrap();
    ended_days_ago(&pool, young, 29).await.unwrap();
    let kept = history(&pool, young).await;
    assert_eq!(retention(&pool).run_once().await.unwrap(), 1);
    assert_eq!(retention(&pool).run_once().await.unwrap(), 0);
    assert_eq!(left(&pool).await, BTreeSet::from([young]));
    assert_eq!(history(&pool, young).await, kept);
    let events = usize::try_from(count(&pool, "saga.event").await).unwrap();
    assert_eq!(events, kept.len(), "nothing of the old one");
    assert_eq!(count(&pool, "saga.anomaly").await, 0);
    assert_eq!(count(&pool, "saga.pending").await, 0);
}

#[tokio::test]
async fn a_saga_that_has_not_ended_stays_however_old_it_is() {
    let pool = database("retention").await;
    for status in ["running", "compensating", "parked"] {
        let open = start(&coordinator(), &pool, &Trip::default()).await.id;
        sqlx::query(
            "update saga.instance set status = $2, created_at = now() - interval '9 years',
                    updated_at = now() - interval '9 years' where id = $1",
        )
        .bind(open)
        .bind(status)
        .execute(&pool)
        .await
        .unwrap();
        // Even if something said that it had ended; the schema may refuse to say so.
        if let Err(refused) = ended_days_ago(&pool, open, 3000).await {
            let refused = refused.into_database_error().unwrap();
            assert!(refused.is_check_violation(), "{refused}");
        }
        assert_eq!(retention(&pool).run_once().await.unwrap(), 0, "{status}");
        assert!(left(&pool).await.contains(&open), "{status}");
    }
}

#[tokio::test]
async fn a_saga_that_still_claims_something_stays_until_it_has_given_it_up() {
    let pool = database("retention").await;
    let old = ended(&pool).await;
    ended_days_ago(&pool, old, 31).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let claims = [(old, Claim::exclusive("room"))];
    locks::acquire(&mut tx, &claims).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(retention(&pool).run_once().await.unwrap(), 0);
    let mut tx = pool.begin().await.unwrap();
    locks::release(&mut tx, &[old]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(retention(&pool).run_once().await.unwrap(), 1);
}

#[tokio::test]
async fn many_go_in_batches_and_one_that_somebody_holds_is_not_waited_for() {
    let pool = database("retention").await;
    let held = ended(&pool).await;
    ended_days_ago(&pool, held, 40).await.unwrap();
    sqlx::query(
        "insert into saga.instance
         select (jsonb_populate_record(i, jsonb_build_object(
                   'id', gen_random_uuid(), 'business_key', gen_random_uuid()::text))).*
         from saga.instance i, generate_series(1, 250)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut at_work = pool.begin().await.unwrap();
    sqlx::query("select 1 from saga.instance where id = $1 for update")
        .bind(held)
        .execute(&mut *at_work)
        .await
        .unwrap();
    let retention = retention(&pool);
    for batch in [200, 50, 0] {
        assert_eq!(retention.run_once().await.unwrap(), batch);
    }
    at_work.rollback().await.unwrap();
    assert_eq!(retention.run_once().await.unwrap(), 1);
}

#[tokio::test]
async fn one_that_cannot_go_keeps_no_other() {
    let pool = database("retention").await;
    sqlx::query("create table receipt (saga_id uuid not null references saga.instance (id))")
        .execute(&pool)
        .await
        .unwrap();
    let mut all = BTreeSet::new();
    for _ in 0..3 {
        let saga = ended(&pool).await;
        ended_days_ago(&pool, saga, 40).await.unwrap();
        all.insert(saga);
    }
    let kept = *all.first().unwrap();
    ended_days_ago(&pool, kept, 50).await.unwrap();
    sqlx::query("insert into receipt values ($1)")
        .bind(kept)
        .execute(&pool)
        .await
        .unwrap();
    let events = history(&pool, kept).await;
    let retention = retention(&pool);
    assert_eq!(retention.run_once().await.unwrap(), 2);
    assert_eq!(left(&pool).await, BTreeSet::from([kept]));
    assert_eq!(history(&pool, kept).await, events, "it stays whole");
    assert_eq!(retention.run_once().await.unwrap(), 0);
}

#[tokio::test]
async fn the_loop_forgets_and_stops_when_told() {
    let pool = database("retention").await;
    let old = ended(&pool).await;
    ended_days_ago(&pool, old, 31).await.unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(retention(&pool).run(shutdown.clone()));
    testbed::until(PATIENCE, "the old saga to go", || async {
        left(&pool).await.is_empty().then_some(())
    })
    .await;
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_time_to_keep_that_is_none_is_refused() {
    let pool = database("retention").await;
    for wrong in [Duration::ZERO, Duration::MAX] {
        let error = Retention::new(pool.clone(), wrong).unwrap_err();
        assert!(error.to_string().contains("some days"), "{error}");
    }
    assert!(Retention::new(pool, Duration::from_secs(1)).is_ok());
}

#[tokio::test]
async fn what_people_did_goes_with_its_saga_and_a_bulk_operation_with_its_end() {
    let pool = database("retention").await;
    let saga = ended(&pool).await;
    sqlx::query(
        "insert into saga.intervention values ($1, 'k', 'h', 'cancel', 'ann', 'why', '{}')",
    )
    .bind(saga)
    .execute(&pool)
    .await
    .unwrap();
    for (key, status, ended) in [
        ("old", "done", Some("40 days")),
        ("new", "done", Some("20 days")),
        ("open", "running", None),
    ] {
        sqlx::query(
            "with bulk as (
                 insert into saga.bulk (id, idempotency_key, request_hash, what, operation, selection,
                                        actor, reason, allow_changed, per_second, status, ended_at)
                 values (gen_random_uuid(), $1, 'h', '{}', 'pause', '{}', 'ann', 'why', false, 1, $2,
                         now() - $3::interval) returning id)
             insert into saga.bulk_item (bulk_id, position, saga_id, expected_seq)
             select id, 1, $4, 1 from bulk",
        )
        .bind(key)
        .bind(status)
        .bind(ended)
        .bind(saga)
        .execute(&pool)
        .await
        .unwrap();
    }
    // Many items, and a saga to forget in the same look.
    sqlx::query(
        "insert into saga.bulk_item (bulk_id, position, saga_id, expected_seq)
         select b.id, n, $1, 1 from saga.bulk b, generate_series(2, 2500) as n
         where b.idempotency_key = 'old'",
    )
    .bind(saga)
    .execute(&pool)
    .await
    .unwrap();
    ended_days_ago(&pool, saga, 40).await.unwrap();
    assert_eq!(retention(&pool).run_once().await.unwrap(), 1);
    assert_eq!(count(&pool, "saga.intervention").await, 0);
    let keys: Vec<String> = sqlx::query_scalar("select idempotency_key from saga.bulk order by 1")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(keys, ["new", "open"]);
    assert_eq!(count(&pool, "saga.bulk_item").await, 2);
}

#[tokio::test]
async fn every_table_with_rows_of_a_saga_is_known_to_retention() {
    let pool = database("retention").await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.columns
         where table_schema = 'saga' and column_name = 'saga_id' order by table_name::text collate \"C\"",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    // The barrier is a participant's, with a retention of its own; a saga with a claim stays; a bulk
    // operation goes with its own end; a timer is a view of the instance.
    let known = [
        "anomaly",
        "barrier",
        "bulk_item",
        "event",
        // A participant's, as the barrier.
        "external",
        "external_command",
        "intervention",
        "lock_claim",
        "pending",
        "timer",
    ];
    assert_eq!(
        tables, known,
        "teach saga/src/retention/table.rs to forget the new table, then name it here"
    );
}
