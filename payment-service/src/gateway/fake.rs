//! A provider that answers by the token alone, as a real one's test mode does.
//!
//! | token | an authorization |
//! |---|---|
//! | `pm_card_visa` | is approved |
//! | `pm_card_declined`, `pm_insufficient_funds`, any other | is declined |
//! | `pm_flaky` | fails twice for each key, then is approved |
//! | `pm_lost_answer` | is done, and its first answer is lost |
//! | `pm_timeout` | is never answered, and never done |
//!
//! **What is not covered**: a real provider remembers for ever, and for all replicas. This one
//! remembers for the process, and for the latest ten thousand keys: after a restart it has never
//! heard of a key, so `pm_flaky` errs twice again and `pm_lost_answer` loses an answer again. Nor
//! does it hold any money that somebody could count.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::gateway::{Authorization, Declined, Gateway, Hold, Known, Unavailable};

/// How often `pm_flaky` errs before it works.
const FLAKY_ERRORS: u32 = 2;
/// How many keys are remembered; enough for every retry that is under way.
const REMEMBERED: usize = 10_000;

/// The simulated provider. Its memory lies outside of any transaction, as a provider's does: what is
/// rolled back here is not forgotten there.
#[derive(Debug, Default)]
pub struct Fake {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    by_key: HashMap<Uuid, Record>,
    /// The oldest first.
    order: VecDeque<Uuid>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    known: Known,
    errors: u32,
}

impl Gateway for Fake {
    async fn authorize(&self, key: Uuid, hold: &Hold) -> Result<Authorization, Unavailable> {
        let mut memory = self.memory();
        let record = memory.record(key);
        match record.known {
            Known::Approved => return Ok(Authorization::Approved),
            Known::Declined(declined) => return Ok(Authorization::Declined(declined)),
            Known::Voided => return Ok(Authorization::Declined(VOIDED)),
            Known::Nothing => {}
        }
        match hold.payment_method.as_str() {
            "pm_card_visa" => record.approve(),
            "pm_card_declined" => record.decline(CARD_DECLINED),
            "pm_insufficient_funds" => record.decline(INSUFFICIENT_FUNDS),
            "pm_flaky" if record.errors < FLAKY_ERRORS => {
                record.errors += 1;
                Err(Unavailable("it is out of order"))
            }
            "pm_flaky" => record.approve(),
            "pm_lost_answer" => {
                record.known = Known::Approved;
                Err(Unavailable("its answer was lost"))
            }
            "pm_timeout" => Ok(Authorization::NoAnswer),
            _ => record.decline(UNKNOWN),
        }
    }

    async fn void(&self, _: Uuid, authorization: Uuid) -> Result<(), Unavailable> {
        let mut memory = self.memory();
        let record = memory.record(authorization);
        if !matches!(record.known, Known::Declined(_)) {
            record.known = Known::Voided;
        }
        Ok(())
    }

    async fn lookup(&self, key: Uuid) -> Result<Known, Unavailable> {
        let memory = self.memory();
        let record = memory.by_key.get(&key);
        Ok(record.map_or(Known::Nothing, |record| record.known))
    }
}

impl Fake {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn record(&mut self, key: Uuid) -> &mut Record {
        if !self.by_key.contains_key(&key) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_key.remove(&oldest);
            }
            self.order.push_back(key);
        }
        self.by_key.entry(key).or_insert(Record {
            known: Known::Nothing,
            errors: 0,
        })
    }
}

impl Record {
    fn approve(&mut self) -> Result<Authorization, Unavailable> {
        self.known = Known::Approved;
        Ok(Authorization::Approved)
    }

    fn decline(&mut self, declined: Declined) -> Result<Authorization, Unavailable> {
        self.known = Known::Declined(declined);
        Ok(Authorization::Declined(declined))
    }
}

const CARD_DECLINED: Declined = Declined {
    code: "card_declined",
    message: "The card was declined.",
};
const INSUFFICIENT_FUNDS: Declined = Declined {
    code: "insufficient_funds",
    message: "There is not enough money on the card.",
};
const UNKNOWN: Declined = Declined {
    code: "unknown_payment_method",
    message: "The payment method is not known to the card provider.",
};
const VOIDED: Declined = Declined {
    code: "authorization_voided",
    message: "The authorization was voided.",
};

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn hold(payment_method: &str) -> Hold {
        Hold {
            payment_method: payment_method.to_owned(),
            amount: contracts::Money {
                amount: 2500,
                currency: "EUR".parse().expect("a currency"),
            },
        }
    }

    #[tokio::test]
    async fn a_flaky_card_works_at_the_third_try_of_each_key() {
        let (fake, hold) = (Fake::default(), hold("pm_flaky"));
        for key in [KEY, OTHER] {
            for _failing in 0..2 {
                assert!(fake.authorize(key, &hold).await.is_err());
                assert_eq!(fake.lookup(key).await, Ok(Known::Nothing));
            }
            for _again in 0..2 {
                let answer = fake.authorize(key, &hold).await;
                assert_eq!(answer, Ok(Authorization::Approved));
            }
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_found_under_its_key_and_under_no_other() {
        let (fake, hold) = (Fake::default(), hold("pm_lost_answer"));
        assert!(fake.authorize(KEY, &hold).await.is_err());
        assert_eq!(fake.lookup(KEY).await, Ok(Known::Approved));
        assert_eq!(fake.lookup(OTHER).await, Ok(Known::Nothing));
        let again = fake.authorize(KEY, &hold).await;
        assert_eq!(again, Ok(Authorization::Approved));
    }

    #[tokio::test]
    async fn what_is_voided_is_never_authorized_whichever_comes_first() {
        let (fake, hold) = (Fake::default(), hold("pm_card_visa"));
        assert_eq!(
            fake.authorize(KEY, &hold).await,
            Ok(Authorization::Approved)
        );
        for key in [KEY, OTHER] {
            fake.void(Uuid::nil(), key).await.expect("voided");
            assert_eq!(fake.lookup(key).await, Ok(Known::Voided));
            let late = fake.authorize(key, &hold).await;
            assert_eq!(late, Ok(Authorization::Declined(VOIDED)));
        }
    }

    #[tokio::test]
    async fn an_unknown_token_is_declined_again_and_again() {
        let fake = Fake::default();
        for token in ["pm_gold", "pm_card_visa"] {
            let answer = fake.authorize(KEY, &hold(token)).await;
            assert_eq!(answer, Ok(Authorization::Declined(UNKNOWN)), "{token}");
        }
    }

    #[tokio::test]
    async fn memory_is_bounded_and_forgets_the_oldest() {
        let (fake, hold) = (Fake::default(), hold("pm_card_visa"));
        for key in 0..=REMEMBERED as u128 {
            let key = Uuid::from_u128(key);
            fake.authorize(key, &hold).await.expect("approved");
        }
        assert_eq!(fake.lookup(Uuid::from_u128(0)).await, Ok(Known::Nothing));
        assert_eq!(fake.lookup(Uuid::from_u128(1)).await, Ok(Known::Approved));
        assert_eq!(fake.memory().by_key.len(), REMEMBERED);
    }
}
