//! What a person does to many sagas.

use std::time::Duration;

use saga::{
    Coordinator, Error, Status,
    intervention::What,
    operator::{
        Selection,
        bulk::{
            self, Bulk, BulkRequest, BulkStatus, Bulks, Created, ItemResult, Worked, cancel, create,
        },
    },
    wire::Outcome,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{operating_support::*, support::*};

fn bulk(what: What) -> BulkRequest {
    BulkRequest {
        what,
        selection: Selection::default(),
        actor: "ann".to_owned(),
        reason: "the bank is closed".to_owned(),
        per_second: 1000,
        allow_changed: false,
        expected_count: None,
        idempotency_key: Uuid::now_v7().to_string(),
    }
}

async fn ask_for(pool: &PgPool, request: &BulkRequest) -> Result<Created, Error> {
    let mut tx = pool.begin().await?;
    let created = create(&mut tx, request).await?;
    tx.commit().await?;
    Ok(created)
}

async fn asked(pool: &PgPool, request: &BulkRequest) -> Uuid {
    match ask_for(pool, request).await.unwrap() {
        Created::First(bulk) => bulk.id,
        Created::Again(bulk) => panic!("{bulk:?}"),
    }
}

fn bulks(pool: &PgPool) -> Bulks {
    Bulks::new(coordinator(), pool.clone())
}

async fn show(pool: &PgPool, id: Uuid) -> Bulk {
    bulk::show(pool, id).await.unwrap().unwrap()
}

/// Each look by a worker built anew, until there is nothing to do; with whatever is in the way of
/// the clock taken away.
async fn work_off(pool: &PgPool, coordinator: &Coordinator) -> Vec<Worked> {
    let mut all = Vec::new();
    loop {
        sqlx::query(
            "update saga.bulk set next_at = now() - interval '1 s' where status = 'running'",
        )
        .execute(pool)
        .await
        .unwrap();
        let worked = Bulks::new(coordinator.clone(), pool.clone())
            .run_once()
            .await
            .unwrap();
        if worked == Worked::Idle {
            return all;
        }
        all.push(worked);
        assert!(all.len() < 1000, "{all:?}");
    }
}

async fn some(pool: &PgPool, count: usize) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(start(&coordinator(), pool, &Trip::default()).await.id);
    }
    ids
}

async fn results(pool: &PgPool, id: Uuid) -> Vec<Option<ItemResult>> {
    let items = bulk::items(pool, id, None, 0, 1000).await.unwrap();
    let results = items.into_iter().map(|item| item.result);
    results
        .map(|result| result.map(|word| word.known().unwrap()))
        .collect()
}

