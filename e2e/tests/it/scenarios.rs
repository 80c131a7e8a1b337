//! What becomes of an order, by the test tokens in its request alone: each story from the POST to what the customer is told.

use std::time::Duration;

use serde_json::Value;
use testbed::until;
use uuid::Uuid;

use crate::shop::{self, Client, Order, Recorded, SOON, TOTAL, assert_settled, story};

const AUTHORIZED: &str = "action_succeeded authorize-payment";
const SCHEDULED: &str = "action_succeeded schedule-delivery";
const CAPTURED: &str = "action_succeeded capture-payment";
const HANDED_OVER: &str = "action_succeeded hand-over";

#[tokio::test]
async fn an_order_is_paid_and_handed_over_and_confirmed() {
    let told = tell(shop::order).await;
    assert_eq!(told.order.status, "confirmed");
    assert_eq!(
        told.story(),
        [AUTHORIZED, SCHEDULED, CAPTURED, HANDED_OVER, "completed"]
    );
    told.assert_paid().await;
}

#[tokio::test]
async fn a_declined_card_rejects_the_order_and_moves_no_money() {
    let told = tell(|customer| shop::paid_with(customer, "pm_card_declined")).await;
    assert_eq!(told.order.reason.as_deref(), Some("The card was declined."));
    told.assert_rejected_before_any_effect().await;
}

#[tokio::test]
async fn a_card_without_enough_money_rejects_the_order_and_moves_none() {
    let told = tell(|customer| shop::paid_with(customer, "pm_insufficient_funds")).await;
    assert_eq!(
        told.order.reason.as_deref(),
        Some("There is not enough money on the card.")
    );
    told.assert_rejected_before_any_effect().await;
}

#[tokio::test]
async fn money_held_for_a_postcode_that_is_not_served_is_released() {
    let told = tell(|customer| shop::delivered_to(customer, "00000")).await;
    assert_eq!(told.order.status, "rejected");
    assert_eq!(
        told.order.reason.as_deref(),
        Some("We do not deliver to this postcode.")
    );
    assert_eq!(
        told.story(),
        [
            AUTHORIZED,
            "action_failed schedule-delivery",
            "compensation_started",
            "step_compensated authorize-payment",
            "compensated",
        ]
    );
    let payments = told.client.payments_of(told.order.id).await;
    assert_eq!(payments.len(), 1);
    assert_eq!(
        (payments[0].status.as_str(), payments[0].amount),
        ("released", TOTAL)
    );
    assert_eq!(told.client.deliveries_of(told.order.id).await, []);
    // The accounts are there, because money went through them, and nothing is left on them.
    assert_eq!(
        told.balances().await,
        [("customer".to_owned(), 0), ("held".to_owned(), 0)]
    );
}

#[tokio::test]
async fn a_gateway_that_errs_twice_delays_the_order_and_no_more() {
    let told = tell(|customer| shop::paid_with(customer, "pm_flaky")).await;
    assert_eq!(told.order.status, "confirmed");
    assert_eq!(
        told.story(),
        [AUTHORIZED, SCHEDULED, CAPTURED, HANDED_OVER, "completed"]
    );
    told.assert_paid().await;
}

#[tokio::test]
async fn an_answer_of_the_gateway_that_is_lost_is_found_and_the_order_paid_once() {
    let told = tell(|customer| shop::paid_with(customer, "pm_lost_answer")).await;
    assert_eq!(told.order.status, "confirmed");
    assert_eq!(
        told.story(),
        [AUTHORIZED, SCHEDULED, CAPTURED, HANDED_OVER, "completed"]
    );
    told.assert_paid().await;
}

#[tokio::test]
async fn a_payment_that_never_answers_is_unknown_and_its_compensation_finds_nothing_to_undo() {
    let told = tell(|customer| shop::paid_with(customer, "pm_timeout")).await;
    assert_eq!(told.order.status, "rejected");
    assert_eq!(
        told.order.reason.as_deref(),
        Some("The payment service did not answer in time.")
    );
    assert_eq!(
        told.story(),
        [
            "action_unknown authorize-payment",
            "compensation_started",
            "step_null_compensated authorize-payment",
            "compensated",
        ]
    );
    let timed_out = told
        .events
        .iter()
        .filter(|event| event.event["type"] == "attempt_timed_out");
    assert!(
        timed_out.count() > 1,
        "it was given up without asking again"
    );
    told.assert_nothing_was_done().await;
}

