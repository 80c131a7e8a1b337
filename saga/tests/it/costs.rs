//! What lists, counts and progress read where there are three hundred thousand sagas: as many entries as
//! are shown, not as many as there are. Counted by the server, so that no clock decides.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use saga::operator::{Census, bulk};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use testbed::Database;
use tower::ServiceExt;
use uuid::Uuid;

use crate::support::*;

/// Three hundred thousand sagas, few of them of a rare kind, and all of that kind old.
const CROWD: &str = "
    insert into saga.definition (name, version, hash)
    values ('big', 1, 'h'), ('big', 2, 'h'), ('rare', 3, 'h');
    insert into saga.instance (id, created_at, definition, version, hash, business_key, data, steps,
                               status, seq, waiting_for, waiting_step, waiting_phase, waiting_round,
                               waiting_attempt, ended_at)
    select gen_random_uuid(), timestamptz '2026-01-01' + n * interval '1 second',
           case when n <= 100 then 'rare' else 'big' end,
           case when n <= 100 then 3 when n % 3 = 0 then 2 else 1 end,
           'h', n::text, '{}', '[]', status, 1,
           case when status = 'running' or status = 'parked' then 'reply' end,
           case when status = 'running' or status = 'parked' then 's' end,
           case when status = 'running' or status = 'parked' then 'action' end,
           case when status = 'running' or status = 'parked' then 1 end,
           case when status = 'running' or status = 'parked' then 1 end,
           case when status = 'completed' or status = 'compensated' then now() end
    from generate_series(1, 300000) as n
    cross join lateral (select case when n <= 20 then 'parked' when n <= 40 then 'compensated'
                                    when n % 5 = 0 then 'running' else 'completed' end) as s (status)";

async fn crowd() -> PgPool {
    let database = Database::fresh("crowd").await;
    let options = database.options().unwrap();
    let options = options.options([("max_parallel_workers_per_gather", "0")]);
    // One session, so that what it read is told of it when it is asked.
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options).await.unwrap();
    outbox::migrate(&pool).await.unwrap();
    saga::migrate(&pool).await.unwrap();
    run(&pool, CROWD).await;
    pool
}

async fn run(pool: &PgPool, sql: &'static str) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .unwrap();
}

/// Rows and entries of indexes that were read in this schema so far.
async fn read_so_far(pool: &PgPool) -> i64 {
    run(pool, "select pg_stat_force_next_flush()").await;
    sqlx::query_scalar(
        "select ((select coalesce(sum(seq_tup_read), 0) from pg_stat_user_tables
                  where schemaname = 'saga')
                 + (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes
                    where schemaname = 'saga'))::bigint",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn get(pool: &PgPool, uri: &str) -> Value {
    let router = routes(pool, coordinator());
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 10_000_000).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    assert_eq!(status, StatusCode::OK, "{uri}: {body}");
    body
}

/// What is answered, for at most so many rows and entries read.
async fn within(pool: &PgPool, most: i64, uri: &str) -> Value {
    let before = read_so_far(pool).await;
    let answer = get(pool, uri).await;
    let read = read_so_far(pool).await - before;
    assert!(read <= most, "{uri} reads {read}, more than {most}");
    assert!(read > 0, "{uri}: what is read is counted");
    answer
}