/// What a bulk operation did by the audit: to which sagas, and the role of who wanted it.
async fn audited(pool: &PgPool, id: Uuid) -> Vec<(String, Option<String>)> {
    sqlx::query_as(
        "select subject, role from outbox.audit
         where action like 'saga.%' and details ->> 'idempotency_key' = $1 order by id",
    )
    .bind(format!("bulk:{id}"))
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn what_is_done_to_each_saga_is_recorded_under_the_role_of_who_asked() {
    let pool = database("bulk_role").await;
    let saga = some(&pool, 1).await[0];
    let mut tx = pool.begin().await.unwrap();
    let created = bulk::create_as(&mut tx, &bulk(What::Pause {}), Some("admin")).await;
    let (bulk::Created::First(asked) | bulk::Created::Again(asked)) = created.unwrap();
    tx.commit().await.unwrap();
    work_off(&pool, &coordinator()).await;
    let expected = (format!("sagas/{saga}"), Some("admin".to_owned()));
    assert_eq!(audited(&pool, asked.id).await, [expected]);
}

#[tokio::test]
async fn each_selected_saga_has_its_turn_and_its_result() {
    let pool = database("bulk").await;
    let ids = some(&pool, 6).await;
    let [waits, busy, paused, gone, ended, _] = ids[..] else {
        panic!()
    };
    done(&pool, &coordinator(), paused, What::Pause {}).await;
    done(&pool, &coordinator(), ended, What::Abandon {}).await;
    let id = asked(&pool, &bulk(What::Pause {})).await;
    assert_eq!(
        show(&pool, id).await.sagas.total,
        5,
        "without the one that has ended"
    );
    // Meanwhile one moves on and one is forgotten; one starts and is not meant.
    let command = sent(&pool, "trip.commands")
        .await
        .into_iter()
        .find(|m| m.key == busy.to_string());
    let success = answer(&command.unwrap(), Outcome::Succeeded);
    deliver(&pool, &coordinator().replies(), &success)
        .await
        .unwrap();
    sqlx::query("delete from saga.instance where id = $1")
        .bind(gone)
        .execute(&pool)
        .await
        .unwrap();
    let later = some(&pool, 1).await[0];

    let worked = work_off(&pool, &coordinator()).await;
    let expected = [
        ItemResult::Done,
        ItemResult::Changed,
        ItemResult::Refused,
        ItemResult::Gone,
        ItemResult::Done,
    ];
    let mut looks: Vec<_> = expected.map(Worked::Item).to_vec();
    looks.push(Worked::Ended);
    assert_eq!(worked, looks);
    assert_eq!(results(&pool, id).await, expected.map(Some));
    let items = bulk::items(&pool, id, Some(ItemResult::Refused), 0, 10)
        .await
        .unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].detail.as_deref(), Some("it is paused already"));
    let bulk = show(&pool, id).await;
    assert_eq!(bulk.status, BulkStatus::Done);
    assert!(bulk.ended_at.is_some());
    let counts = (
        bulk.sagas.done,
        bulk.sagas.changed,
        bulk.sagas.refused,
        bulk.sagas.gone,
    );
    assert_eq!(counts, (2, 1, 1, 1));
    assert_eq!(bulk.sagas.pending, 0);
    assert!(instance(&pool, waits).await.paused);
    let audited = audited(&pool, id).await;
    assert_eq!(audited.len(), 2, "{audited:?}");
    assert!(audited.contains(&(format!("sagas/{waits}"), None)));
    assert!(
        !instance(&pool, busy).await.paused,
        "nobody looked at it as it is now"
    );
    assert!(!instance(&pool, later).await.paused);
}

#[tokio::test]
async fn a_saga_that_has_moved_on_is_taken_too_where_that_is_allowed() {
    let pool = database("changed").await;
    let [busy] = some(&pool, 1).await[..] else {
        panic!()
    };
    let mut request = bulk(What::Cancel {});
    request.allow_changed = true;
    let id = asked(&pool, &request).await;
    reply(&pool, &coordinator(), busy, Outcome::Succeeded).await;
    work_off(&pool, &coordinator()).await;
    assert_eq!(results(&pool, id).await, [Some(ItemResult::Done)]);
    assert_eq!(instance(&pool, busy).await.status, Status::Compensating);
}

#[tokio::test]
async fn only_what_is_selected_is_listed_and_only_if_it_is_as_many_as_were_seen() {
    let pool = database("selected").await;
    let ids = some(&pool, 3).await;
    done(&pool, &coordinator(), ids[1], What::Cancel {}).await;
    let mut request = bulk(What::Pause {});
    request.selection.status = Some(Status::Compensating);
    request.expected_count = Some(2);
    let refused = ask_for(&pool, &request).await;
    assert!(
        matches!(
            refused,
            Err(Error::CountChanged {
                expected: 2,
                present: 1
            })
        ),
        "{refused:?}"
    );
    assert_eq!(count(&pool, "saga.bulk").await, 0);
    request.expected_count = Some(1);
    let id = asked(&pool, &request).await;
    let items = bulk::items(&pool, id, None, 0, 10).await.unwrap();
    assert_eq!(
        items.iter().map(|item| item.saga_id).collect::<Vec<_>>(),
        [ids[1]]
    );
}

