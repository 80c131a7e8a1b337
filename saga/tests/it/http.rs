//! The three routes, as a stranger meets them.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use saga::wire::Outcome;
use serde_json::Value;
use sqlx::PgPool;
use tower::ServiceExt;

use crate::support::*;

async fn get(pool: &PgPool, uri: &str) -> (StatusCode, String, Value) {
    let router = routes(pool, coordinator());
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind
        .map(|kind| kind.to_str().unwrap().to_owned())
        .unwrap_or_default();
    let body = to_bytes(response.into_body(), 10_000_000).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    (status, kind, body)
}

async fn ids(pool: &PgPool, uri: &str) -> Vec<String> {
    let (status, _, body) = get(pool, uri).await;
    assert_eq!(status, StatusCode::OK, "{uri}: {body}");
    let sagas = body["items"].as_array().unwrap().iter();
    sagas
        .map(|saga| saga["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_list_is_newest_first_and_pages_without_gap_or_repetition() {
    let pool = database("list").await;
    let mut expected = Vec::new();
    for _ in 0..7 {
        expected.push(
            start(&coordinator(), &pool, &Trip::default())
                .await
                .id
                .to_string(),
        );
    }
    expected.reverse();
    // Started in one instant: the id breaks the tie.
    sqlx::query("update saga.instance set created_at = '2026-01-01 00:00:00.123456+00'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(ids(&pool, "/v1/sagas").await, expected);

    let mut paged = Vec::new();
    let mut uri = "/v1/sagas?limit=3".to_owned();
    loop {
        let (_, _, body) = get(&pool, &uri).await;
        let page = ids(&pool, &uri).await;
        assert!(page.len() <= 3);
        paged.extend(page);
        let Some(cursor) = body["next_cursor"].as_str() else {
            break;
        };
        uri = format!("/v1/sagas?limit=3&cursor={cursor}");
    }
    assert_eq!(paged, expected);
}

#[tokio::test]
async fn the_list_filters() {
    let pool = database("filters").await;
    let running = start(&coordinator(), &pool, &Trip::default()).await;
    let refused = start(&coordinator(), &pool, &Trip::default()).await;
    let command = sent(&pool, "trip.commands").await.pop().unwrap();
    let reply = answer(&command, Outcome::Failed);
    deliver(&pool, &coordinator().replies(), &reply)
        .await
        .unwrap();
    let (running, refused) = (running.id.to_string(), refused.id.to_string());

    let one = std::slice::from_ref;
    assert_eq!(ids(&pool, "/v1/sagas?status=running").await, one(&running));
    assert_eq!(
        ids(&pool, "/v1/sagas?status=compensated").await,
        one(&refused)
    );
    assert!(ids(&pool, "/v1/sagas?status=parked").await.is_empty());
    assert_eq!(ids(&pool, "/v1/sagas?definition=trip").await.len(), 2);
    assert!(ids(&pool, "/v1/sagas?definition=other").await.is_empty());
    let by_key = format!("/v1/sagas?definition=trip&business_key={running}&status=running");
    assert_eq!(ids(&pool, &by_key).await, one(&running));
    let hostile = "/v1/sagas?business_key=%27%3B%20drop%20table%20saga.instance%3B--";
    assert!(ids(&pool, hostile).await.is_empty());
    assert_eq!(ids(&pool, "/v1/sagas").await.len(), 2);
}

#[tokio::test]
async fn one_saga_says_what_it_waits_for_and_how_it_ended() {
    let pool = database("one").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let uri = format!("/v1/sagas/{}", saga.id);
    let (_, _, body) = get(&pool, &uri).await;
    assert_eq!(body["status"], "running");
    assert_eq!(body["waiting"]["for"], "reply");
    assert_eq!(body["waiting"]["step"], "hold");
    assert!(body["waiting"]["until"].is_string(), "{body}");
    let operation = saga.operation("hold", saga::Phase::Action, 1);
    assert_eq!(body["waiting"]["op_key"], operation.key().to_string());
    assert_eq!(body["steps"][0]["status"], "running");
    assert_eq!(body["steps"][3]["name"], "print");
    assert_eq!(body["steps"][3]["status"], "pending");

    let command = sent(&pool, "trip.commands").await.remove(0);
    let reply = answer(&command, Outcome::Failed);
    deliver(&pool, &coordinator().replies(), &reply)
        .await
        .unwrap();
    let (_, _, body) = get(&pool, &uri).await;
    assert_eq!(body["status"], "compensated");
    assert_eq!(body["reason"], "no, thank you");
    assert_eq!(body["waiting"], Value::Null);
}

#[tokio::test]
async fn the_history_comes_in_order_and_in_pages() {
    let pool = database("events").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let command = sent(&pool, "trip.commands").await.remove(0);
    let reply = answer(&command, Outcome::Failed);
    deliver(&pool, &coordinator().replies(), &reply)
        .await
        .unwrap();
    let uri = format!("/v1/sagas/{}/events", saga.id);
    let (_, _, body) = get(&pool, &uri).await;
    let types = body["events"].as_array().unwrap().iter();
    let types: Vec<_> = types
        .map(|e| e["event"]["type"].as_str().unwrap())
        .collect();
    let expected = [
        "started",
        "command_sent",
        "action_failed",
        "compensation_started",
        "compensated",
    ];
    assert_eq!(types, expected);
    assert_eq!(body["next_after"], Value::Null);

    let (_, _, body) = get(&pool, &format!("{uri}?after=1&limit=2")).await;
    assert_eq!(body["events"][0]["seq"], 2);
    assert_eq!(body["events"].as_array().unwrap().len(), 2);
    assert_eq!(body["next_after"], 3);
}

#[tokio::test]
async fn every_bad_request_is_a_problem_that_names_the_field() {
    let pool = database("bad").await;
    let unknown = uuid::Uuid::now_v7();
    for (uri, status, field) in [
        ("/v1/sagas?status=finished", 400, "status"),
        ("/v1/sagas?limit=0", 400, "limit"),
        ("/v1/sagas?limit=201", 400, "limit"),
        ("/v1/sagas?limit=1e9", 400, "limit"),
        ("/v1/sagas?cursor=garbage", 400, "cursor"),
        ("/v1/sagas?cursor=", 400, "cursor"),
        ("/v1/sagas?cursor=%00", 400, "cursor"),
        ("/v1/sagas?business_key=%00", 400, "business_key"),
        ("/v1/sagas?definition=%00", 400, "definition"),
        ("/v1/sagas?colour=blue", 400, "colour"),
        ("/v1/sagas?limit=1&limit=2", 400, "limit"),
        ("/v1/sagas/not-a-uuid", 400, "id"),
        ("/v1/sagas/%FF", 400, "id"),
        ("/v1/sagas/not-a-uuid/events", 400, "id"),
        (&format!("/v1/sagas/{unknown}?limit=1"), 400, "limit"),
        (&format!("/v1/sagas/{unknown}/events?after=x"), 400, "after"),
        (
            &format!("/v1/sagas/{unknown}/events?limit=1001"),
            400,
            "limit",
        ),
    ] {
        let (got, kind, body) = get(&pool, uri).await;
        assert_eq!(got, status, "{uri}: {body}");
        assert_eq!(kind, "application/problem+json", "{uri}");
        assert_eq!(body["errors"][0]["field"], field, "{uri}: {body}");
        assert_eq!(body["type"], "/problems/invalid-parameter", "{uri}");
        assert_eq!(body["status"], status, "{uri}");
        assert!(
            body["detail"].as_str().unwrap().starts_with(field),
            "{uri}: {body}"
        );
    }
}

#[tokio::test]
async fn an_unknown_saga_is_not_found() {
    let pool = database("unknown").await;
    let unknown = uuid::Uuid::now_v7();
    for uri in [
        format!("/v1/sagas/{unknown}"),
        format!("/v1/sagas/{unknown}/events"),
    ] {
        let (got, kind, body) = get(&pool, &uri).await;
        assert_eq!(
            (got.as_u16(), kind.as_str()),
            (404, "application/problem+json"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn an_unreachable_database_is_a_problem_without_details() {
    let pool = database("away").await;
    pool.close().await;
    let (status, kind, body) = get(&pool, "/v1/sagas").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(kind, "application/problem+json");
    assert!(!body.to_string().contains("pool"), "{body}");
}