#[tokio::test]
async fn lists_and_counts_of_three_hundred_thousand_sagas_read_what_they_show() {
    let pool = crowd().await;
    // Four groups have more than are counted, each of which is read to there.
    let counted = within(&pool, 45_000, "/v1/sagas/count").await;
    assert_eq!(counted["exact"], false);
    let group = |value: &str| {
        let groups = counted["groups"].as_array().unwrap().iter();
        let mut groups = groups.filter(|group| group["value"] == value);
        groups.next().unwrap().clone()
    };
    assert_eq!(
        (&group("parked")["count"], &group("parked")["exact"]),
        (&20.into(), &true.into())
    );
    assert_eq!(group("compensated")["count"], 20);
    assert_eq!(group("running")["exact"], false);
    let waiting = within(&pool, 90_000, "/v1/sagas/count?group_by=waiting_for").await;
    assert_eq!(waiting["exact"], false);
    let recent = "/v1/sagas/count?created_after=2026-01-04T11:19:00Z";
    assert_eq!(within(&pool, 1_000, recent).await["total"], 61);
    let open = within(
        &pool,
        45_000,
        "/v1/sagas/count?status=running&group_by=definition",
    )
    .await;
    assert_eq!(open["groups"][0]["exact"], false);

    let definitions = within(&pool, 45_000, "/v1/definitions").await;
    let rare = &definitions["items"][2];
    assert_eq!(
        (&rare["name"], &rare["open"]),
        (&"rare".into(), &32.into()),
        "{rare}"
    );
    assert_eq!((&rare["ended"], &rare["exact"]), (&68.into(), &true.into()));

    for (filter, found) in [
        ("definition=rare", 50),
        ("version=3", 50),
        ("definition=rare&version=3&status=parked", 20),
        ("definition=big&status=parked", 0),
        ("status=compensated", 20),
        ("version=9", 0),
        ("definition=big&version=2&status=running", 50),
    ] {
        let list = within(&pool, 1_500, &format!("/v1/sagas?{filter}")).await;
        assert_eq!(list["items"].as_array().unwrap().len(), found, "{filter}");
    }
    // The next page costs the same.
    let list = get(&pool, "/v1/sagas?definition=rare").await;
    let cursor = list["next_cursor"].as_str().unwrap();
    let next = format!("/v1/sagas?definition=rare&cursor={cursor}");
    let next = within(&pool, 1_500, &next).await;
    assert_eq!(next["items"].as_array().unwrap().len(), 50);
    assert_eq!(next["items"][49]["business_key"], "1");

    let before = read_so_far(&pool).await;
    let parked = Census::new(&coordinator(), pool.clone()).run_once().await;
    assert_eq!(parked.unwrap().parked, [("rare".to_owned(), 20)].into());
    let read = read_so_far(&pool).await - before;
    assert!(read < 30_000, "the census reads {read}");
}

#[tokio::test]
async fn the_progress_of_a_bulk_operation_is_read_from_its_own_row() {
    let pool = crowd_of_items().await;
    let id = "018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b";
    let one = within(&pool, 50, &format!("/v1/bulk-operations/{id}")).await;
    assert_eq!(
        (&one["sagas"]["total"], &one["sagas"]["pending"]),
        (&300_000.into(), &5.into())
    );
    within(&pool, 50, "/v1/bulk-operations").await;
    // What ended long ago is removed, though no saga is.
    run(
        &pool,
        "update saga.bulk set status = 'done', created_at = '2020-01-01', ended_at = '2020-01-02'",
    )
    .await;
    let keep = std::time::Duration::from_secs(24 * 60 * 60);
    let retention = saga::retention::Retention::new(pool.clone(), keep).unwrap();
    retention.run_once().await.unwrap();
    assert_eq!(count(&pool, "saga.bulk_item").await, 0);
    assert_eq!(count(&pool, "saga.bulk").await, 0);
    let none = bulk::show(&pool, id.parse::<Uuid>().unwrap()).await;
    assert_eq!(none.unwrap(), None);
}

async fn crowd_of_items() -> PgPool {
    let database = Database::fresh("crowd_of_items").await;
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool
        .connect_with(database.options().unwrap())
        .await
        .unwrap();
    outbox::migrate(&pool).await.unwrap();
    saga::migrate(&pool).await.unwrap();
    run(
        &pool,
        r#"insert into saga.bulk (id, idempotency_key, request_hash, what, operation, selection, actor,
                                  reason, allow_changed, per_second, total, done)
           values ('018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b', 'k', 'h', '{"operation": "pause"}', 'pause',
                   '{}', 'ann', 'why', false, 10, 300000, 299995);
           insert into saga.bulk_item (bulk_id, position, saga_id, expected_seq, result, done_at)
           select '018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b', n, gen_random_uuid(), 1, 'done', now()
           from generate_series(1, 300000) as n"#,
    )
    .await;
    pool
}

#[tokio::test]
async fn the_end_of_a_history_of_three_hundred_thousand_events_is_read_alone() {
    let pool = database("long_history").await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with((*pool.connect_options()).clone())
        .await
        .unwrap();
    let saga = start(&coordinator(), &pool, &Trip::default()).await.id;
    let fill = sqlx::query(
        r#"insert into saga.event (saga_id, seq, kind, body)
           select $1, n, 'resumed', '{"type": "resumed"}' from generate_series(3, 300000) as n"#,
    );
    fill.bind(saga).execute(&pool).await.unwrap();
    let end = format!("/v1/sagas/{saga}/events?after=299500&limit=1000");
    let events = within(&pool, 600, &end).await;
    assert_eq!(events["events"].as_array().unwrap().len(), 500);
    let end = format!("/v1/sagas/{saga}/messages?after=299500&limit=1000");
    within(&pool, 1_100, &end).await;
}
