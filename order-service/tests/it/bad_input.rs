//! What no client should send, to every route there is: a problem each time, and never a 5xx.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::room::{Room, order};

const SQL: &str = "'; drop table saga.instance; --";
const HTML: &str = "<script>alert(1)</script>";

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Every operation of the API: method, path, what it says of itself.
async fn operations(room: &Room) -> Vec<(String, String, Value)> {
    let streams = saga::http::Streams::new(room.pool.clone());
    let api = order_service::app(room.pool.clone(), room.coordinator.clone(), streams);
    let document = serde_json::to_value(api.into_openapi()).expect("a document");
    let paths = document["paths"].as_object().expect("paths").clone();
    let operations = paths.into_iter().flat_map(|(path, item)| {
        let item = item.as_object().expect("operations").clone();
        let each = item.into_iter();
        each.map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
    });
    let operations: Vec<_> = operations.collect();
    assert!(operations.len() > 20, "{} operations", operations.len());
    operations
}

fn concrete(path: &str) -> String {
    match path.contains("/parked/") {
        true => path.replace("{id}", "outbox-1"),
        false => path.replace("{id}", &Uuid::nil().to_string()),
    }
}

async fn send(room: &Room, method: &str, uri: &str, body: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(uri);
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let request = request.header("Idempotency-Key", "bad");
    let answer = room.send(
        request
            .body(Body::from(body.to_owned()))
            .expect("a request"),
    );
    let answer = answer.await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn no_parameter_can_be_so_wrong_that_the_answer_is_not_a_problem() {
    let room = Room::open().await;
    for (method, path, operation) in operations(&room).await {
        if path.ends_with("/stream") {
            continue;
        }
        let uri = concrete(&path);
        let parameters = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let names = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "query");
        for name in names.filter_map(|parameter| parameter["name"].as_str()) {
            for value in [
                "",
                "%00",
                "%ff",
                "-1",
                "1e9",
                "99999999999999999999",
                SQL,
                HTML,
            ] {
                let value = match value.starts_with('%') {
                    true => value.to_owned(),
                    false => encoded(value),
                };
                let (status, body) =
                    send(&room, &method, &format!("{uri}?{name}={value}"), "{}").await;
                let at = format!("{method} {uri}?{name}={value}: {status} {body}");
                assert!(!status.is_server_error(), "{at}");
                let in_answer = body.to_string();
                assert!(
                    !in_answer.contains("<script>") || status.is_success(),
                    "{at}"
                );
                if ["limit", "cursor"].contains(&name) {
                    assert_eq!(status, StatusCode::BAD_REQUEST, "{at}");
                    assert_eq!(body["errors"][0]["field"], name, "{at}");
                }
            }
            let twice = format!("{uri}?{name}=1&{name}=2");
            let (status, body) = send(&room, &method, &twice, "{}").await;
            assert!(
                status.is_client_error(),
                "{method} {twice}: {status} {body}"
            );
        }
        let (status, body) = send(&room, &method, &format!("{uri}?no_such=1"), "{}").await;
        let takes_none = parameters
            .iter()
            .all(|parameter| parameter["in"] != "query");
        let ignores = takes_none && (path.starts_with("/v1/orders") || path == "/v1/outbox");
        assert!(
            status.is_client_error() || ignores,
            "{method} {uri}: {status} {body}"
        );
        for id in ["x", "%00", "%ff", &encoded(SQL), &encoded(HTML), "0"] {
            if path.contains("{id}") {
                let uri = path.replace("{id}", id);
                let (status, body) = send(&room, &method, &uri, "{}").await;
                assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {uri}: {body}");
                assert!(!body.to_string().contains("<script>"), "{body}");
            }
        }
    }
    assert_eq!(room.count("saga.instance").await, 0, "the table is there");
}

#[tokio::test]
async fn no_body_can_be_so_wrong_that_the_answer_is_not_a_problem() {
    let room = Room::open().await;
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    let nested = format!("{{\"operation\": {}1{}}}", "[".repeat(500), "]".repeat(500));
    let large = format!("\"{}\"", "x".repeat(10 * 1024 * 1024));
    let cases = [
        (large.as_str(), 413),
        (deep.as_str(), 0),
        (nested.as_str(), 0),
        ("", 400),
        ("{", 400),
        ("\u{0}", 400),
        ("[]", 0),
        ("null", 0),
        ("{}", 422),
        ("{\"no_such\": 1}", 422),
    ];
    let mut seen = 0;
    for (method, path, operation) in operations(&room).await {
        if operation["requestBody"].is_null() {
            continue;
        }
        seen += 1;
        let uri = concrete(&path);
        for (body, expected) in cases {
            let (status, answer) = send(&room, &method, &uri, body).await;
            let at = format!("{method} {uri} with {:.40}: {status} {answer}", body);
            match expected {
                // Malformed for those who read all of it first, wrong content for the others.
                0 => assert!([400, 422].contains(&status.as_u16()), "{at}"),
                expected => assert_eq!(status.as_u16(), expected, "{at}"),
            }
            assert!(
                answer["type"]
                    .as_str()
                    .is_some_and(|t| t.starts_with("/problems/")),
                "{at}"
            );
        }
        for kind in [
            "text/plain",
            "application/xml",
            "application/x-www-form-urlencoded",
            "",
        ] {
            let request = Request::post(&uri).header(header::CONTENT_TYPE, kind);
            let request = request.header("Idempotency-Key", "bad");
            let answer = room
                .send(request.body(Body::from("{}")).expect("a request"))
                .await;
            assert_eq!(
                answer.status,
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "{uri} {kind}"
            );
        }
    }
    assert_eq!(seen, 6, "routes that take a body");
}

