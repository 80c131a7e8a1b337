//! What people and programs ask.

use axum::http::StatusCode;

use crate::room::Room;

#[tokio::test]
async fn a_bad_request_names_its_field() {
    let room = Room::open().await;
    for (uri, field) in [
        ("/v1/notifications", "order_id"),
        ("/v1/notifications?order_id=4711", "order_id"),
        ("/v1/notifications?order=4711", "order"),
    ] {
        let (status, problem) = room.request("GET", uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        assert_eq!(problem["errors"][0]["field"], field, "{uri}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let room = Room::open().await;
    for (method, uri, expected) in [
        ("GET", "/v1/nothing", StatusCode::NOT_FOUND),
        ("POST", "/v1/notifications", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (status, _) = room.request(method, uri).await;
        assert_eq!(status, expected, "{uri}");
    }
}
