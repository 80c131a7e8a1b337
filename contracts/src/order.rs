//! What happened to an order.

use chrono::NaiveDate;
use outbox::Payload;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Money;

/// Somebody placed an order; whether it will be fulfilled is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// Which order.
    pub order_id: Uuid,
    /// Who placed it.
    pub customer_id: Uuid,
    /// What it costs.
    pub total: Money,
}

/// It is paid and on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderConfirmed {
    /// Which order.
    pub order_id: Uuid,
    /// Who placed it.
    pub customer_id: Uuid,
    /// What was paid.
    pub total: Money,
    /// The day the parcel arrives; absent only if the delivery's reply was put in by hand.
    pub delivery_day: Option<NaiveDate>,
    /// The carrier's tracking number; absent as the day is.
    pub tracking: Option<String>,
}

/// It will not be fulfilled, and nothing is left of it: no money held, no place taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRejected {
    /// Which order.
    pub order_id: Uuid,
    /// Who placed it.
    pub customer_id: Uuid,
    /// Why, in words for the customer.
    pub reason: String,
}

/// A person gave up its saga. What was done of it may not have been undone: money may be held, a place
/// may be taken, and a person sees to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAbandoned {
    /// Which order.
    pub order_id: Uuid,
    /// Who placed it.
    pub customer_id: Uuid,
}

impl Payload for OrderPlaced {
    const KIND: &'static str = "order.placed.v1";
}

impl Payload for OrderConfirmed {
    const KIND: &'static str = "order.confirmed.v1";
}

impl Payload for OrderRejected {
    const KIND: &'static str = "order.rejected.v1";
}

impl Payload for OrderAbandoned {
    const KIND: &'static str = "order.abandoned.v1";
}
