//! `GET /locks`, as a stranger meets it.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use saga::locks::{self, Claim};
use serde_json::Value;
use sqlx::PgPool;
use tower::ServiceExt;
use uuid::Uuid;

use crate::support::*;

async fn get(pool: &PgPool, query: &str) -> (StatusCode, Value) {
    let router = routes(pool, coordinator());
    let request = Request::get(format!("/v1/locks{query}"));
    let request = request.body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), 10_000_000).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn resources(pool: &PgPool, query: &str) -> Vec<String> {
    let (status, body) = get(pool, query).await;
    assert_eq!(status, StatusCode::OK, "{query}: {body}");
    let items = body["items"].as_array().unwrap().iter();
    items
        .map(|lock| lock["resource"].as_str().unwrap().to_owned())
        .collect()
}

async fn claim(pool: &PgPool, saga: Uuid, resources: &[&str]) {
    let mut tx = pool.begin().await.unwrap();
    let claims = resources
        .iter()
        .map(|resource| (saga, Claim::exclusive(*resource)));
    let claims: Vec<_> = claims.collect();
    locks::acquire(&mut tx, &claims).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn locks_are_listed_with_their_holders_and_waiters_and_filtered() {
    let pool = database("locks").await;
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    claim(&pool, a, &["credit/1", "credit/2"]).await;
    claim(&pool, b, &["credit/2", "Größe/%"]).await;
    let (_, body) = get(&pool, "?waiting=true").await;
    let lock = &body["items"][0];
    assert_eq!(lock["resource"], "credit/2");
    assert_eq!((&lock["capacity"], &lock["used"]), (&1.into(), &1.into()));
    assert_eq!(lock["holders"][0]["saga_id"], a.to_string());
    assert_eq!(lock["waiters"][0]["saga_id"], b.to_string());
    assert_eq!(lock["waiters"][0]["position"], 1);
    assert_eq!(lock["waiters"][0]["units"], 1);
    assert!(lock["waiters"][0]["since"].is_string());
    assert_eq!(body["items"].as_array().unwrap().len(), 1);
    assert_eq!(body["next_cursor"], Value::Null);

    let all = ["Größe/%", "credit/1", "credit/2"];
    assert_eq!(resources(&pool, "").await, all);
    assert_eq!(resources(&pool, "?waiting=false").await, all[..2]);
    assert_eq!(resources(&pool, &format!("?saga_id={a}")).await, all[1..]);
    assert_eq!(resources(&pool, "?resource=credit%2F1").await, ["credit/1"]);
    assert_eq!(
        resources(&pool, &format!("?saga_id={b}&waiting=true")).await,
        ["credit/2"]
    );
    let hostile = "?resource=%27%3B%20drop%20table%20saga.lock%3B--";
    assert!(resources(&pool, hostile).await.is_empty());
}

#[tokio::test]
async fn the_pages_of_locks_follow_each_other_without_gap_or_repetition() {
    let pool = database("locks").await;
    let names = ["ä", "b", "a", "B", "%00", "z", "a/b"];
    claim(&pool, Uuid::now_v7(), &names).await;
    let mut expected = names.map(str::to_owned);
    expected.sort();
    let mut paged = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        paged.extend(resources(&pool, &query).await);
        let (_, body) = get(&pool, &query).await;
        let Some(cursor) = body["next_cursor"].as_str() else {
            break;
        };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(paged, expected);
}

#[tokio::test]
async fn what_is_wrong_with_the_question_is_named() {
    let pool = database("locks").await;
    for (query, field) in [
        ("?resource=%00", "resource"),
        ("?saga_id=7", "saga_id"),
        ("?waiting=maybe", "waiting"),
        ("?limit=0", "limit"),
        ("?limit=1000000000", "limit"),
        ("?cursor=zz", "cursor"),
        ("?other=1", "other"),
        ("?limit=1&limit=2", "limit"),
    ] {
        let (status, body) = get(&pool, query).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(body["errors"][0]["field"], field, "{query}");
    }
}