#[tokio::test]
async fn a_tampered_cursor_is_refused_by_every_list() {
    let room = Room::open().await;
    for _ in 0..2 {
        room.place(&order()).await;
    }
    let lists = [
        "/v1/orders",
        "/v1/sagas",
        "/v1/locks",
        "/v1/parked",
        "/v1/anomalies",
    ];
    for list in lists {
        for cursor in [
            "x",
            "%00",
            "AAAA",
            "bnVsbA",
            "e30",
            "0000000000000000",
            "-",
            "%f0%9f%94%92",
        ] {
            let answer = room.get(&format!("{list}?cursor={cursor}")).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{list} {cursor}");
            assert_eq!(answer.fields(), ["cursor"], "{list} {cursor}");
        }
    }
    for list in ["/v1/orders", "/v1/sagas"] {
        let page = room.get(&format!("{list}?limit=1")).await;
        let cursor = page.body["next_cursor"]
            .as_str()
            .expect("a second page")
            .to_owned();
        let good = room.get(&format!("{list}?limit=1&cursor={cursor}")).await;
        assert_eq!(good.status, StatusCode::OK, "{list}");
        for wrong in [
            &cursor[1..],
            &cursor[..cursor.len() - 1],
            &format!("{cursor}0"),
        ] {
            let answer = room.get(&format!("{list}?cursor={wrong}")).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{list} {wrong}");
        }
        for other in lists.iter().filter(|other| **other != list) {
            let answer = room.get(&format!("{other}?cursor={cursor}")).await;
            assert_eq!(
                answer.status,
                StatusCode::BAD_REQUEST,
                "{other} with one of {list}"
            );
        }
    }
}

#[tokio::test]
async fn a_wrong_method_and_an_unknown_route_are_problems() {
    let room = Room::open().await;
    for (method, uri, status, slug) in [
        ("DELETE", "/v1/orders", 405, "method-not-allowed"),
        ("PUT", "/v1/sagas", 405, "method-not-allowed"),
        (
            "GET",
            "/v1/parked/outbox-1/replay",
            405,
            "method-not-allowed",
        ),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("POST", "/", 404, "not-found"),
    ] {
        let (found, body) = send(&room, method, uri, "{}").await;
        assert_eq!(found.as_u16(), status, "{method} {uri}");
        assert_eq!(body["type"], format!("/problems/{slug}"), "{method} {uri}");
    }
}

#[tokio::test]
async fn an_exhausted_pool_is_503_with_a_time_to_come_back() {
    let room = Room::open().await;
    let options = room.pool.connect_options().as_ref().clone();
    let small = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(std::time::Duration::from_millis(50));
    let small = small.connect_with(options).await.expect("a pool");
    let held = small.acquire().await.expect("its only connection");
    let crowded = Room {
        pool: small.clone(),
        ..room
    };
    let mut asked = 0;
    for (method, path, operation) in operations(&crowded).await {
        if path.ends_with("/stream") {
            continue;
        }
        let body = match path.as_str() {
            "/v1/orders" => order(),
            "/v1/sagas/{id}/operations" => {
                json!({"operation": "pause", "actor": "a", "reason": "b"})
            }
            "/v1/bulk-operations" => {
                json!({"operation": "pause", "selection": {"all": true}, "actor": "a", "reason": "b"})
            }
            _ => json!({"actor": "a", "reason": "b"}),
        };
        let uri = concrete(&path);
        let request = Request::builder().method(method.as_str()).uri(&uri);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let request = request.header("Idempotency-Key", "crowd");
        let answer = crowded.send(
            request
                .body(Body::from(body.to_string()))
                .expect("a request"),
        );
        let answer = answer.await;
        let at = format!("{method} {uri}: {} {}", answer.status, answer.body);
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{at}");
        assert_eq!(answer.body["type"], "/problems/unavailable", "{at}");
        let seconds = answer.headers[header::RETRY_AFTER]
            .to_str()
            .expect("a number");
        assert!(
            seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0),
            "{at}"
        );
        let described = &operation["responses"];
        assert!(described.is_object(), "{at}");
        asked += 1;
    }
    assert!(asked > 20);
    drop(held);
    let answer = crowded.get("/v1/orders").await;
    assert_eq!(answer.status, StatusCode::OK);
}
