//! A person at the door.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use saga::{intervention::What, wire::Outcome};
use serde_json::{Value, json};
use sqlx::PgPool;
use tower::ServiceExt;
use uuid::Uuid;

use crate::{operating_support::*, support::*};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

async fn send(pool: &PgPool, request: Request<Body>) -> Answer {
    let router = routes(pool, coordinator());
    let response = router.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = to_bytes(body, 10_000_000).await.unwrap();
    if !head.status.is_success() {
        assert_eq!(
            head.headers[header::CONTENT_TYPE],
            "application/problem+json"
        );
    }
    Answer {
        status: head.status,
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}

async fn get(pool: &PgPool, uri: &str) -> Answer {
    send(pool, Request::get(uri).body(Body::empty()).unwrap()).await
}

async fn post(pool: &PgPool, uri: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let request = Request::post(uri).header(header::CONTENT_TYPE, "application/json");
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    send(pool, request.body(Body::from(body.to_string())).unwrap()).await
}

fn operations(id: Uuid) -> String {
    format!("/v1/sagas/{id}/operations")
}

fn wish(operation: &str) -> Value {
    json!({"operation": operation, "actor": "ann", "reason": "the bank is closed"})
}

async fn ids(pool: &PgPool, uri: &str) -> Vec<String> {
    let answer = get(pool, uri).await;
    assert_eq!(answer.status, StatusCode::OK, "{uri}: {}", answer.body);
    let items = answer.body["items"].as_array().unwrap().iter();
    items
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_person_sees_what_is_allowed_tries_it_dry_and_does_it_on_what_was_seen() {
    let pool = database("door").await;
    let id = start(&coordinator(), &pool, &Trip::default()).await.id;
    let seen = get(&pool, &format!("/v1/sagas/{id}")).await;
    let etag = seen.headers[header::ETAG].to_str().unwrap().to_owned();
    assert_eq!(etag, "\"2\"");
    let of = |name: &str| {
        let mut all = seen.body["allowed_operations"].as_array().unwrap().iter();
        let found = all.find(|operation| operation["name"] == name);
        found.unwrap().clone()
    };
    assert_eq!(of("cancel"), json!({"name": "cancel", "allowed": true}));
    let no = json!({"name": "resume", "allowed": false, "because": "it is not paused"});
    assert_eq!(of("resume"), no);
    assert!(
        seen.body["steps"][0]["until"].is_string(),
        "{}",
        seen.body["steps"]
    );
    assert_eq!(
        seen.body["steps"][0]["until"],
        seen.body["waiting"]["until"]
    );
    assert_eq!(seen.body["steps"][1]["until"], Value::Null);

    let headers = [("if-match", etag.as_str())];
    let dry = format!("{}?dry_run=true", operations(id));
    let would = post(&pool, &dry, &headers, &wish("cancel")).await;
    assert_eq!(would.status, StatusCode::OK, "{}", would.body);
    assert_eq!(would.body["outcome"], "dry_run");
    assert_eq!(would.body["commands"][0]["step"], "hold");
    assert_eq!(would.body["commands"][0]["phase"], "compensation");
    assert_eq!(would.body["commands"][0].get("payload"), None);
    assert_eq!(get(&pool, &format!("/v1/sagas/{id}")).await.body, seen.body);

    let headers = [("if-match", etag.as_str()), ("idempotency-key", "one")];
    let did = post(&pool, &operations(id), &headers, &wish("cancel")).await;
    assert_eq!(did.status, StatusCode::OK, "{}", did.body);
    assert_eq!(did.body["outcome"], "done");
    assert_eq!(did.body["events"], would.body["events"]);
    assert_eq!(did.body["status"], "compensating");
    let seq = did.body["seq"].to_string();
    assert_eq!(did.headers[header::ETAG], format!("\"{seq}\""));

    let again = post(&pool, &operations(id), &headers, &wish("cancel")).await;
    assert_eq!(
        (again.status, &again.body["outcome"]),
        (StatusCode::OK, &json!("repeated"))
    );
    assert_eq!(again.body["events"], did.body["events"]);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_each_in_its_way() {
    let pool = database("refusals").await;
    let id = start(&coordinator(), &pool, &Trip::default()).await.id;
    let uri = operations(id);
    let key = ("idempotency-key", "one");
    let refused = post(&pool, &uri, &[key], &wish("resume")).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(refused.body["type"], "/problems/not-allowed");
    assert_eq!(
        refused.body["detail"],
        "resume is not possible: it is not paused"
    );

    let stale = post(&pool, &uri, &[key, ("if-match", "\"1\"")], &wish("pause")).await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED);
    assert!(
        stale.body["detail"]
            .as_str()
            .unwrap()
            .contains("its last event is 2")
    );
    let mut expecting = wish("pause");
    expecting["expected_seq"] = json!(1);
    let stale = post(&pool, &uri, &[key], &expecting).await;
    assert_eq!(stale.status, StatusCode::CONFLICT);
    assert_eq!(stale.body["type"], "/problems/changed");

    let any = [key, ("if-match", "*")];
    assert_eq!(
        post(&pool, &uri, &any, &wish("pause")).await.status,
        StatusCode::OK
    );
    let reused = post(&pool, &uri, &[key], &wish("cancel")).await;
    assert_eq!(reused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reused.body["errors"][0]["field"], "Idempotency-Key");

    let unknown = post(&pool, &operations(Uuid::now_v7()), &[key], &wish("pause")).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    sqlx::query("update saga.instance set version = 9")
        .execute(&pool)
        .await
        .unwrap();
    let elsewhere = post(&pool, &uri, &[("idempotency-key", "two")], &wish("cancel")).await;
    assert_eq!(elsewhere.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        elsewhere.body["detail"]
            .as_str()
            .unwrap()
            .contains("version 9")
    );
}

#[tokio::test]
async fn a_wrong_request_names_its_field() {
    let pool = database("wrong").await;
    let id = start(&coordinator(), &pool, &Trip::default()).await.id;
    let uri = operations(id);
    let key = ("idempotency-key", "one");
    let with = |name: &str, value: Value| {
        let mut body = wish("pause");
        match value {
            Value::Null => drop(body.as_object_mut().unwrap().remove(name)),
            value => body[name] = value,
        }
        body
    };
    let of = |operation: &str, name: &str, value: Value| {
        let mut body = with(name, value);
        body["operation"] = json!(operation);
        body
    };
    for (body, field) in [
        (with("operation", json!("explode")), "operation"),
        (with("operation", Value::Null), "operation"),
        (with("actor", Value::Null), "actor"),
        (with("actor", json!(7)), "actor"),
        (with("actor", json!(" ")), "actor"),
        (with("reason", Value::Null), "reason"),
        (with("reason", json!("\u{0}")), "reason"),
        (with("reason", json!("r".repeat(2001))), "reason"),
        (with("expected_seq", json!("2")), "expected_seq"),
        (with("step", json!("hold")), "step"),
        (with("colour", json!("red")), "colour"),
        (with("operation", json!("complete_step")), "step"),
        (of("complete_step", "step", json!("hold")), "reply"),
        (with("operation", json!("skip_compensation")), "step"),
        (with("operation", json!("migrate")), "to"),
        (of("migrate", "to", json!(1e12)), "to"),
        (of("retry", "step", json!("ho\u{0}ld")), "step"),
    ] {
        let answer = post(&pool, &uri, &[key], &body).await;
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{body}: {}",
            answer.body
        );
        assert_eq!(answer.body["errors"][0]["field"], field, "{body}");
    }
    for (headers, field) in [
        (&[][..], "Idempotency-Key"),
        (&[("idempotency-key", "a b")], "Idempotency-Key"),
        (&[key, key], "Idempotency-Key"),
        (&[key, ("if-match", "2")], "If-Match"),
        (&[key, ("if-match", "W/\"2\"")], "If-Match"),
    ] {
        let answer = post(&pool, &uri, headers, &wish("pause")).await;
        assert_eq!(
            answer.status,
            StatusCode::BAD_REQUEST,
            "{headers:?}: {}",
            answer.body
        );
        let named = answer.body["errors"][0]["field"].as_str().unwrap();
        assert!(named.eq_ignore_ascii_case(field), "{headers:?}: {named}");
    }
    let bad = post(
        &pool,
        &format!("{uri}?dry_run=perhaps"),
        &[key],
        &wish("pause"),
    )
    .await;
    assert_eq!(
        (bad.status, &bad.body["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("dry_run"))
    );
    let raw = |kind: &str, body: String| {
        let request = Request::post(&uri).header(header::CONTENT_TYPE, kind);
        request.header(key.0, key.1).body(Body::from(body)).unwrap()
    };
    for (request, status) in [
        (
            raw("application/json", "{".to_owned()),
            StatusCode::BAD_REQUEST,
        ),
        (
            raw("application/json", "[]".to_owned()),
            StatusCode::BAD_REQUEST,
        ),
        (
            raw("text/plain", wish("pause").to_string()),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            raw("application/json", " ".repeat(70_000)),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        assert_eq!(send(&pool, request).await.status, status);
    }
    assert_eq!(instance(&pool, id).await.seq, 2);
}

#[tokio::test]
async fn a_sagas_way_is_drawn_as_mermaid_and_as_svg() {
    let pool = database("graph").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let drawn = async |query: &str| {
        let uri = format!("/v1/sagas/{}/graph{query}", saga.id);
        let router = routes(&pool, coordinator());
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let (head, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, 1_000_000).await.unwrap();
        let kind = head.headers[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .to_owned();
        (head.status, kind, String::from_utf8(body.to_vec()).unwrap())
    };
    let (status, kind, text) = drawn("").await;
    assert_eq!(
        (status, kind.as_str()),
        (StatusCode::OK, "text/vnd.mermaid; charset=utf-8")
    );
    assert!(text.contains("[\"hold\"]:::active"), "{text}");
    let (status, kind, picture) = drawn("?format=svg").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "image/svg+xml"));
    assert!(picture.contains("class=\"step active\""), "{picture}");
    assert_eq!(drawn("?format=png").await.0, StatusCode::BAD_REQUEST);
    let nobody = get(&pool, &format!("/v1/sagas/{}/graph", Uuid::now_v7())).await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_list_is_filtered_by_what_sagas_wait_for_how_long_and_whose_they_are() {
    let pool = database("filters").await;
    let old = start(&coordinator(), &pool, &Trip::default()).await.id;
    let parked = Scene::ParkedPivot.set(&pool).await.id;
    let ended = Scene::Compensated.set(&pool).await.id;
    sqlx::query(
        "update saga.instance set tags = '{\"customer\": \"a:b\"}', created_at = '2020-01-01',
                updated_at = now() - interval '11 minutes' where id = any($1)",
    )
    .bind([old, ended])
    .execute(&pool)
    .await
    .unwrap();
    let (old, parked, ended) = (old.to_string(), parked.to_string(), ended.to_string());
    let only = std::slice::from_ref::<String>;
    assert_eq!(
        ids(&pool, "/v1/sagas?waiting_for=late_reply").await,
        only(&parked)
    );
    assert_eq!(ids(&pool, "/v1/sagas?stuck_for=10m").await, only(&old));
    assert!(ids(&pool, "/v1/sagas?stuck_for=12m").await.is_empty());
    assert_eq!(ids(&pool, "/v1/sagas?tag=customer:a:b").await.len(), 2);
    assert!(ids(&pool, "/v1/sagas?tag=customer:a").await.is_empty());
    assert_eq!(
        ids(&pool, "/v1/sagas?tag=customer:a:b&status=compensated").await,
        only(&ended)
    );
    assert_eq!(
        ids(&pool, "/v1/sagas?created_after=2026-01-01T00:00:00Z").await,
        only(&parked)
    );
    assert_eq!(
        ids(&pool, "/v1/sagas?created_before=2026-01-01T00:00:00Z")
            .await
            .len(),
        2
    );
    let prefix = format!("/v1/sagas?business_key_prefix={}", &old[..35]);
    assert!(ids(&pool, &prefix).await.contains(&old));
    assert!(
        ids(&pool, "/v1/sagas?business_key_prefix=%25")
            .await
            .is_empty()
    );
    assert_eq!(ids(&pool, "/v1/sagas?version=1").await.len(), 3);
    for (query, field) in [
        ("waiting_for=godot", "waiting_for"),
        ("stuck_for=10", "stuck_for"),
        ("stuck_for=99999d", "stuck_for"),
        ("tag=customer", "tag"),
        ("tag=%00:a", "tag"),
        ("created_after=yesterday", "created_after"),
        ("version=0", "version"),
    ] {
        let answer = get(&pool, &format!("/v1/sagas?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.body["errors"][0]["field"], field);
    }
    for (group_by, groups) in [
        (
            "status",
            json!([{"value": "compensated", "count": 1}, {"value": "parked", "count": 1}, {"value": "running", "count": 1}]),
        ),
        ("definition", json!([{"value": "trip", "count": 3}])),
        (
            "waiting_for",
            json!([{"value": "late_reply", "count": 1}, {"value": "reply", "count": 1}, {"value": null, "count": 1}]),
        ),
    ] {
        let answer = get(&pool, &format!("/v1/sagas/count?group_by={group_by}")).await;
        let mut groups: Value = groups;
        for group in groups.as_array_mut().unwrap() {
            group["exact"] = json!(true);
        }
        let expected = json!({"total": 3, "groups": groups, "exact": true});
        assert_eq!(answer.body, expected, "{group_by}");
    }
    let some = get(&pool, "/v1/sagas/count?tag=customer:a:b").await;
    assert_eq!(some.body["total"], 2);
    let wrong = get(&pool, "/v1/sagas/count?group_by=colour").await;
    assert_eq!(wrong.body["errors"][0]["field"], "group_by");
}

#[tokio::test]
async fn anomalies_are_listed_newest_first_in_pages_without_gap_or_repetition() {
    let pool = database("anomalies").await;
    let mut sagas = Vec::new();
    for _ in 0..5 {
        // A success after the compensation had found nothing to undo: the barrier was broken.
        let id = start(&coordinator(), &pool, &Trip::default()).await.id;
        let command = sent(&pool, "trip.commands").await;
        let action = command.iter().find(|m| m.key == id.to_string()).unwrap();
        let late = answer(action, Outcome::Succeeded);
        done(&pool, &coordinator(), id, What::Cancel {}).await;
        reply(&pool, &coordinator(), id, Outcome::NullCompensated).await;
        deliver(&pool, &coordinator().replies(), &late)
            .await
            .unwrap();
        sagas.push(id.to_string());
    }
    sqlx::query("update saga.anomaly set recorded_at = '2026-01-01 00:00:00.123456+00'")
        .execute(&pool)
        .await
        .unwrap();
    // One moment for all: the ids break the tie.
    sagas.sort_unstable();
    let (mut seen, mut uri) = (
        Vec::new(),
        "/v1/anomalies?limit=2&kind=late_success".to_owned(),
    );
    loop {
        let page = get(&pool, &uri).await.body;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(
            items
                .iter()
                .map(|item| item["saga_id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        uri = format!("/v1/anomalies?limit=2&kind=late_success&cursor={cursor}");
    }
    assert_eq!(seen, sagas);
    let one = get(
        &pool,
        &format!("/v1/anomalies?saga_id={}&definition=trip", sagas[3]),
    )
    .await
    .body;
    let item = &one["items"][0];
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&item["kind"], &item["step"], &item["outcome"]),
        (&json!("late_success"), &json!("hold"), &json!("succeeded"))
    );
    for none in [
        "kind=contradiction",
        "definition=other",
        &format!("saga_id={}", Uuid::nil()),
    ] {
        let page = get(&pool, &format!("/v1/anomalies?{none}")).await.body;
        assert_eq!(page["items"], json!([]), "{none}");
    }
    for wrong in ["kind=strange", "saga_id=7", "cursor=here", "limit=0"] {
        let answer = get(&pool, &format!("/v1/anomalies?{wrong}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(
            answer.body["errors"][0]["field"],
            wrong.split('=').next().unwrap()
        );
    }
}

#[tokio::test]
async fn definitions_are_listed_with_their_sagas() {
    let pool = database("definitions").await;
    both_versions().register(&pool).await.unwrap();
    Scene::Running.set(&pool).await;
    Scene::Compensated.set(&pool).await;
    start(&both_versions(), &pool, &Trip::default()).await;
    let items = get(&pool, "/v1/definitions").await.body["items"].clone();
    let shown: Vec<_> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            (
                d["version"].clone(),
                d["open"].clone(),
                d["ended"].clone(),
                d["known_here"].clone(),
            )
        })
        .collect();
    let expected = [
        (json!(1), json!(1), json!(1), json!(true)),
        (json!(2), json!(1), json!(0), json!(false)),
    ];
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn a_bulk_operation_is_tried_asked_for_watched_and_stopped() {
    let pool = database("bulk_door").await;
    for _ in 0..3 {
        start(&coordinator(), &pool, &Trip::default()).await;
    }
    let mut body = wish("pause");
    body["selection"] = json!({"status": "running", "stuck_for": "0s", "version": 1});
    let would = post(&pool, "/v1/bulk-operations?dry_run=true", &[], &body).await;
    assert_eq!(would.status, StatusCode::OK, "{}", would.body);
    assert_eq!(would.body["count"], 3);
    assert_eq!(would.body["sample"].as_array().unwrap().len(), 3);
    assert_eq!(count(&pool, "saga.bulk").await, 0);

    let key = ("idempotency-key", "one");
    body["expected_count"] = json!(2);
    let other = post(&pool, "/v1/bulk-operations", &[key], &body).await;
    assert_eq!(other.status, StatusCode::CONFLICT, "{}", other.body);
    body["expected_count"] = json!(3);
    let asked = post(&pool, "/v1/bulk-operations", &[key], &body).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{}", asked.body);
    let location = asked.headers[header::LOCATION].to_str().unwrap().to_owned();
    let again = post(&pool, "/v1/bulk-operations", &[key], &body).await;
    assert_eq!(again.headers[header::LOCATION], location.as_str());
    let expected = json!({"status": "running", "stuck_for": "0s", "version": 1});
    assert_eq!(asked.body["selection"], expected);

    saga::operator::bulk::Bulks::new(coordinator(), pool.clone())
        .run_once()
        .await
        .unwrap();
    let shown = get(&pool, &location).await;
    assert_eq!(
        (
            &shown.body["sagas"]["done"],
            &shown.body["sagas"]["pending"]
        ),
        (&json!(1), &json!(2))
    );
    let page = get(&pool, &format!("{location}/items?limit=2")).await.body;
    assert_eq!(page["items"][0]["result"], "done");
    assert_eq!(page["next_after"], 2);
    let rest = get(&pool, &format!("{location}/items?after=2")).await.body;
    assert_eq!(
        (&rest["items"][0]["position"], &rest["next_after"]),
        (&json!(3), &Value::Null)
    );
    let author = json!({"actor": "bob", "reason": "a mistake"});
    let cancelled = post(&pool, &format!("{location}/cancel"), &[], &author).await;
    assert_eq!(cancelled.body["status"], "cancelled");
    let list = get(&pool, "/v1/bulk-operations").await.body;
    assert_eq!(list["items"][0], cancelled.body);

    let unknown = format!("/v1/bulk-operations/{}", Uuid::now_v7());
    assert_eq!(get(&pool, &unknown).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        get(&pool, &format!("{unknown}/items")).await.status,
        StatusCode::NOT_FOUND
    );
    let cancel = post(&pool, &format!("{unknown}/cancel"), &[], &author).await;
    assert_eq!(cancel.status, StatusCode::NOT_FOUND);
    for (selection, field) in [
        (Value::Null, "selection"),
        (json!([]), "selection"),
        (json!({}), "selection"),
        (json!({"all": true, "status": "running"}), "selection"),
        (json!({"all": "yes"}), "selection.all"),
        (json!({"status": "odd"}), "selection.status"),
        (json!({"colour": "red"}), "selection.colour"),
        (json!({"tag": ["a"]}), "selection.tag"),
    ] {
        body["selection"] = selection;
        let wrong = post(&pool, "/v1/bulk-operations?dry_run=true", &[], &body).await;
        assert_eq!(
            wrong.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{}",
            wrong.body
        );
        assert_eq!(wrong.body["errors"][0]["field"], field, "{}", wrong.body);
    }
    body["selection"] = json!({"all": true});
    body["per_second"] = json!(0);
    let wrong = post(
        &pool,
        "/v1/bulk-operations",
        &[("idempotency-key", "two")],
        &body,
    )
    .await;
    assert_eq!(wrong.body["errors"][0]["field"], "per_second");
    let nameless = post(&pool, "/v1/bulk-operations", &[], &body).await;
    assert_eq!(nameless.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_request_whose_first_does_not_end_is_in_progress() {
    let pool = database("in_progress").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let mut first = pool.begin().await.unwrap();
    let mine = saga::operator::claim_key(&mut first, saga.id, "k").await;
    assert!(mine.unwrap());
    let uri = format!("/v1/sagas/{}/operations", saga.id);
    let body = json!({"operation": "pause", "actor": "ann", "reason": "why"});
    let answer = post(&pool, &uri, &[("idempotency-key", "k")], &body).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.body);
    assert_eq!(answer.body["type"], "/problems/idempotency-key-in-progress");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    let dry = post(&pool, &format!("{uri}?dry_run=true"), &[], &body).await;
    assert_eq!(dry.status, StatusCode::OK, "a question waits for nobody");
    let other = post(&pool, &uri, &[("idempotency-key", "other")], &body).await;
    assert_eq!(other.status, StatusCode::OK, "another request neither");
    first.rollback().await.unwrap();
    let body = json!({"operation": "resume", "actor": "ann", "reason": "why"});
    let answer = post(&pool, &uri, &[("idempotency-key", "k")], &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

#[tokio::test]
async fn a_bulk_operation_whose_first_request_does_not_end_is_in_progress() {
    let pool = database("bulk_in_progress").await;
    let mut first = pool.begin().await.unwrap();
    let mine = saga::operator::bulk::claim_key(&mut first, "ann", "k").await;
    assert!(mine.unwrap());
    let body = json!({"operation": "pause", "actor": "ann", "reason": "why",
                      "selection": {"definition": "trip"}});
    let ask = async |key| {
        post(
            &pool,
            "/v1/bulk-operations",
            &[("idempotency-key", key)],
            &body,
        )
        .await
    };
    let answer = ask("k").await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.body);
    assert_eq!(answer.body["type"], "/problems/idempotency-key-in-progress");
    assert_eq!(ask("other").await.status, StatusCode::ACCEPTED);
    first.rollback().await.unwrap();
    assert_eq!(ask("k").await.status, StatusCode::ACCEPTED);
}
