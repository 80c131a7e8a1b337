//! Where a parcel goes.

use serde::{Deserialize, Serialize};

/// A postal address. Checked by whoever takes it from a person (order-service); carried as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Who receives the parcel.
    pub name: String,
    /// Street and number.
    pub street: String,
    /// The postal code, as text: leading zeros and letters count.
    pub postcode: String,
    /// Town.
    pub city: String,
    /// ISO 3166-1 alpha-2, uppercase: `DE`.
    pub country: String,
}
