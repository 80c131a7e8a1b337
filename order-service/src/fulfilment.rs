//! The saga of an order: authorize the payment, schedule the delivery, capture the payment (the
//! point of no return), hand over to the carrier.
//!
//! What is here is its shape. What happens at each step is the participants' business; what
//! happens to the order at its end is in `finish_order`.

use chrono::NaiveDate;
use contracts::delivery::{
    CancelDelivery, DeliveryHandedOver, DeliveryScheduled, HandOverDelivery, ScheduleDelivery,
};
use contracts::payment::{
    AuthorizePayment, CapturePayment, PaymentAuthorized, PaymentCaptured, ReleasePayment,
};
use contracts::{Address, Money, topic};
use saga::locks::Claim;
use saga::{Cause, Coordinator, Definition, Step};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

use crate::finish_order;
use crate::order::Rejection;

/// The definition's name.
pub const NAME: &str = "order-fulfilment";

/// Its steps.
const AUTHORIZE_PAYMENT: &str = "authorize-payment";
const SCHEDULE_DELIVERY: &str = "schedule-delivery";
const CAPTURE_PAYMENT: &str = "capture-payment";
const HAND_OVER: &str = "hand-over";

/// What a customer's credit in a currency is called as a resource.
const CREDIT: &str = "credit/";

/// What the saga knows: what it was started with, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fulfilment {
    /// The order.
    pub order_id: Uuid,
    /// Who ordered.
    pub customer_id: Uuid,
    /// What it costs.
    pub total: Money,
    /// The card provider's token.
    pub payment_method: String,
    /// Where it goes.
    pub address: Address,
    /// Once the money is held.
    pub payment_id: Option<Uuid>,
    /// Once the delivery is scheduled.
    pub delivery_day: Option<NaiveDate>,
    /// Once the carrier has the parcel.
    pub tracking: Option<String>,
}

/// How patient the saga is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long one attempt at a step may take.
    pub timeout: Duration,
    /// Attempts at a step that can be undone.
    pub attempts: i32,
}

/// The coordinator of this service: one definition.
///
/// # Errors
///
/// When the patience is not positive.
pub fn coordinator(patience: Patience, credit_limit: i64) -> Result<Coordinator, saga::Error> {
    let coordinator = Coordinator::builder(topic::ORDER_REPLIES);
    let definition = definition(patience, credit_limit)?;
    Ok(coordinator.define(definition)?.build())
}

/// What happens to an order. A customer's open orders may not exceed `credit_limit` together, in
/// minor units of their currency: an order that would waits until others have ended.
///
/// # Errors
///
/// When the patience is not positive.
pub fn definition(
    patience: Patience,
    credit_limit: i64,
) -> Result<Definition<Fulfilment>, saga::Error> {
    let Patience { timeout, attempts } = patience;
    Definition::builder(NAME, 1)
        .tags(|order: &Fulfilment| [("customer", order.customer_id.to_string())])
        .lock(move |order: &Fulfilment| Claim {
            resource: format!(
                "{CREDIT}{}/{}",
                order.customer_id,
                order.total.currency.code()
            ),
            units: order.total.amount,
            capacity: credit_limit,
        })
        .compensatable(
            Step::new(AUTHORIZE_PAYMENT)
                .command(topic::PAYMENT_COMMANDS, |order: &Fulfilment| {
                    AuthorizePayment {
                        order_id: order.order_id,
                        customer_id: order.customer_id,
                        amount: order.total,
                        payment_method: order.payment_method.clone(),
                    }
                })
                .reply(|order: &mut Fulfilment, reply: PaymentAuthorized| {
                    order.payment_id = Some(reply.payment_id);
                })
                .compensation(|order: &Fulfilment| ReleasePayment {
                    order_id: order.order_id,
                })
                .timeout(timeout)
                .attempts(attempts),
        )
        .compensatable(
            Step::new(SCHEDULE_DELIVERY)
                .command(topic::DELIVERY_COMMANDS, |order: &Fulfilment| {
                    ScheduleDelivery {
                        order_id: order.order_id,
                        address: order.address.clone(),
                    }
                })
                .reply(|order: &mut Fulfilment, reply: DeliveryScheduled| {
                    order.delivery_day = Some(reply.day);
                })
                .compensation(|order: &Fulfilment| CancelDelivery {
                    order_id: order.order_id,
                })
                .timeout(timeout)
                .attempts(attempts),
        )
        .pivot(
            Step::new(CAPTURE_PAYMENT)
                .command(topic::PAYMENT_COMMANDS, |order: &Fulfilment| {
                    CapturePayment {
                        order_id: order.order_id,
                    }
                })
                .reply(|_: &mut Fulfilment, _: PaymentCaptured| {})
                .timeout(timeout),
        )
        .retriable(
            Step::new(HAND_OVER)
                .command(topic::DELIVERY_COMMANDS, |order: &Fulfilment| {
                    HandOverDelivery {
                        order_id: order.order_id,
                    }
                })
                .reply(|order: &mut Fulfilment, reply: DeliveryHandedOver| {
                    order.tracking = Some(reply.tracking);
                })
                .timeout(timeout),
        )
        .on_completed(|tx, ended| Box::pin(finish_order::confirm(tx, ended)))
        .on_compensated(|tx, ended| Box::pin(finish_order::reject(tx, ended)))
        .on_abandoned(|tx, ended| Box::pin(finish_order::abandon(tx, ended)))
        .build()
}

