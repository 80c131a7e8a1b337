//! Commands to delivery-service and its replies.
//!
//! Every command names the order, never the delivery, for the reason given in [`crate::payment`].

use chrono::NaiveDate;
use outbox::Payload;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Address;

/// Take a place on the first day with room. Undone by [`CancelDelivery`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleDelivery {
    /// What is delivered; an order has one delivery.
    pub order_id: Uuid,
    /// Where to.
    pub address: Address,
}

/// A place is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryScheduled {
    /// The delivery that now exists.
    pub delivery_id: Uuid,
    /// The day the parcel arrives.
    pub day: NaiveDate,
}

/// Give the place back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelDelivery {
    /// What was to be delivered.
    pub order_id: Uuid,
}

/// Give the parcel to the carrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverDelivery {
    /// What is delivered.
    pub order_id: Uuid,
}

/// The carrier has the parcel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryHandedOver {
    /// Which delivery.
    pub delivery_id: Uuid,
    /// The carrier's tracking number.
    pub tracking: String,
}

impl Payload for ScheduleDelivery {
    const KIND: &'static str = "delivery.schedule.v1";
}

impl Payload for DeliveryScheduled {
    const KIND: &'static str = "delivery.scheduled.v1";
}

impl Payload for CancelDelivery {
    const KIND: &'static str = "delivery.cancel.v1";
}

impl Payload for HandOverDelivery {
    const KIND: &'static str = "delivery.hand_over.v1";
}

impl Payload for DeliveryHandedOver {
    const KIND: &'static str = "delivery.handed_over.v1";
}
