use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::{get as on_get, post as on_post};
use chassis::http::{BODY_LIMIT, Cursor, Json, Limit, Page, Path, Problem, Query, guard};
use serde::{Deserialize, Serialize};

use crate::request::{get, post, send};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    items: Vec<Item>,
    delivery: Delivery,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    sku: String,
    quantity: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Delivery {
    postcode: String,
}

#[derive(Debug, Deserialize)]
struct Filter {
    status: Option<Status>,
    #[serde(default)]
    limit: Limit,
    cursor: Option<Cursor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pending,
    Confirmed,
}

async fn list(Query(filter): Query<Filter>) -> Result<Json<Page<u64>>, Problem> {
    let from = match filter.cursor {
        Some(cursor) => cursor.decode::<u64>()?,
        None => 0,
    };
    let step = match filter.status {
        Some(Status::Pending | Status::Confirmed) => 10,
        None => 1,
    };
    let rows = (1..=120).map(|row| row * step).filter(|row| *row > from);
    let rows = rows
        .take(usize::try_from(filter.limit.rows()).unwrap())
        .collect();
    Page::cut(rows, filter.limit, |row| *row).map(Json)
}

fn router() -> Router {
    guard(
        Router::new()
            .route(
                "/orders",
                on_post(async |Json(order): Json<Order>| Json(order)),
            )
            .route("/orders", on_get(list))
            .route("/orders/{id}", on_get(async |Path(id): Path<u64>| Json(id)))
            .route(
                "/orders/{id}/items/{line}",
                on_get(async |Path(place): Path<(u64, u8)>| Json(place)),
            ),
    )
}

async fn post_order(body: &'static str) -> crate::request::Answer {
    post(&router(), "/orders", body).await
}

#[tokio::test]
async fn a_right_body_passes() {
    let body = r#"{"items":[{"sku":"BOOK-1","quantity":2}],"delivery":{"postcode":"10115"}}"#;
    let answer = post_order(body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["items"][0]["quantity"], 2);
}

#[tokio::test]
async fn a_wrong_field_is_named_by_its_path() {
    let cases = [
        (
            r#"{"items":[{"sku":"A","quantity":-1}],"delivery":{"postcode":"1"}}"#,
            "items[0].quantity: must be a whole number from 0 to 4294967295",
        ),
        (
            r#"{"items":[{"sku":"A","quantity":1},{"sku":7,"quantity":1}],"delivery":{"postcode":"1"}}"#,
            "items[1].sku: must be a string",
        ),
        (
            r#"{"items":[{"sku":"A"}],"delivery":{"postcode":"1"}}"#,
            "items[0].quantity: is required",
        ),
        (
            r#"{"items":[],"delivery":{}}"#,
            "delivery.postcode: is required",
        ),
        (r#"{"items":[]}"#, "delivery: is required"),
        (
            r#"{"items":{},"delivery":{"postcode":"1"}}"#,
            "items: must be an array",
        ),
        (r#"{"items":[],"colour":"red"}"#, "colour: is not known"),
        (
            r#"{"items":[],"items":[]}"#,
            "items: is given more than once",
        ),
        ("null", "body: must be an object"),
    ];
    for (body, expected) in cases {
        let errors = post_order(body).await.problem(422, "invalid-content");
        assert_eq!(errors, [expected], "{body}");
    }
}

#[tokio::test]
async fn an_answer_does_not_repeat_the_value() {
    let body = r#"{"items":"pm_secret_card","delivery":{"postcode":"1"}}"#;
    let answer = post_order(body).await;
    answer.problem(422, "invalid-content");
    assert!(!answer.body.to_string().contains("pm_secret_card"));
}

#[tokio::test]
async fn what_is_not_json_is_malformed() {
    for body in [
        "",
        "{",
        "not json",
        "{} trailing",
        r#"{"items": 1, x"#,
        "[1,2",
        "\u{0}",
    ] {
        let errors = post_order(body).await.problem(400, "malformed-body");
        assert!(errors.is_empty(), "{body}");
    }
    let deep = "[".repeat(10_000);
    post(&router(), "/orders", deep)
        .await
        .problem(400, "malformed-body");
}

#[tokio::test]
async fn a_body_must_be_declared_as_json() {
    for declared in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
        "",
    ] {
        let request = Request::post("/orders").header("content-type", declared);
        let answer = send(&router(), request.body(Body::from("{}")).unwrap()).await;
        answer.problem(415, "unsupported-media-type");
    }
    for declared in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/merge-patch+json",
    ] {
        let request = Request::post("/orders").header("content-type", declared);
        let answer = send(&router(), request.body(Body::from("{}")).unwrap()).await;
        answer.problem(422, "invalid-content");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let answer = post(&router(), "/orders", vec![b' '; BODY_LIMIT + 1]).await;
    answer.problem(413, "content-too-large");
}

#[tokio::test]
async fn a_wrong_query_parameter_is_named() {
    let cases = [
        ("limit=0", "limit: must be from 1 to 200"),
        ("limit=many", "limit: must be a whole number"),
        ("status=lost", "status: must be `pending` or `confirmed`"),
        ("limit=1&limit=2", "limit: is given more than once"),
        (
            "cursor=garbage",
            "cursor: must be the next_cursor of an earlier page of this list",
        ),
        (
            "cursor=",
            "cursor: must be the next_cursor of an earlier page of this list",
        ),
    ];
    for (query, expected) in cases {
        let answer = get(&router(), &format!("/orders?{query}")).await;
        assert_eq!(
            answer.problem(400, "invalid-parameter"),
            [expected],
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_wrong_path_parameter_is_named() {
    let cases = [
        (
            "/orders/abc",
            "id: must be a whole number from 0 to 18446744073709551615",
        ),
        (
            "/orders/1/items/300",
            "line: must be a whole number from 0 to 255",
        ),
        ("/orders/%ff", "id: must be UTF-8"),
    ];
    for (uri, expected) in cases {
        let answer = get(&router(), uri).await;
        assert_eq!(
            answer.problem(400, "invalid-parameter"),
            [expected],
            "{uri}"
        );
    }
}

#[tokio::test]
async fn pages_meet_without_a_gap() {
    let mut seen = Vec::new();
    let mut uri = "/orders?status=pending".to_owned();
    loop {
        let answer = get(&router(), &uri).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        seen.extend(
            answer.body["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|row| row.as_u64()),
        );
        match answer.body["next_cursor"].as_str() {
            Some(cursor) => uri = format!("/orders?status=pending&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, (1..=120).map(|row| row * 10).collect::<Vec<u64>>());
}
