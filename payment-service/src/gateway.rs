//! The card provider, simulated: it answers by the token alone, as a real provider's test mode
//! does.
//!
//! What if we die here: a real provider takes the operation's key as its idempotency key and
//! answers the same to the same key. So does this one; it forgets its counts with the process,
//! and then `pm_flaky` errs twice again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

/// How often [`FLAKY`] errs before it works.
const FLAKY_ERRORS: u32 = 2;
/// How many operations are remembered; enough for every retry that is under way.
const REMEMBERED: usize = 10_000;

const VISA: &str = "pm_card_visa";
const DECLINED: &str = "pm_card_declined";
const INSUFFICIENT_FUNDS: &str = "pm_insufficient_funds";
const FLAKY: &str = "pm_flaky";
const TIMEOUT: &str = "pm_timeout";

/// The simulated provider.
#[derive(Debug, Default)]
pub struct Gateway {
    /// Failed attempts by operation. Outside of any transaction, as a provider's memory is: a
    /// rolled back transaction must not make it forget.
    errors: Mutex<HashMap<Uuid, u32>>,
}

/// What the provider says to an authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// The money is good.
    Approved,
    /// It is not, with a code for programs and a sentence for people.
    Declined {
        /// As in the provider's documentation.
        code: &'static str,
        /// What a person is told.
        message: &'static str,
    },
    /// Nothing, ever.
    NoAnswer,
}

/// The provider could not be asked; asking again may work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the card gateway is unavailable (attempt {attempt})")]
pub struct Unavailable {
    /// How often this operation has been tried.
    pub attempt: u32,
}

impl Gateway {
    /// Asks for money. `op_key` names the operation: the same key gets the same answer.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] for the first two attempts with `pm_flaky`.
    pub fn authorize(
        &self,
        op_key: Uuid,
        payment_method: &str,
    ) -> Result<Authorization, Unavailable> {
        let declined = |code, message| Ok(Authorization::Declined { code, message });
        match payment_method {
            VISA => Ok(Authorization::Approved),
            DECLINED => declined("card_declined", "The card was declined."),
            INSUFFICIENT_FUNDS => declined(
                "insufficient_funds",
                "There is not enough money on the card.",
            ),
            FLAKY => self.flaky(op_key),
            TIMEOUT => Ok(Authorization::NoAnswer),
            _ => declined(
                "unknown_payment_method",
                "The payment method is not known to the card provider.",
            ),
        }
    }

    fn flaky(&self, op_key: Uuid) -> Result<Authorization, Unavailable> {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() >= REMEMBERED {
            errors.clear();
        }
        let count = errors.entry(op_key).or_default();
        if *count >= FLAKY_ERRORS {
            return Ok(Authorization::Approved);
        }
        *count += 1;
        Err(Unavailable { attempt: *count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flaky_card_works_at_the_third_try_of_each_operation() {
        let gateway = Gateway::default();
        for op_key in [Uuid::from_u128(1), Uuid::from_u128(2)] {
            for attempt in [1, 2] {
                assert_eq!(
                    gateway.authorize(op_key, FLAKY),
                    Err(Unavailable { attempt })
                );
            }
            for _again in 0..2 {
                assert_eq!(
                    gateway.authorize(op_key, FLAKY),
                    Ok(Authorization::Approved)
                );
            }
        }
    }

    #[test]
    fn an_unknown_token_is_declined() {
        let answer = Gateway::default().authorize(Uuid::nil(), "pm_gold");
        assert!(matches!(answer, Ok(Authorization::Declined { .. })));
    }
}
