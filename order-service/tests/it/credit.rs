//! A customer's open orders do not exceed the credit limit together.

use contracts::payment::PaymentAuthorized;
use outbox::Payload;
use saga::wire::{Compensated, Outcome, Refusal};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::room::{Room, order, order_with};

/// What the order of these tests comes to.
const TOTAL: i64 = 2599;

impl Room {
    async fn waits_for(&self, order: &Value) -> String {
        let saga = order["saga_id"].as_str().expect("a saga");
        let saga = self.get(&format!("/v1/sagas/{saga}")).await.body;
        let waiting = saga["waiting"]["for"].as_str();
        waiting.unwrap_or_default().to_owned()
    }

    async fn rejected_by_payment(&self, order: &Value) {
        let refusal = serde_json::to_vec(&Refusal::new("no", "No.")).expect("JSON");
        self.reply(order, Outcome::Failed, Refusal::KIND, refusal)
            .await;
    }
}

#[tokio::test]
async fn a_second_order_waits_while_it_would_exceed_the_limit_with_the_first() {
    let room = Room::thrifty(2 * TOTAL - 1).await;
    let first = room.place(&order()).await.body;
    let second = room.place(&order()).await.body;
    assert_eq!(second["status"], "pending");
    assert_eq!(room.waits_for(&first).await, "reply");
    assert_eq!(room.waits_for(&second).await, "lock");
    let sent = "outbox.log where topic = 'payments.commands'";
    assert_eq!(room.count(sent).await, 1, "nothing is sent for the second");

    let timers = room.coordinator.timers(room.pool.clone());
    timers.run_once().await.expect("a look");
    assert_eq!(room.waits_for(&second).await, "lock", "it is still held");

    room.rejected_by_payment(&first).await;
    timers.run_once().await.expect("a look");
    assert_eq!(room.waits_for(&second).await, "reply");
    assert_eq!(room.last_command(&second).await, "payment.authorize.v1");
}

#[tokio::test]
async fn an_order_holds_its_credit_until_everything_is_undone() {
    let room = Room::thrifty(TOTAL).await;
    let first = room.place(&order()).await.body;
    let second = room.place(&order()).await.body;
    let payment_id = Uuid::now_v7();
    room.succeed(&first, &PaymentAuthorized { payment_id })
        .await;
    room.rejected_by_payment(&first).await;
    let timers = room.coordinator.timers(room.pool.clone());
    timers.run_once().await.expect("a look");
    assert_eq!(room.waits_for(&second).await, "lock", "not undone yet");
    let payload = b"{}".to_vec();
    room.reply(&first, Outcome::Compensated, Compensated::KIND, payload)
        .await;
    timers.run_once().await.expect("a look");
    assert_eq!(room.waits_for(&second).await, "reply");
}

#[tokio::test]
async fn orders_of_others_and_in_other_currencies_do_not_wait() {
    let room = Room::thrifty(TOTAL).await;
    room.place(&order()).await;
    let others = [
        order_with("/customer_id", json!(Uuid::now_v7())),
        order_with("/currency", json!("USD")),
    ];
    for other in others {
        let placed = room.place(&other).await.body;
        assert_eq!(room.waits_for(&placed).await, "reply");
    }
}

#[tokio::test]
async fn an_order_above_the_limit_is_rejected_at_once_and_nothing_is_sent() {
    let room = Room::thrifty(TOTAL - 1).await;
    let placed = room.place(&order()).await.body;
    assert_eq!(placed["status"], "rejected");
    let reason = "The order exceeds the customer's credit limit.";
    assert_eq!(placed["reason"], reason);
    assert_eq!(placed["rejection"], "credit_limit");
    assert_eq!(room.last_event(&placed).await.0, "order.rejected.v1");
    let sent = "outbox.log where topic like '%.commands'";
    assert_eq!(room.count(sent).await, 0);
    assert_eq!(room.count("saga.lock_claim").await, 0);
}
