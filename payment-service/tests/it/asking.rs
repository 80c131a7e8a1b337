//! What people and programs ask.

use axum::http::StatusCode;
use serde_json::{Value, json};
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
async fn a_long_ledger_comes_in_pages_and_is_still_zero() {
    let room = Room::open().await;
    sqlx::raw_sql(
        "insert into payments.payment
             (id, order_id, customer_id, payment_method, amount, currency, status)
         select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, gen_random_uuid(),
                gen_random_uuid(), 'pm_card_visa', 5, 'EUR', 'authorized'
         from generate_series(1, 1200) as n;
         insert into payments.entry (transaction_id, line, payment_id, account, amount, currency)
         select order_id, line, payment.id, account || payment.id, lines.amount, 'EUR'
         from payments.payment
         cross join (values (1, 'customer:', -5), (2, 'held:', 5)) as lines (line, account, amount)",
    )
    .execute(&room.pool)
    .await
    .expect("a long ledger");
    let (_, first) = room.get("/v1/ledger").await;
    let len = |ledger: &Value, list: &str| ledger[list].as_array().map_or(0, Vec::len);
    assert_eq!(
        (len(&first, "accounts"), len(&first, "holds")),
        (1_000, 1_000)
    );
    assert_eq!(first["total"], 0);
    let accounts = first["next_accounts_after"].as_str().expect("a next page");
    let holds = first["next_holds_after"].as_str().expect("a next page");
    let next = format!("/v1/ledger?accounts_after={accounts}&holds_after={holds}");
    let (_, next) = room.get(&next).await;
    assert_eq!((len(&next, "accounts"), len(&next, "holds")), (1_000, 200));
    assert_eq!(next["next_holds_after"], Value::Null);
    assert_eq!(next["totals"], json!([{"currency": "EUR", "total": 0}]));
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
        ("/v1/ledger?accounts_after=nobody", "accounts_after"),
        ("/v1/ledger?holds_after=4711", "holds_after"),
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
