//! What happened to orders.

use chrono::NaiveDate;
use contracts::Money;
use contracts::order::{OrderAbandoned, OrderConfirmed, OrderPlaced, OrderRejected};
use notification_service::OrderEvents;
use outbox::{Handler as _, Payload as _, Received};
use uuid::Uuid;

use crate::room::{Room, event};

fn placed(order_id: Uuid) -> Received {
    let placed = OrderPlaced {
        order_id,
        customer_id: Uuid::now_v7(),
        total: total(),
    };
    event(order_id, &placed)
}

fn total() -> Money {
    Money {
        amount: 2500,
        currency: "EUR".parse().expect("a currency"),
    }
}

#[tokio::test]
async fn a_confirmed_order_is_told_twice_placed_and_confirmed() {
    let (room, order_id, customer_id) = (Room::open().await, Uuid::now_v7(), Uuid::now_v7());
    let confirmed = OrderConfirmed {
        order_id,
        customer_id,
        total: total(),
        delivery_day: NaiveDate::from_ymd_opt(2026, 1, 15),
        tracking: Some("RC-1".to_owned()),
    };
    room.deliver(&placed(order_id)).await.expect("handled");
    room.deliver(&event(order_id, &confirmed))
        .await
        .expect("handled");

    let told = room.told(order_id).await;
    assert_eq!(told.len(), 2);
    assert_eq!(told[0]["template"], "order_placed");
    assert_eq!(told[1]["template"], "order_confirmed");
    assert_eq!(told[1]["customer_id"], customer_id.to_string());
    assert!(
        told[1]["text"]
            .as_str()
            .is_some_and(|text| text.contains("25.00 EUR"))
    );
}

#[tokio::test]
async fn a_rejected_order_is_told_with_its_reason() {
    let (room, order_id) = (Room::open().await, Uuid::now_v7());
    let rejected = OrderRejected {
        order_id,
        customer_id: Uuid::now_v7(),
        reason: "The card was declined.".to_owned(),
    };
    room.deliver(&event(order_id, &rejected))
        .await
        .expect("handled");
    let told = room.told(order_id).await;
    assert_eq!(told[0]["template"], "order_rejected");
    assert!(
        told[0]["text"]
            .as_str()
            .is_some_and(|text| text.contains("The card was declined."))
    );
}

#[tokio::test]
async fn an_abandoned_order_is_told_without_a_promise() {
    let (room, order_id) = (Room::open().await, Uuid::now_v7());
    let abandoned = OrderAbandoned {
        order_id,
        customer_id: Uuid::now_v7(),
    };
    room.deliver(&event(order_id, &abandoned))
        .await
        .expect("handled");
    let told = room.told(order_id).await;
    assert_eq!(told[0]["template"], "order_abandoned");
    let text = told[0]["text"].as_str().expect("a text");
    assert!(!text.contains("charged"), "{text}");
}

#[tokio::test]
async fn an_event_that_comes_twice_is_told_once() {
    let (room, order_id) = (Room::open().await, Uuid::now_v7());
    let placed = placed(order_id);
    for _delivery in 0..2 {
        room.deliver(&placed).await.expect("handled");
    }
    assert_eq!(room.told(order_id).await.len(), 1);
}

#[tokio::test]
async fn an_event_nobody_has_words_for_is_an_error_for_good() {
    let (room, order_id) = (Room::open().await, Uuid::now_v7());
    let unknown = Received {
        kind: "order.gift_wrapped.v1".to_owned(),
        ..placed(order_id)
    };
    let torn = Received {
        payload: Some(b"{\"order_id\":".to_vec()),
        ..placed(order_id)
    };
    let null = Received {
        payload: None,
        ..placed(order_id)
    };
    for sick in [unknown, torn, null] {
        let error = room.deliver(&sick).await.expect_err("an error");
        assert!(!error.is_transient(), "{error}");
    }
    assert!(room.told(order_id).await.is_empty());
}

#[test]
fn it_asks_for_what_it_has_words_for_and_nothing_else() {
    let mut asked = OrderEvents.kinds().expect("named").to_vec();
    asked.sort_unstable();
    let mut known = [
        OrderAbandoned::KIND,
        OrderConfirmed::KIND,
        OrderPlaced::KIND,
        OrderRejected::KIND,
    ];
    known.sort_unstable();
    assert_eq!(asked, known);
}
