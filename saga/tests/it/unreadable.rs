//! What this program cannot read, in lists and pages: shown with its reason, and in nobody's way.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use saga::{
    intervention::What,
    operator::{
        Selection,
        bulk::{self, BulkRequest, BulkStatus, Bulks, Created, ItemResult, Worked},
    },
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tower::ServiceExt;
use uuid::Uuid;

use crate::support::*;

async fn get(pool: &PgPool, uri: &str) -> (StatusCode, Value) {
    let router = routes(pool, coordinator());
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 10_000_000).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn shown(pool: &PgPool, uri: &str) -> Value {
    let (status, body) = get(pool, uri).await;
    assert_eq!(status, StatusCode::OK, "{uri}: {body}");
    body
}

async fn run(pool: &PgPool, sql: &str) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    sql.execute(pool).await.unwrap();
}

/// A number that PostgreSQL keeps and serde_json cannot read.
const HUGE: &str = r#"{"n": 1.7976931348623157e309}"#;

#[tokio::test]
async fn a_saga_that_cannot_be_read_is_listed_with_its_reason_and_hides_no_other() {
    let pool = database("unreadable").await;
    // A later release knows more words.
    run(
        &pool,
        "alter table saga.instance drop constraint instance_status_known;
         alter table saga.instance drop constraint instance_waits_until_ended;
         alter table saga.instance drop constraint instance_ended_has_its_moment",
    )
    .await;
    let columns = [
        ("steps", r#"'[["hold", "flying", 1, 1]]'"#.to_owned()),
        ("steps", "'7'".to_owned()),
        ("data", format!("'{HUGE}'")),
        ("tags", r#"'{"a": 1}'"#.to_owned()),
        ("locks", "'{}'".to_owned()),
        ("timers", "'[[1]]'".to_owned()),
        ("status", "'frozen'".to_owned()),
        ("waiting_phase", "'sideways'".to_owned()),
    ];
    for (column, value) in columns {
        let healthy = start(&coordinator(), &pool, &Trip::default()).await.id;
        let sick = start(&coordinator(), &pool, &Trip::default()).await.id;
        let sql = format!("update saga.instance set {column} = {value} where id = '{sick}'");
        run(&pool, &sql).await;

        let list = shown(&pool, "/v1/sagas").await;
        let items = list["items"].as_array().unwrap();
        let item = |id: Uuid| items.iter().find(|item| item["id"] == id.to_string());
        assert_eq!(
            item(healthy).unwrap()["unreadable"],
            Value::Null,
            "{column}"
        );
        let told = item(sick).unwrap();
        assert_eq!(told["definition"], "trip", "what can be read is shown");
        let is_named = |told: &Value| {
            let reason = told["unreadable"].as_str().unwrap_or_default();
            assert!(reason.contains(column), "{column} = {value}: {told}");
        };
        is_named(told);
        is_named(&shown(&pool, &format!("/v1/sagas/{sick}")).await);
        for part in ["events", "messages"] {
            shown(&pool, &format!("/v1/sagas/{sick}/{part}")).await;
        }
        let (status, problem) = get(&pool, &format!("/v1/sagas/{sick}/graph")).await;
        assert_eq!(status, StatusCode::CONFLICT, "{problem}");
        assert_eq!(problem["type"], "/problems/unreadable");
        assert!(
            problem["detail"].as_str().unwrap().contains(column),
            "{problem}"
        );
        for list in [
            "/v1/sagas/count",
            "/v1/sagas/count?group_by=waiting_for",
            "/v1/sagas?definition=trip",
            "/v1/definitions",
            "/v1/locks",
            "/v1/anomalies",
        ] {
            shown(&pool, list).await;
        }
    }
}

#[tokio::test]
async fn moments_beyond_the_calendar_are_shown_as_its_end_and_pages_go_on_behind_them() {
    let pool = database("infinite").await;
    let healthy = start(&coordinator(), &pool, &Trip::default()).await.id;
    let sick = start(&coordinator(), &pool, &Trip::default()).await.id;
    for column in ["created_at", "updated_at", "waiting_until"] {
        let sql = format!("update saga.instance set {column} = 'infinity' where id = '{sick}'");
        run(&pool, &sql).await;
    }
    run(&pool, "update saga.event set recorded_at = 'infinity'").await;
    let first = shown(&pool, "/v1/sagas?limit=1").await;
    assert_eq!(first["items"][0]["id"], sick.to_string());
    assert_eq!(
        first["items"][0]["created_at"],
        "9999-12-31T23:59:59.999999Z"
    );
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = shown(&pool, &format!("/v1/sagas?limit=1&cursor={cursor}")).await;
    assert_eq!(second["items"][0]["id"], healthy.to_string());
    for part in ["", "/events", "/messages"] {
        shown(&pool, &format!("/v1/sagas/{sick}{part}")).await;
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_told_by_its_kind_and_hides_no_other() {
    let pool = database("unreadable_event").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await.id;
    let event = r#"{"type": "command_sent", "attempt": 1e999}"#;
    let sql = format!("update saga.event set body = '{event}' where seq = 2");
    run(&pool, &sql).await;
    let events = shown(&pool, &format!("/v1/sagas/{saga}/events")).await;
    assert_eq!(events["events"][0]["event"]["type"], "started");
    let told = &events["events"][1]["event"];
    assert_eq!(told["type"], "command_sent");
    let reason = told["unreadable"].as_str().unwrap();
    assert!(reason.starts_with("body: number out of range"), "{told}");
    let messages = shown(&pool, &format!("/v1/sagas/{saga}/messages")).await;
    assert_eq!(messages["unreadable"][0]["seq"], 2, "{messages}");
    // A NUL in what came from outside is no reason either.
    run(
        &pool,
        r#"update saga.event set origin = '{"trace": "\u0000"}'"#,
    )
    .await;
    shown(&pool, &format!("/v1/sagas/{saga}/messages")).await;
}

#[tokio::test]
async fn words_that_are_not_known_are_shown_as_they_are_stored() {
    let pool = database("unknown_words").await;
    run(
        &pool,
        "alter table saga.anomaly drop constraint anomaly_kind_known;
         insert into saga.anomaly (saga_id, seq, kind, definition, step, phase, round, outcome,
                                   recorded_at)
         values ('018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b', 1, 'contradiction', 'trip', 'pay', 'action',
                 1, 'succeeded', now()),
                ('018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b', 2, 'miracle', 'trip', 'pay', 'sideways', 1,
                 'exploded', 'infinity')",
    )
    .await;
    let anomalies = shown(&pool, "/v1/anomalies").await;
    let told = &anomalies["items"][0];
    let words = ["kind", "phase", "outcome"].map(|word| told[word].as_str().unwrap());
    assert_eq!(words, ["miracle", "sideways", "exploded"]);
    assert_eq!(anomalies["items"][1]["kind"], "contradiction");
}

fn pause() -> BulkRequest {
    BulkRequest {
        what: What::Pause {},
        selection: Selection::default(),
        actor: "ann".to_owned(),
        reason: "the bank is closed".to_owned(),
        per_second: 1000,
        allow_changed: false,
        expected_count: None,
        idempotency_key: Uuid::now_v7().to_string(),
    }
}

async fn asked(pool: &PgPool) -> Uuid {
    let mut tx = pool.begin().await.unwrap();
    let created = bulk::create(&mut tx, &pause()).await.unwrap();
    tx.commit().await.unwrap();
    let (Created::First(bulk) | Created::Again(bulk)) = created;
    bulk.id
}

#[tokio::test]
async fn a_bulk_operation_that_a_replica_cannot_read_blocks_no_other() {
    let pool = database("unreadable_bulk").await;
    start(&coordinator(), &pool, &Trip::default()).await;
    let sick = asked(&pool).await;
    let healthy = asked(&pool).await;
    let sql = format!(
        r#"update saga.bulk set what = '{{"operation": "teleport"}}', next_at = now() - interval '1 h'
           where id = '{sick}'"#
    );
    run(&pool, &sql).await;
    let bulks = Bulks::new(coordinator(), pool.clone());
    assert_eq!(bulks.run_once().await.unwrap(), Worked::Postponed);
    let worked = bulks.run_once().await.unwrap();
    assert_eq!(worked, Worked::Item(ItemResult::Done));
    assert_eq!(bulks.run_once().await.unwrap(), Worked::Ended);
    assert_eq!(
        bulks.run_once().await.unwrap(),
        Worked::Idle,
        "nothing spins"
    );

    let list = shown(&pool, "/v1/bulk-operations").await;
    let items = list["items"].as_array().unwrap();
    let item = |id: Uuid| items.iter().find(|item| item["id"] == id.to_string());
    let reason = item(sick).unwrap()["unreadable"].as_str().unwrap();
    assert!(reason.starts_with("what: "), "{reason}");
    assert_eq!(item(healthy).unwrap()["unreadable"], Value::Null);
    // Whoever sees it stops it.
    let mut tx = pool.begin().await.unwrap();
    let stopped = bulk::cancel(&mut tx, sick, "ann", "nobody knows it").await;
    tx.commit().await.unwrap();
    assert!(stopped.unwrap().status == BulkStatus::Cancelled);
}

#[tokio::test]
async fn what_fails_for_a_bulk_operation_alone_holds_up_no_other() {
    let pool = database("failing_bulk").await;
    start(&coordinator(), &pool, &Trip::default()).await;
    let sick = asked(&pool).await;
    let healthy = asked(&pool).await;
    // Whatever it is: the database refuses to note what became of its saga.
    let sql = format!(
        "update saga.bulk set next_at = now() - interval '1 h' where id = '{sick}';
         alter table saga.bulk_item add constraint refused
             check (bulk_id <> '{sick}' or result is null)"
    );
    run(&pool, &sql).await;
    let bulks = Bulks::new(coordinator(), pool.clone());
    assert_eq!(bulks.run_once().await.unwrap(), Worked::Postponed);
    let worked = bulks.run_once().await.unwrap();
    assert_eq!(worked, Worked::Item(ItemResult::Done));
    let bulk = bulk::show(&pool, healthy).await.unwrap().unwrap();
    assert_eq!(bulk.sagas.done, 1);
}
