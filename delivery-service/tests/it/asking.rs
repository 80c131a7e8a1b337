//! What people and programs ask.

use axum::http::StatusCode;

use crate::room::{Order, Room};

#[tokio::test]
async fn a_delivery_is_found_by_its_order() {
    let (room, order) = (Room::open().await, Order::to("10115"));
    let uri = format!("/v1/deliveries?order_id={}", order.order_id);
    let (status, list) = room.get(&uri).await;
    assert_eq!(
        (status, list["items"].as_array().map(Vec::len)),
        (StatusCode::OK, Some(0))
    );

    room.answer(&order.schedule()).await;
    let delivery = room.delivery(&order).await;
    assert_eq!(delivery["status"], "scheduled");
    assert_eq!(delivery["postcode"], "10115");
    assert_eq!(delivery["day"], room.day(1).await.as_str());
}

#[tokio::test]
async fn a_bad_request_names_its_field() {
    let room = Room::open().await;
    for (uri, field) in [
        ("/v1/deliveries", "order_id"),
        ("/v1/deliveries?order_id=4711", "order_id"),
        ("/v1/deliveries?order=4711", "order"),
    ] {
        let (status, problem) = room.get(uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        assert_eq!(problem["errors"][0]["field"], field, "{uri}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let room = Room::open().await;
    for (method, uri, expected) in [
        ("GET", "/v1/nothing", StatusCode::NOT_FOUND),
        ("POST", "/v1/deliveries", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (status, _) = room.request(method, uri).await;
        assert_eq!(status, expected, "{uri}");
    }
}