#[tokio::test]
async fn a_dry_run_counts_and_says_what_would_become_of_them() {
    let pool = database("expect").await;
    let ids = some(&pool, 3).await;
    done(&pool, &coordinator(), ids[1], What::Pause {}).await;
    let before = count(&pool, "saga.event").await;
    let expected = bulk::expect(&pool, &coordinator(), &bulk(What::Pause {}))
        .await
        .unwrap();
    assert_eq!(expected.count, 3);
    let sample: Vec<_> = expected
        .sample
        .iter()
        .map(|p| (p.saga_id, p.allowed, p.because.as_deref()))
        .collect();
    let expected = [
        (ids[0], true, None),
        (ids[1], false, Some("it is paused already")),
        (ids[2], true, None),
    ];
    assert_eq!(sample, expected);
    assert_eq!(count(&pool, "saga.event").await, before);
    assert_eq!(
        count(&pool, "saga.bulk").await + count(&pool, "saga.intervention").await,
        1
    );
}

#[tokio::test]
async fn whoever_dies_in_the_middle_another_goes_on_and_nothing_is_done_twice() {
    let pool = database("resume").await;
    let ids = some(&pool, 4).await;
    let id = asked(&pool, &bulk(What::Pause {})).await;
    assert_eq!(
        bulks(&pool).run_once().await.unwrap(),
        Worked::Item(ItemResult::Done)
    );
    // The second saga's row is held; the worker waits for it in the middle of its turn, and dies.
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select 1 from saga.instance where id = $1 for update")
        .bind(ids[1])
        .execute(&mut *held)
        .await
        .unwrap();
    let dying = tokio::spawn({
        let bulks = bulks(&pool);
        async move { bulks.run_once().await }
    });
    somebody_waits(&pool).await;
    // Meanwhile nobody else takes what it has.
    assert_eq!(bulks(&pool).run_once().await.unwrap(), Worked::Idle);
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'",
    )
    .execute(&pool)
    .await
    .unwrap();
    dying.await.unwrap().unwrap_err();
    held.rollback().await.unwrap();
    let done = [Some(ItemResult::Done), None, None, None];
    assert_eq!(results(&pool, id).await, done);
    assert_eq!(count(&pool, "saga.intervention").await, 1);

    work_off(&pool, &coordinator()).await;
    assert_eq!(results(&pool, id).await, [Some(ItemResult::Done); 4]);
    for id in ids {
        let state = instance(&pool, id).await;
        assert_eq!((state.paused, state.seq), (true, 3), "once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_keep_to_one_throttle_and_do_each_saga_once() {
    let pool = database("throttle").await;
    let ids = some(&pool, 25).await;
    let mut request = bulk(What::Pause {});
    request.per_second = 20;
    let shutdown = CancellationToken::new();
    let workers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(bulks(&pool).run(shutdown.clone())))
        .collect();
    let id = asked(&pool, &request).await;
    let bulk = testbed::until(PATIENCE, "the bulk operation to be done", || async {
        let bulk = show(&pool, id).await;
        (bulk.status == BulkStatus::Done).then_some(bulk)
    })
    .await;
    shutdown.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(bulk.sagas.done, 25);
    for id in ids {
        assert_eq!(instance(&pool, id).await.seq, 3);
    }
    // No second has more than a second's worth and what a second of idling was kept.
    let crowded: i64 = sqlx::query_scalar(
        "select max(near) from (
             select count(*) over (order by done_at range between current row
                                   and interval '1 second' following) as near
             from saga.bulk_item) as seconds",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(crowded <= 2 * 20 + 1, "{crowded} in a second");
    let took: f64 = sqlx::query_scalar(
        "select extract(epoch from max(i.done_at) - min(b.created_at))::float8
         from saga.bulk b join saga.bulk_item i on i.bulk_id = b.id",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(took >= 24.0 / 20.0 - 0.05, "all within {took} s");
}

#[tokio::test]
async fn a_saga_whose_intervention_fails_holds_up_no_other_and_is_given_up_in_the_end() {
    let pool = database("sick").await;
    let broken = Trip {
        hook: "fail".to_owned(),
        ..Trip::default()
    };
    let sick = start(&coordinator(), &pool, &broken).await.id;
    let healthy = start(&coordinator(), &pool, &Trip::default()).await.id;
    for id in [sick, healthy] {
        done(&pool, &coordinator(), id, What::Cancel {}).await;
    }
    // The hook of a saga that has been undone fails, for a cause that may pass.
    let skip = What::SkipCompensation {
        step: "hold".to_owned(),
    };
    let id = asked(&pool, &bulk(skip)).await;
    assert_eq!(bulks(&pool).run_once().await.unwrap(), Worked::Postponed);
    assert_eq!(
        bulks(&pool).run_once().await.unwrap(),
        Worked::Item(ItemResult::Done)
    );
    assert_eq!(instance(&pool, healthy).await.status, Status::Compensated);
    assert_eq!(work_off(&pool, &coordinator()).await, [], "it is put off");
    for _ in 0..7 {
        assert_eq!(show(&pool, id).await.status, BulkStatus::Running);
        sqlx::query(
            "update saga.bulk_item set not_before = now() - interval '1 s' where result is null",
        )
        .execute(&pool)
        .await
        .unwrap();
        work_off(&pool, &coordinator()).await;
    }
    assert_eq!(
        results(&pool, id).await,
        [Some(ItemResult::Failed), Some(ItemResult::Done)]
    );
    let item = bulk::items(&pool, id, Some(ItemResult::Failed), 0, 1)
        .await
        .unwrap()
        .remove(0);
    assert!(
        !item.detail.unwrap().contains("broke"),
        "what a hook says may quote anything"
    );
    assert_eq!(show(&pool, id).await.status, BulkStatus::Done);
    assert_eq!(instance(&pool, sick).await.status, Status::Compensating);
}

#[tokio::test]
async fn a_cancelled_one_leaves_the_rest_alone_and_stays_cancelled() {
    let pool = database("cancel").await;
    let ids = some(&pool, 3).await;
    let id = asked(&pool, &bulk(What::Pause {})).await;
    bulks(&pool).run_once().await.unwrap();
    for (actor, reason) in [("bob", "a mistake"), ("eve", "too late")] {
        let mut tx = pool.begin().await.unwrap();
        let bulk = cancel(&mut tx, id, actor, reason).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(bulk.status, BulkStatus::Cancelled);
        assert_eq!(bulk.cancelled_by.as_deref(), Some("bob"), "the first");
        assert_eq!((bulk.sagas.done, bulk.sagas.pending), (1, 2));
    }
    assert_eq!(work_off(&pool, &coordinator()).await, []);
    assert!(!instance(&pool, ids[1]).await.paused);
    let mut tx = pool.begin().await.unwrap();
    let unknown = cancel(&mut tx, Uuid::now_v7(), "bob", "a mistake").await;
    assert!(matches!(unknown, Err(Error::UnknownBulk(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bulk_request_sent_by_many_at_once_is_one_bulk_operation() {
    let pool = database("bulk_once").await;
    some(&pool, 2).await;
    let request = bulk(What::Pause {});
    let tasks = [(); 4].map(|()| {
        let (pool, request) = (pool.clone(), request.clone());
        tokio::spawn(async move { ask_for(&pool, &request).await })
    });
    let mut first = 0;
    for task in tasks {
        first += usize::from(matches!(task.await.unwrap().unwrap(), Created::First(_)));
    }
    assert_eq!(first, 1);
    assert_eq!(count(&pool, "saga.bulk").await, 1);
    assert_eq!(count(&pool, "saga.bulk_item").await, 2);
    let mut other = request.clone();
    other.per_second = 5;
    let reused = ask_for(&pool, &other).await;
    assert!(matches!(reused, Err(Error::KeyReused)), "{reused:?}");
    for per_second in [0, 1001, -1] {
        let mut wrong = bulk(What::Pause {});
        wrong.per_second = per_second;
        let refused = ask_for(&pool, &wrong).await;
        assert!(matches!(
            refused,
            Err(Error::Request {
                field: "per_second",
                ..
            })
        ));
    }
}

#[tokio::test]
async fn an_idle_worker_ends_when_told() {
    let pool = database("idle").await;
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(bulks(&pool).run(shutdown.clone()));
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), worker)
        .await
        .unwrap()
        .unwrap();
}
