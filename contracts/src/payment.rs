//! Commands to payment-service and its replies.
//!
//! Every command names the order, never the payment: when the outcome of an authorization is
//! unknown, nobody but payment-service knows that a payment exists.

use outbox::Payload;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Money;

/// Hold the money of an order. Undone by [`ReleasePayment`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizePayment {
    /// What is paid for; an order has one payment.
    pub order_id: Uuid,
    /// Whose money it is.
    pub customer_id: Uuid,
    /// How much to hold.
    pub amount: Money,
    /// The card provider's token: `pm_card_visa`.
    pub payment_method: String,
}

/// The money is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentAuthorized {
    /// The payment that now exists.
    pub payment_id: Uuid,
}

/// Give held money back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePayment {
    /// What was to be paid for.
    pub order_id: Uuid,
}

/// Take the held money: the point of no return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePayment {
    /// What is paid for.
    pub order_id: Uuid,
}

/// The money is the merchant's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCaptured {
    /// Which payment.
    pub payment_id: Uuid,
}

impl Payload for AuthorizePayment {
    const KIND: &'static str = "payment.authorize.v1";
}

impl Payload for PaymentAuthorized {
    const KIND: &'static str = "payment.authorized.v1";
}

impl Payload for ReleasePayment {
    const KIND: &'static str = "payment.release.v1";
}

impl Payload for CapturePayment {
    const KIND: &'static str = "payment.capture.v1";
}

impl Payload for PaymentCaptured {
    const KIND: &'static str = "payment.captured.v1";
}
