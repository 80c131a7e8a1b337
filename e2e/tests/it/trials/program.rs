//! Orders drawn by seed: whose, for how much, and what is to go wrong with them.

use serde_json::Value;
use testbed::trials::Random;
use uuid::Uuid;

use super::room::CREDIT_LIMIT;
use crate::shop;

/// What an order must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Nothing speaks against it; only a fault of ours may.
    Good,
    /// It is refused, or never answered: whatever happens, it is not confirmed.
    Doomed,
}

/// An order to be placed.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Its `Idempotency-Key`.
    pub(crate) key: String,
    pub(crate) customer: Uuid,
    pub(crate) total: i64,
    pub(crate) fate: Fate,
    pub(crate) order: Value,
}

/// An endless row of orders.
pub(crate) struct Program {
    customers: Vec<Uuid>,
    random: Random,
}

impl Program {
    pub(crate) fn new(customers: usize, random: Random) -> Self {
        let customers = (0..customers).map(|_| Uuid::now_v7()).collect();
        Self { customers, random }
    }
}

impl Iterator for Program {
    type Item = Wish;

    fn next(&mut self) -> Option<Wish> {
        let random = &mut self.random;
        let customers = self.customers.len() as u64;
        let customer = self.customers[usize::try_from(random.within(0..customers)).ok()?];
        let quantity = i64::try_from(random.within(1..5)).ok()?;
        let price = i64::try_from(random.within(1..2_000)).ok()?;
        let (token, postcode, price, fate) = match random.within(0..100) {
            0..55 => ("pm_card_visa", "10115", price, Fate::Good),
            55..63 => ("pm_flaky", "10115", price, Fate::Good),
            63..69 => ("pm_lost_answer", "10115", price, Fate::Good),
            69..74 => ("pm_card_visa", "99999", price, Fate::Good),
            74..80 => ("pm_card_declined", "10115", price, Fate::Doomed),
            80..84 => ("pm_insufficient_funds", "10115", price, Fate::Doomed),
            84..94 => ("pm_card_visa", "00000", price, Fate::Doomed),
            94..97 => ("pm_timeout", "10115", price, Fate::Doomed),
            // More than anybody's credit.
            _ => ("pm_card_visa", "10115", CREDIT_LIMIT + 1, Fate::Doomed),
        };
        let mut order = shop::paid_with(customer, token);
        order["delivery"]["postcode"] = postcode.into();
        order["items"][0]["quantity"] = quantity.into();
        order["items"][0]["unit_price"] = price.into();
        Some(Wish {
            key: Uuid::now_v7().to_string(),
            customer,
            total: quantity * price,
            fate,
            order,
        })
    }
}
