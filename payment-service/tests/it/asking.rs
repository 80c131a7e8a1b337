//! What people and programs ask.

use axum::http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::room::{Order, Room};

#[tokio::test]
async fn a_payment_is_found_by_its_order_and_by_its_id() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    let answer = room.answer(&order.authorize()).await;
    let id = answer.payload["payment_id"].as_str().expect("an id");

    let (status, list) = room
        .get(&format!("/v1/payments?order_id={}", order.order_id))
        .await;
    assert_eq!(status, StatusCode::OK);
    let (_, payment) = room.get(&format!("/v1/payments/{id}")).await;
    assert_eq!(list["items"], json!([payment]));
    assert_eq!(payment["amount"], 2500);
    assert_eq!(payment["currency"], "EUR");
    assert_eq!(payment["status"], "authorized");
    assert_eq!(payment["payment_method"], "pm_card_visa");
}

#[tokio::test]
async fn the_ledger_shows_accounts_holds_and_a_total_of_zero() {
    let room = Room::open().await;
    let (_, empty) = room.get("/v1/ledger").await;
    assert_eq!(
        empty,
        json!({"accounts": [], "holds": [], "total": 0, "totals": []})
    );

    let order = Order::paid_with("pm_card_visa");
    let answer = room.answer(&order.authorize()).await;
    let (_, ledger) = room.get("/v1/ledger").await;
    assert_eq!(
        ledger,
        json!({
            "accounts": [
                {"account": order.customer(), "currency": "EUR", "balance": -2500},
                {"account": order.held(), "currency": "EUR", "balance": 2500},
            ],
            "holds": [{
                "payment_id": answer.payload["payment_id"],
                "order_id": order.order_id,
                "amount": 2500,
                "currency": "EUR",
            }],
            "total": 0,
            "totals": [{"currency": "EUR", "total": 0}],
        })
    );

    room.answer(&order.capture()).await;
    let (_, ledger) = room.get("/v1/ledger").await;
    assert_eq!(ledger["holds"], json!([]));
}

#[tokio::test]
async fn a_bad_request_names_its_field() {
    let room = Room::open().await;
    for (uri, field) in [
        ("/v1/payments", "order_id"),
        ("/v1/payments?order_id=", "order_id"),
        ("/v1/payments?order_id=4711", "order_id"),
        ("/v1/payments?order=4711", "order"),
        ("/v1/payments/4711", "id"),
    ] {
        let (status, problem) = room.get(uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        assert_eq!(problem["errors"][0]["field"], field, "{uri}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let room = Room::open().await;
    let missing = format!("/v1/payments/{}", Uuid::now_v7());
    for (method, uri, expected) in [
        ("GET", missing.as_str(), StatusCode::NOT_FOUND),
        ("GET", "/v1/nothing", StatusCode::NOT_FOUND),
        ("POST", "/v1/ledger", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (status, problem) = room.request(method, uri).await;
        assert_eq!(status, expected, "{uri}");
        assert_eq!(problem["status"], expected.as_u16(), "{uri}");
    }
}
