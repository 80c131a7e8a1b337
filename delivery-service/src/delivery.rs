//! A delivery and what may become of it. Pure: no SQL, no clock.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// How far ahead a place is looked for, in days from tomorrow on.
pub const HORIZON_DAYS: i32 = 14;

/// The postcode no van drives to, so that a refusal can be seen.
const UNSERVED: &str = "00000";

/// The delivery of one order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Delivery {
    /// Its id.
    pub id: Uuid,
    /// What is delivered.
    pub order_id: Uuid,
    /// Who receives the parcel.
    pub name: String,
    /// Street and number.
    pub street: String,
    /// The postal code.
    pub postcode: String,
    /// Town.
    pub city: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// The day the parcel arrives.
    pub day: NaiveDate,
    /// Where it stands.
    pub status: Status,
    /// The carrier's number, once handed over.
    pub tracking: Option<String>,
    /// When it was scheduled.
    pub created_at: DateTime<Utc>,
}

/// Where a delivery stands; the words of the column `deliveries.delivery.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = DeliveryStatus)]
pub enum Status {
    /// It holds a place of its day.
    Scheduled,
    /// It gave the place back.
    Cancelled,
    /// The carrier has the parcel.
    HandedOver,
}

/// Whether anybody drives there.
#[must_use]
pub fn is_served(postcode: &str) -> bool {
    postcode != UNSERVED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_postcode_is_not_served() {
        assert!(!is_served("00000"));
        assert!(is_served("10115"));
        assert!(is_served("99999"));
    }
}
