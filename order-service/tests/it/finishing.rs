//! How orders end.

use std::time::Duration;

use chrono::NaiveDate;
use contracts::delivery::{DeliveryHandedOver, DeliveryScheduled};
use contracts::payment::{PaymentAuthorized, PaymentCaptured};
use outbox::Payload;
use saga::Fired;
use saga::wire::{Compensated, NullCompensated, Outcome, Refusal};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::room::{Room, order};

impl Room {
    async fn authorized(&self, order: &Value) {
        let payment_id = Uuid::now_v7();
        self.succeed(order, &PaymentAuthorized { payment_id }).await;
    }

    async fn scheduled(&self, order: &Value) {
        let scheduled = DeliveryScheduled {
            delivery_id: Uuid::now_v7(),
            day: NaiveDate::from_ymd_opt(2026, 1, 15).expect("a day"),
        };
        self.succeed(order, &scheduled).await;
    }

    async fn captured(&self, order: &Value) {
        let payment_id = Uuid::now_v7();
        self.succeed(order, &PaymentCaptured { payment_id }).await;
    }

    async fn refused(&self, order: &Value, message: &str) {
        let refusal = serde_json::to_vec(&Refusal::new("no", message)).expect("JSON");
        self.reply(order, Outcome::Failed, Refusal::KIND, refusal)
            .await;
    }

    async fn compensated(&self, order: &Value) {
        self.reply(
            order,
            Outcome::Compensated,
            Compensated::KIND,
            b"{}".to_vec(),
        )
        .await;
    }
}

#[tokio::test]
async fn an_order_that_passes_every_step_is_confirmed() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    assert_eq!(room.last_command(&placed).await, "payment.authorize.v1");
    room.authorized(&placed).await;
    assert_eq!(room.last_command(&placed).await, "delivery.schedule.v1");
    room.scheduled(&placed).await;
    assert_eq!(room.last_command(&placed).await, "payment.capture.v1");
    room.captured(&placed).await;
    assert_eq!(room.last_command(&placed).await, "delivery.hand_over.v1");
    assert_eq!(room.order(&placed).await["status"], "pending");

    let (delivery_id, tracking) = (Uuid::now_v7(), "RC-1".to_owned());
    room.succeed(
        &placed,
        &DeliveryHandedOver {
            delivery_id,
            tracking,
        },
    )
    .await;

    assert_eq!(room.order(&placed).await["status"], "confirmed");
    let (kind, event) = room.last_event(&placed).await;
    assert_eq!(kind, "order.confirmed.v1");
    assert_eq!(event["delivery_day"], "2026-01-15");
    assert_eq!(event["tracking"], "RC-1");
    assert_eq!(event["total"], json!({"amount": 2599, "currency": "EUR"}));
}

#[tokio::test]
async fn a_declined_payment_rejects_the_order_with_its_reason() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    room.refused(&placed, "The card was declined.").await;

    let rejected = room.order(&placed).await;
    assert_eq!(rejected["status"], "rejected");
    assert_eq!(rejected["reason"], "The card was declined.");
    assert_eq!(rejected["rejection"], "payment_refused");
    let (kind, event) = room.last_event(&placed).await;
    assert_eq!(kind, "order.rejected.v1");
    assert_eq!(event["reason"], "The card was declined.");
}

#[tokio::test]
async fn an_unserved_postcode_gives_the_money_back_before_the_order_is_rejected() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    room.authorized(&placed).await;
    room.refused(&placed, "We do not deliver to this postcode.")
        .await;
    assert_eq!(room.last_command(&placed).await, "payment.release.v1");
    assert_eq!(room.order(&placed).await["status"], "pending");

    room.compensated(&placed).await;

    let rejected = room.order(&placed).await;
    assert_eq!(rejected["status"], "rejected");
    assert_eq!(rejected["reason"], "We do not deliver to this postcode.");
    assert_eq!(rejected["rejection"], "delivery_refused");
}

#[tokio::test]
async fn a_refused_capture_undoes_delivery_and_payment_in_that_order() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    room.authorized(&placed).await;
    room.scheduled(&placed).await;
    room.refused(&placed, "The money for the order has been given back.")
        .await;
    assert_eq!(room.last_command(&placed).await, "delivery.cancel.v1");
    room.compensated(&placed).await;
    assert_eq!(room.last_command(&placed).await, "payment.release.v1");
    room.compensated(&placed).await;
    assert_eq!(room.order(&placed).await["status"], "rejected");
}

#[tokio::test]
async fn an_abandoned_saga_ends_its_order_and_tells_so() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    room.authorized(&placed).await;
    let saga = placed["saga_id"].as_str().expect("a saga");
    let operations = format!("/v1/sagas/{saga}/operations");
    let abandon = json!({"operation": "abandon", "actor": "eve", "reason": "settled by phone"});
    let answer = room
        .post(&operations, &abandon, &[("Idempotency-Key", "a-1")])
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);

    let abandoned = room.order(&placed).await;
    assert_eq!(abandoned["status"], "abandoned");
    let reason = abandoned["reason"].as_str().expect("a reason");
    assert!(!reason.contains("phone"), "the customer reads {reason:?}");
    let (kind, event) = room.last_event(&placed).await;
    assert_eq!(kind, "order.abandoned.v1");
    assert_eq!(event["order_id"], placed["id"]);
}

#[tokio::test]
async fn a_carrier_that_refuses_is_asked_again_and_nothing_is_undone() {
    let room = Room::open().await;
    let placed = room.place(&order()).await.body;
    room.authorized(&placed).await;
    room.scheduled(&placed).await;
    room.captured(&placed).await;
    room.refused(&placed, "The carrier took no parcel today.")
        .await;

    assert_eq!(room.last_command(&placed).await, "delivery.hand_over.v1");
    assert_eq!(room.order(&placed).await["status"], "pending");
    let saga = placed["saga_id"].as_str().expect("a saga");
    assert_eq!(
        room.get(&format!("/v1/sagas/{saga}")).await.body["status"],
        "running"
    );
}

#[tokio::test]
async fn a_payment_that_never_answers_is_undone_and_the_reason_is_for_people() {
    let room = Room::patient(Duration::from_millis(1), 1).await;
    let placed = room.place(&order()).await.body;
    let timers = room.coordinator.timers(room.pool.clone());
    testbed::until(
        Duration::from_secs(10),
        "the step to time out",
        async || {
            let fired = timers.run_once().await.expect("fired");
            (fired != Fired::None).then_some(())
        },
    )
    .await;
    assert_eq!(room.last_command(&placed).await, "payment.release.v1");

    let kind = NullCompensated::KIND;
    room.reply(&placed, Outcome::NullCompensated, kind, b"{}".to_vec())
        .await;

    let rejected = room.order(&placed).await;
    assert_eq!(rejected["status"], "rejected");
    assert_eq!(rejected["rejection"], "payment_unanswered");
    assert_eq!(
        rejected["reason"],
        "The payment service did not answer in time."
    );
}
