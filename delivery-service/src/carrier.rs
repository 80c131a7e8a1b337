//! The carrier, simulated: it answers by the postcode alone.
//!
//! What if we die here: a real carrier takes the delivery's id as its reference and answers the
//! same to the same reference. So does this one; it forgets its counts with the process, and then
//! refuses twice again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

/// The postcode where parcels are not taken at once.
const REFUSED: &str = "99999";
/// How often a parcel for it is refused before it is taken.
const REFUSALS: u32 = 2;
/// How many deliveries are remembered; enough for every hand-over that is under way.
const REMEMBERED: usize = 10_000;

/// The simulated carrier.
#[derive(Debug, Default)]
pub struct Carrier {
    /// Refusals by delivery. Outside of any transaction, as a carrier's memory is: refusing rolls
    /// our transaction's work back, and must not make the carrier forget.
    refusals: Mutex<HashMap<Uuid, u32>>,
}

/// What the carrier says to a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOver {
    /// It has it, under this number.
    Taken {
        /// The tracking number; the same for the same delivery.
        tracking: String,
    },
    /// Not now.
    Refused,
}

impl Carrier {
    /// Offers a parcel.
    pub fn hand_over(&self, delivery_id: Uuid, postcode: &str) -> HandOver {
        if postcode == REFUSED && self.refuses_once_more(delivery_id) {
            return HandOver::Refused;
        }
        // The random end of a UUIDv7: its beginning is the time, alike for all of a moment.
        let number = delivery_id.as_u128() & 0xffff_ffff_ffff;
        let tracking = format!("RC-{number:012X}");
        HandOver::Taken { tracking }
    }

    fn refuses_once_more(&self, delivery_id: Uuid) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= REMEMBERED {
            refusals.clear();
        }
        let count = refusals.entry(delivery_id).or_default();
        let refuses = *count < REFUSALS;
        *count += u32::from(refuses);
        refuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_is_taken_at_once_under_the_same_number() {
        let carrier = Carrier::default();
        let first = carrier.hand_over(Uuid::from_u128(0xabc), "10115");
        let tracking = "RC-000000000ABC".to_owned();
        assert_eq!(first, HandOver::Taken { tracking });
        assert_eq!(carrier.hand_over(Uuid::from_u128(0xabc), "10115"), first);
    }

    #[test]
    fn one_postcode_is_refused_twice_for_each_delivery() {
        let carrier = Carrier::default();
        for delivery in [Uuid::from_u128(1), Uuid::from_u128(2)] {
            for _refusal in 0..2 {
                assert_eq!(carrier.hand_over(delivery, "99999"), HandOver::Refused);
            }
            let third = carrier.hand_over(delivery, "99999");
            assert!(matches!(third, HandOver::Taken { .. }));
        }
    }
}
