//! The ledger at one moment. Pure: what was read, and the totals that follow from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Every account, every hold, and the proof that no money appeared or vanished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ledger {
    /// Balances by account and currency.
    pub accounts: Vec<Balance>,
    /// The payments whose money is held.
    pub holds: Vec<Hold>,
    /// The sum of all balances; zero.
    pub total: i64,
    /// The sum of all balances of each currency; zero each, which is what makes `total` mean
    /// something.
    pub totals: Vec<Total>,
}

/// What an account holds: the sum of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Balance {
    /// The account's name.
    pub account: String,
    /// ISO 4217.
    pub currency: String,
    /// Minor units.
    pub balance: i64,
}

/// Held money, by payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// Which payment.
    pub payment_id: Uuid,
    /// Of which order.
    pub order_id: Uuid,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
}

/// All balances of a currency together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LedgerTotal)]
pub struct Total {
    /// ISO 4217.
    pub currency: String,
    /// Minor units.
    pub total: i64,
}

impl Ledger {
    pub(crate) fn new(accounts: Vec<Balance>, holds: Vec<Hold>) -> Self {
        let mut totals = BTreeMap::<&str, i64>::new();
        for account in &accounts {
            *totals.entry(&account.currency).or_default() += account.balance;
        }
        let totals: Vec<Total> = totals
            .into_iter()
            .map(|(currency, total)| Total {
                currency: currency.to_owned(),
                total,
            })
            .collect();
        Self {
            total: totals.iter().map(|total| total.total).sum(),
            totals,
            accounts,
            holds,
        }
    }
}