#[tokio::test]
async fn a_carrier_that_refuses_after_the_capture_is_asked_again_and_nothing_is_undone() {
    let told = tell(|customer| shop::delivered_to(customer, "99999")).await;
    assert_eq!(told.order.status, "confirmed");
    assert_eq!(
        told.story(),
        [
            AUTHORIZED,
            SCHEDULED,
            CAPTURED,
            "action_failed hand-over",
            "round_planned hand-over",
            "action_failed hand-over",
            "round_planned hand-over",
            HANDED_OVER,
            "completed",
        ]
    );
    let backwards = told
        .events
        .iter()
        .filter(|event| event.event["phase"] == "compensation");
    assert_eq!(
        backwards.count(),
        0,
        "something was undone after the pivot: {:?}",
        told.events
    );
    told.assert_paid().await;
}

#[tokio::test]
async fn a_running_saga_says_what_it_waits_for_and_an_ended_one_waits_for_nothing() {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let order = client
        .place(&shop::paid_with(Uuid::now_v7(), "pm_timeout"))
        .await;
    let waiting = until(SOON, "the saga to wait for an answer", async || {
        let saga = client.saga(order.saga_id).await;
        saga["waiting"].is_object().then_some(saga)
    });
    let saga = waiting.await;
    assert_eq!(saga["status"], "running");
    assert_eq!(saga["business_key"], order.id.to_string());
    assert_eq!(saga["waiting"]["step"], "authorize-payment");
    assert!(saga["waiting"]["until"].is_string(), "until when? {saga}");
    let order = client.ended(order.id, SOON).await;
    let saga = client.saga(order.saga_id).await;
    assert_eq!(
        (&saga["status"], &saga["waiting"]),
        (&"compensated".into(), &Value::Null)
    );
    let steps: Vec<_> = saga["steps"].as_array().expect("steps").iter().collect();
    assert_eq!(steps.len(), 4);
    assert_eq!(steps[0]["status"], "null_compensated");
    assert!(
        steps[1..].iter().all(|step| step["status"] == "pending"),
        "{saga}"
    );
}

/// An order that has ended, and what is known of it.
struct Told {
    client: Client,
    order: Order,
    events: Vec<Recorded>,
}

/// Places an order for a new customer, waits for its end, and checks what is true of every ended order.
async fn tell(order: impl Fn(Uuid) -> Value) -> Told {
    let house = shop::shop().await;
    let client = Client::of(&house.shop);
    let placed = client.place(&order(Uuid::now_v7())).await;
    assert_eq!((placed.status.as_str(), placed.total), ("pending", TOTAL));
    let order = client.ended(placed.id, Duration::from_secs(40)).await;
    assert_settled(&client, &order).await;
    let events = client.events(order.saga_id).await;
    Told {
        client,
        order,
        events,
    }
}

impl Told {
    fn story(&self) -> Vec<String> {
        story(&self.events)
    }

    /// The customer's accounts with their balances.
    async fn balances(&self) -> Vec<(String, i64)> {
        let accounts = self
            .client
            .ledger()
            .await
            .accounts_of(self.order.customer_id);
        accounts.into_iter().collect()
    }

    /// The money is the merchant's, and the parcel the carrier's.
    async fn assert_paid(&self) {
        let payments = self.client.payments_of(self.order.id).await;
        assert_eq!(payments.len(), 1);
        let url = format!("{}/v1/payments/{}", self.client.payments, payments[0].id);
        assert_eq!(self.client.read::<shop::Payment>(&url).await, payments[0]);
        assert_eq!(
            (payments[0].status.as_str(), payments[0].amount),
            ("captured", TOTAL)
        );
        let balances = [("customer".to_owned(), -TOTAL), ("held".to_owned(), 0)];
        assert_eq!(self.balances().await, balances);
        let deliveries = self.client.deliveries_of(self.order.id).await;
        let tracking = deliveries[0].tracking.as_deref().unwrap_or_default();
        let told = self.client.notifications_of(self.order.id).await;
        assert!(
            !tracking.is_empty() && told[1].text.contains(tracking),
            "{:?}",
            told[1].text
        );
    }

    async fn assert_rejected_before_any_effect(&self) {
        assert_eq!(self.order.status, "rejected");
        let story = self.story();
        assert_eq!(story[0], "action_failed authorize-payment");
        assert_eq!(story[story.len() - 1], "compensated");
        let sent = self
            .events
            .iter()
            .filter(|event| event.event["type"] == "command_sent");
        assert!(
            sent.clone().all(|event| event.event["phase"] == "action"),
            "a refused step was compensated"
        );
        assert!(
            sent.clone()
                .all(|event| event.event["step"] == "authorize-payment"),
            "it went on"
        );
        self.assert_nothing_was_done().await;
    }

    async fn assert_nothing_was_done(&self) {
        assert_eq!(self.client.payments_of(self.order.id).await, []);
        assert_eq!(self.balances().await, []);
        assert_eq!(self.client.deliveries_of(self.order.id).await, []);
    }
}