/// Why an order was rejected, from why its saga turned back.
#[must_use]
pub fn rejection(cause: Option<&Cause>) -> Rejection {
    match cause {
        Some(Cause::LockRefused { .. }) => Rejection::CreditLimit,
        Some(Cause::Refused { step, .. }) if is_delivery(step) => Rejection::DeliveryRefused,
        Some(Cause::Refused { .. }) => Rejection::PaymentRefused,
        Some(Cause::TimedOut { step }) if is_delivery(step) => Rejection::DeliveryUnanswered,
        Some(Cause::TimedOut { .. }) => Rejection::PaymentUnanswered,
        Some(Cause::Cancelled) => Rejection::Cancelled,
        _ => Rejection::Other,
    }
}

/// Whether the delivery service carries out this step; the others are the payment service's.
fn is_delivery(step: &str) -> bool {
    step == SCHEDULE_DELIVERY || step == HAND_OVER
}

/// The same in words for the customer. What a participant or a person said is said in their words.
#[must_use]
pub fn reason_for_people(rejection: Rejection, said: Option<&str>) -> String {
    let sentence = match rejection {
        Rejection::CreditLimit => "The order exceeds the customer's credit limit.",
        Rejection::PaymentUnanswered => "The payment service did not answer in time.",
        Rejection::DeliveryUnanswered => "The delivery service did not answer in time.",
        Rejection::PaymentRefused
        | Rejection::DeliveryRefused
        | Rejection::Cancelled
        | Rejection::Other => said.unwrap_or("The order could not be fulfilled."),
    };
    sentence.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        Patience {
            timeout: Duration::from_secs(10),
            attempts: 2,
        }
    }

    #[test]
    fn the_definition_is_sound() {
        let definition = definition(patience(), 100_000).unwrap();
        let steps: Vec<_> = definition.plan().steps().iter().map(|s| s.name()).collect();
        assert_eq!(
            steps,
            [
                "authorize-payment",
                "schedule-delivery",
                "capture-payment",
                "hand-over"
            ]
        );
    }

    #[test]
    fn patience_may_change_under_sagas_in_flight() {
        let impatient = Patience {
            timeout: Duration::from_millis(100),
            attempts: 1,
        };
        assert_eq!(
            definition(patience(), 100_000).unwrap().plan().hash(),
            definition(impatient, 5).unwrap().plan().hash(),
        );
    }

    #[test]
    fn every_cause_has_its_word_and_a_sentence_for_people() {
        let refused = |step: &str| Cause::Refused {
            step: step.to_owned(),
            code: "no".to_owned(),
        };
        let timed_out = |step: &str| Cause::TimedOut {
            step: step.to_owned(),
        };
        let credit = Cause::LockRefused {
            resource: "credit/018f/EUR".to_owned(),
        };
        let said = "The card was declined.";
        for (cause, word, sentence) in [
            (None, Rejection::Other, said),
            (
                Some(refused(AUTHORIZE_PAYMENT)),
                Rejection::PaymentRefused,
                said,
            ),
            (
                Some(refused(CAPTURE_PAYMENT)),
                Rejection::PaymentRefused,
                said,
            ),
            (
                Some(refused(SCHEDULE_DELIVERY)),
                Rejection::DeliveryRefused,
                said,
            ),
            (
                Some(credit),
                Rejection::CreditLimit,
                "The order exceeds the customer's credit limit.",
            ),
            (
                Some(timed_out(AUTHORIZE_PAYMENT)),
                Rejection::PaymentUnanswered,
                "The payment service did not answer in time.",
            ),
            (
                Some(timed_out(SCHEDULE_DELIVERY)),
                Rejection::DeliveryUnanswered,
                "The delivery service did not answer in time.",
            ),
            (Some(Cause::Cancelled), Rejection::Cancelled, said),
            (Some(Cause::DeadlinePassed), Rejection::Other, said),
        ] {
            let rejection = rejection(cause.as_ref());
            assert_eq!(rejection, word, "{cause:?}");
            assert_eq!(reason_for_people(rejection, Some(said)), sentence);
        }
        let silent = reason_for_people(Rejection::Other, None);
        assert_eq!(silent, "The order could not be fulfilled.");
    }
}
