//! What people and programs ask.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use outbox::Payload;
use saga::wire::{Outcome, Refusal};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::room::{Room, order, order_with};

fn ids(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items
        .iter()
        .filter_map(|order| order["id"].as_str())
        .collect()
}

#[tokio::test]
async fn orders_are_listed_by_customer_newest_first() {
    let room = Room::open().await;
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let mut placed = Vec::new();
    for customer in [one, other, one] {
        placed.push(
            room.place(&order_with("/customer_id", json!(customer)))
                .await
                .body,
        );
    }
    let page = room
        .get(&format!("/v1/orders?customer_id={one}"))
        .await
        .body;
    assert_eq!(page["items"], json!([placed[2], placed[0]]));
    assert_eq!(page["next_cursor"], Value::Null);
    let all = room.get("/v1/orders").await.body;
    assert_eq!(all["items"], json!([placed[2], placed[1], placed[0]]));
}

#[tokio::test]
async fn orders_are_listed_by_status() {
    let room = Room::open().await;
    let (rejected, pending) = (
        room.place(&order()).await.body,
        room.place(&order()).await.body,
    );
    let refusal = serde_json::to_vec(&Refusal::new("no", "No.")).expect("JSON");
    room.reply(&rejected, Outcome::Failed, Refusal::KIND, refusal)
        .await;

    let customer = order()["customer_id"]
        .as_str()
        .expect("a customer")
        .to_owned();
    for filter in ["", &format!("&customer_id={customer}")] {
        for (status, order) in [
            ("pending", Some(&pending)),
            ("rejected", Some(&rejected)),
            ("confirmed", None),
        ] {
            let page = room
                .get(&format!("/v1/orders?status={status}{filter}"))
                .await
                .body;
            let expected: Vec<_> = order.iter().filter_map(|o| o["id"].as_str()).collect();
            assert_eq!(ids(&page), expected, "{status}{filter}");
        }
    }
}

#[tokio::test]
async fn a_cursor_leads_through_all_orders_once_while_new_ones_come() {
    let room = Room::open().await;
    let mut expected = Vec::new();
    for _order in 0..5 {
        expected.insert(0, room.place(&order()).await.body["id"].clone());
    }
    let (mut seen, mut uri) = (Vec::new(), "/v1/orders?limit=2".to_owned());
    loop {
        let page = room.get(&uri).await.body;
        seen.extend(ids(&page).into_iter().map(|id| json!(id)));
        room.place(&order()).await;
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        uri = format!("/v1/orders?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_bad_request_names_its_field() {
    let room = Room::open().await;
    for (uri, field) in [
        ("/v1/orders/4711", "id"),
        ("/v1/orders?customer_id=4711", "customer_id"),
        ("/v1/orders?status=lost", "status"),
        ("/v1/orders?limit=0", "limit"),
        ("/v1/orders?limit=1000000000", "limit"),
        ("/v1/orders?limit=many", "limit"),
        ("/v1/orders?cursor=here", "cursor"),
        ("/v1/orders?colour=red", "colour"),
    ] {
        let answer = room.get(uri).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{uri}");
        assert_eq!(answer.fields(), [field], "{uri}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let room = Room::open().await;
    let (order, saga) = (Uuid::now_v7(), Uuid::now_v7());
    for (method, uri, expected) in [
        ("GET", format!("/v1/orders/{order}"), StatusCode::NOT_FOUND),
        ("GET", format!("/v1/sagas/{saga}"), StatusCode::NOT_FOUND),
        ("GET", "/v1/nothing".to_owned(), StatusCode::NOT_FOUND),
        (
            "DELETE",
            "/v1/orders".to_owned(),
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        let request = Request::builder().method(method).uri(&uri);
        let request = request.body(Body::empty()).expect("a request");
        assert_eq!(room.send(request).await.status, expected, "{uri}");
    }
}

#[tokio::test]
async fn sagas_are_found_by_their_order() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    room.place(&order()).await;
    let key = placed["id"].as_str().expect("an id");
    let page = room.get(&format!("/v1/sagas?business_key={key}")).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(
        page.body
            .to_string()
            .contains(placed["saga_id"].as_str().expect("a saga"))
    );
}
