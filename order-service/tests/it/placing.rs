//! Placing orders.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};

use crate::room::{Room, order, order_with};

/// Everything that placing an order writes to.
const TABLES: [&str; 4] = [
    "orders.orders",
    "orders.item",
    "saga.instance",
    "outbox.log",
];

#[tokio::test]
async fn an_order_its_saga_and_the_news_of_it_are_placed_together() {
    let room = Room::open().await;
    let answer = room.place(&order()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let placed = answer.body;
    let location = format!("/v1/orders/{}", placed["id"].as_str().expect("an id"));
    assert_eq!(answer.headers[header::LOCATION], location);
    assert_eq!(placed["status"], "pending");
    assert_eq!(placed["total"], 2599);
    assert_eq!(placed["currency"], "EUR");
    assert_eq!(placed["items"], order()["items"]);
    assert_eq!(placed["delivery"], order()["delivery"]);
    assert_eq!(placed.get("reason"), None);

    assert_eq!(room.get(&location).await.body, placed);
    let saga = placed["saga_id"].as_str().expect("a saga");
    let saga = room.get(&format!("/v1/sagas/{saga}")).await.body;
    assert_eq!(saga["business_key"], placed["id"]);
    assert_eq!(room.last_event(&placed).await.0, "order.placed.v1");
    assert_eq!(room.last_command(&placed).await, "payment.authorize.v1");
}

#[tokio::test]
async fn a_wrong_order_names_its_field_and_writes_nothing() {
    let room = Room::open().await;
    let cases = [
        ("/customer_id", Value::Null, "customer_id"),
        ("/customer_id", json!("4711"), "customer_id"),
        ("/currency", Value::Null, "currency"),
        ("/currency", json!("eur"), "currency"),
        ("/currency", json!("XXX"), "currency"),
        ("/currency", json!(978), "currency"),
        ("/items", Value::Null, "items"),
        ("/items", json!([]), "items"),
        ("/items", json!("BOOK-1"), "items"),
        (
            "/items",
            Value::Array(vec![order()["items"][0].clone(); 101]),
            "items",
        ),
        ("/items/0/sku", json!(""), "items[0].sku"),
        ("/items/0/sku", json!("<b>"), "items[0].sku"),
        ("/items/0/sku", Value::Null, "items[0].sku"),
        ("/items/0/quantity", json!(0), "items[0].quantity"),
        ("/items/1/quantity", json!(-1), "items[1].quantity"),
        ("/items/1/quantity", json!(1001), "items[1].quantity"),
        ("/items/1/quantity", json!(1.5), "items[1].quantity"),
        ("/items/1/quantity", json!("2"), "items[1].quantity"),
        ("/items/1/quantity", json!(u64::MAX), "items[1].quantity"),
        ("/items/0/unit_price", json!(-1), "items[0].unit_price"),
        (
            "/items/0/unit_price",
            json!(i64::MAX),
            "items[0].unit_price",
        ),
        ("/items/0/unit_price", json!(0.1), "items[0].unit_price"),
        ("/items/0/colour", json!("red"), "items[0].colour"),
        (
            "/items",
            json!([{"sku": "A", "quantity": 1, "unit_price": 0}]),
            "items",
        ),
        ("/payment_method", json!("pm_gold"), "payment_method"),
        ("/payment_method", Value::Null, "payment_method"),
        ("/delivery", Value::Null, "delivery"),
        ("/delivery", json!("Berlin"), "delivery"),
        ("/delivery/name", json!("  "), "delivery.name"),
        ("/delivery/name", json!("A\u{0}"), "delivery.name"),
        ("/delivery/street", json!(""), "delivery.street"),
        (
            "/delivery/street",
            json!("x".repeat(201)),
            "delivery.street",
        ),
        ("/delivery/postcode", json!(""), "delivery.postcode"),
        ("/delivery/postcode", json!(10115), "delivery.postcode"),
        (
            "/delivery/postcode",
            json!("'; drop--"),
            "delivery.postcode",
        ),
        ("/delivery/city", json!("\n"), "delivery.city"),
        ("/delivery/country", json!("Germany"), "delivery.country"),
        ("/delivery/country", json!("de"), "delivery.country"),
        ("/delivery/planet", json!("Earth"), "delivery.planet"),
        ("/discount", json!(100), "discount"),
    ];
    for (pointer, value, field) in cases {
        let answer = room.place(&order_with(pointer, value.clone())).await;
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{pointer} {value}"
        );
        assert_eq!(
            answer.fields(),
            [field],
            "{pointer} {value}: {}",
            answer.body
        );
    }
    for table in TABLES {
        assert_eq!(room.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn what_is_not_an_order_is_refused_by_its_form() {
    let room = Room::open().await;
    let order = order().to_string();
    for (content_type, body, status) in [
        ("application/json", "", StatusCode::BAD_REQUEST),
        (
            "application/json",
            "{\"customer_id\":",
            StatusCode::BAD_REQUEST,
        ),
        ("application/json", "[]", StatusCode::UNPROCESSABLE_ENTITY),
        ("application/json", "null", StatusCode::UNPROCESSABLE_ENTITY),
        (
            "text/plain",
            order.as_str(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
    ] {
        let request = Request::post("/v1/orders").header(header::CONTENT_TYPE, content_type);
        let request = request
            .body(Body::from(body.to_owned()))
            .expect("a request");
        assert_eq!(room.send(request).await.status, status, "{body:.20}");
    }
    let large = order_with("/delivery/name", json!("x".repeat(100_000)));
    assert_eq!(
        room.place(&large).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(room.count("orders.orders").await, 0);
}

#[tokio::test]
async fn the_same_key_and_order_are_the_same_order() {
    let room = Room::open().await;
    let key = [("Idempotency-Key", "basket-1")];
    let first = room.place_with(&order(), &key).await;
    let second = room.place_with(&order(), &key).await;
    assert_eq!(
        (first.status, second.status),
        (StatusCode::CREATED, StatusCode::CREATED)
    );
    assert_eq!(
        first.headers[header::LOCATION],
        second.headers[header::LOCATION]
    );
    assert_eq!(first.body, second.body);
    assert_eq!(room.count("orders.orders").await, 1);
    assert_eq!(room.count("saga.instance").await, 1);
}

#[tokio::test]
async fn the_same_key_with_another_order_is_refused() {
    let room = Room::open().await;
    let key = [("Idempotency-Key", "basket-1")];
    room.place_with(&order(), &key).await;
    let answer = room
        .place_with(&order_with("/items/0/quantity", json!(3)), &key)
        .await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.fields(), ["Idempotency-Key"]);
    assert_eq!(room.count("orders.orders").await, 1);
}

#[tokio::test]
async fn twenty_at_once_with_one_key_are_one_order_and_one_saga() {
    let room = Arc::new(Room::open().await);
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let room = room.clone();
            let key = [("Idempotency-Key", "basket-1")];
            tokio::spawn(async move { room.place_with(&order(), &key).await })
        })
        .collect();
    let mut ids = Vec::new();
    for request in requests {
        let answer = request.await.expect("no panic");
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        ids.push(answer.body["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(room.count("orders.orders").await, 1);
    assert_eq!(room.count("orders.item").await, 2);
    assert_eq!(room.count("saga.instance").await, 1);
    assert_eq!(room.count("outbox.log").await, 2);
}

#[tokio::test]
async fn a_key_whose_first_request_does_not_end_is_in_progress() {
    let room = Room::open().await;
    let mut first = room.pool.begin().await.expect("a transaction");
    let stuck = "insert into orders.orders (id, customer_id, total, currency, payment_method, recipient,
                    street, postcode, city, country, status, saga_id, idempotency_key, request_hash)
                 values (gen_random_uuid(), gen_random_uuid(), 1, 'EUR', 'pm_card_visa', 'a', 'b', '1',
                    'c', 'DE', 'pending', gen_random_uuid(), 'basket-1', '\\x00')";
    sqlx::query(stuck)
        .execute(&mut *first)
        .await
        .expect("an order");
    let key = [("Idempotency-Key", "basket-1")];
    let answer = room.place_with(&order(), &key).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.body);
    assert_eq!(answer.body["type"], "/problems/idempotency-key-in-progress");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    first.rollback().await.expect("the end of the first");
    let answer = room.place_with(&order(), &key).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(room.count("orders.orders").await, 1);
}

#[tokio::test]
async fn without_a_key_every_request_is_an_order() {
    let room = Room::open().await;
    let (first, second) = (room.place(&order()).await, room.place(&order()).await);
    assert_ne!(first.body["id"], second.body["id"]);
    assert_eq!(room.count("saga.instance").await, 2);
}

#[tokio::test]
async fn a_wrong_key_is_named() {
    let room = Room::open().await;
    let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
    for key in ["", "two words", "schlüssel", too_long.as_str()] {
        let answer = room.place_with(&order(), &[("Idempotency-Key", key)]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{key}");
        assert_eq!(answer.fields(), ["Idempotency-Key"], "{key}");
    }
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    assert_eq!(
        room.place_with(&order(), &twice).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(room.count("orders.orders").await, 0);

    let answer = room
        .place_with(&order(), &[("Idempotency-Key", &longest)])
        .await;
    assert_eq!(answer.status, StatusCode::CREATED);
}
