//! The sick-row matrix of the coordinator: each column of each table that its loops read is made
//! unreadable, out of range or nonsense in the row of one saga. Its neighbour goes on, the sick one
//! is listed with the reason, nothing spins, and once the row is repaired the ordinary tool brings
//! it on.
//!
//! A new column without a row here fails [`each_column_has_a_row_in_the_matrix`].

use std::collections::BTreeSet;

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use saga::{Coordinator, intervention::What};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::{operating_support::*, support::*};

/// What becomes of the saga whose row is sick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Parked with the reason; retried once its row is repaired.
    Parked,
    /// The database does not take such a value, by a constraint or a type.
    Refused,
    /// Nothing is decided by it: the saga goes on as if nothing were.
    Harmless,
    /// No replica here has its definition: it waits for one that has, untouched.
    Unsteered,
}

use Then::{Harmless, Parked, Refused, Unsteered};

/// The columns of `saga.instance`, what is written there, and what follows.
const INSTANCE: &[(&str, &str, Then)] = &[
    ("id", "null", Refused),
    ("created_at", "'infinity'", Harmless),
    ("definition", "'gone'", Unsteered),
    ("version", "99", Unsteered),
    ("hash", "'of another program'", Unsteered),
    ("business_key", "E'\\u202e\\n'", Harmless),
    ("tags", "'{\"a\": 1}'", Parked),
    ("tags", "'[1]'", Parked),
    ("paused", "null", Refused),
    ("late", "null", Refused),
    ("locks", "'5'", Parked),
    ("data", "'{\"moods\": 5}'", Parked),
    ("data", "'{\"x\": 1.7976931348623157e308}'", Parked),
    ("data", "'null'", Parked),
    ("steps", "'[[\"hold\", \"flying\", 1, 1]]'", Parked),
    ("steps", "'{}'", Parked),
    ("timers", "'5'", Parked),
    ("timers", "'[[\"hold\", \"action\", 1, 1, 1e300]]'", Parked),
    ("failures", "2147483647", Harmless),
    ("ignored", "2147483647", Harmless),
    ("status", "'flying'", Refused),
    ("seq", "9223372036854775807", Parked),
    ("updated_at", "'infinity'", Harmless),
    ("look_at", "'-infinity'", Harmless),
    ("waiting_for", "'godot'", Refused),
    ("waiting_step", "'nowhere'", Harmless),
    ("waiting_phase", "'sideways'", Harmless),
    ("waiting_round", "-1", Harmless),
    ("waiting_attempt", "-1", Harmless),
    ("waiting_until", "'infinity'", Harmless),
    ("reason", "repeat('x', 1000000)", Harmless),
    ("parked_reason", "repeat('x', 1000000)", Harmless),
    ("ended_at", "now()", Refused),
];

async fn set(pool: &PgPool, id: Uuid, column: &str, value: &str) -> Result<(), sqlx::Error> {
    let sql = format!("update saga.instance set {column} = {value} where id = $1");
    let set = sqlx::query(AssertSqlSafe(sql)).bind(id).execute(pool).await;
    set.map(|_| ())
}

async fn status(pool: &PgPool, id: Uuid) -> (String, Option<String>) {
    let sql = "select status, parked_reason from saga.instance where id = $1";
    let row = sqlx::query_as(sql).bind(id).fetch_one(pool).await;
    row.unwrap()
}

/// How often the row was written.
async fn version_of_row(pool: &PgPool, id: Uuid) -> String {
    let sql = "select xmin::text || ctid::text from saga.instance where id = $1";
    let version = sqlx::query_scalar(sql).bind(id).fetch_one(pool).await;
    version.unwrap()
}

async fn listed(pool: &PgPool, coordinator: &Coordinator) -> BTreeSet<String> {
    let routes = routes(pool, coordinator.clone());
    let request = Request::get("/v1/sagas").body(Body::empty()).unwrap();
    let response = routes.oneshot(request).await.unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let body = to_bytes(response.into_body(), 10_000_000).await.unwrap();
    let list: Value = serde_json::from_slice(&body).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|saga| saga["id"].as_str().unwrap().to_owned())
        .collect()
}

/// The timers' loop runs until nothing is due.
async fn run(pool: &PgPool, coordinator: &Coordinator) {
    let timers = coordinator.timers(pool.clone());
    for _ in 0..4 {
        timers.run_once().await.unwrap();
    }
}

#[tokio::test]
async fn a_sick_row_of_a_saga_stops_no_other_and_is_shown_and_mended() {
    let mut failed = Vec::new();
    for (column, value, then) in INSTANCE {
        // A task, so that all that fail are told of.
        if tokio::spawn(one(column, value, *then)).await.is_err() {
            failed.push(format!("{column} = {value}"));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

async fn one(column: &str, value: &str, then: Then) {
    let pool = database("sick").await;
    let coordinator = coordinator();
    let sick = start(&coordinator, &pool, &Trip::default()).await.id;
    let well = start(&coordinator, &pool, &Trip::default()).await.id;
    let sql = format!("create table kept as select id, {column} as kept from saga.instance");
    let kept = sqlx::query(AssertSqlSafe(sql)).execute(&pool).await;
    kept.unwrap();
    make_due(&pool, None).await;
    if let Err(error) = set(&pool, sick, column, value).await {
        assert_eq!(then, Refused, "{error}");
        return;
    }
    assert_ne!(then, Refused, "the database took it");
    // The time-out, then the pause before the next attempt.
    run(&pool, &coordinator).await;
    make_due(&pool, Some(well)).await;
    if status(&pool, sick).await.0 == "running" {
        make_due(&pool, Some(sick)).await;
    }
    run(&pool, &coordinator).await;

    let attempts = commands_of(&pool, well).await.len();
    assert_eq!(attempts, 2, "the neighbour's timer has fired");
    let (status, reason) = status(&pool, sick).await;
    match then {
        Parked => assert!(
            status == "parked" && reason.is_some_and(|reason| !reason.is_empty()),
            "{status}"
        ),
        _ => assert_eq!(status, "running"),
    }
    let both = BTreeSet::from([sick.to_string(), well.to_string()]);
    assert_eq!(listed(&pool, &coordinator).await, both);

    let before = version_of_row(&pool, sick).await;
    run(&pool, &coordinator).await;
    assert_eq!(version_of_row(&pool, sick).await, before, "it spins");

    if then != Parked {
        return;
    }
    // The number of the last event was mended when the saga was parked: its history tells it.
    if column != "seq" {
        let sql = format!(
            "update saga.instance i set {column} = k.kept from kept k where k.id = i.id and i.id = $1"
        );
        let mended = sqlx::query(AssertSqlSafe(sql)).bind(sick).execute(&pool);
        mended.await.unwrap();
    }
    done(&pool, &coordinator, sick, What::Retry { step: None }).await;
    let waits = self::status(&pool, sick).await.0;
    assert_eq!(waits, "running", "it goes on");
}

#[tokio::test]
async fn each_column_has_a_row_in_the_matrix() {
    let pool = database("matrix").await;
    let columns: Vec<String> = sqlx::query_scalar(
        "select column_name::text from information_schema.columns
         where table_schema = 'saga' and table_name = 'instance'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let known: BTreeSet<&str> = INSTANCE.iter().map(|(column, ..)| *column).collect();
    for column in columns {
        assert!(
            known.contains(&*column),
            "saga.instance.{column} has no row in the matrix"
        );
    }
}
