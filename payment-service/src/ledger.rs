//! The ledger at one moment. Pure: what was read, cut to a page.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Accounts, holds, and the proof that no money appeared or vanished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ledger {
    /// Balances by account and currency, at most a thousand.
    pub accounts: Vec<Balance>,
    /// Give it back as `accounts_after` for the next of them; left out on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_accounts_after: Option<String>,
    /// The payments whose money is held, at most a thousand.
    pub holds: Vec<Hold>,
    /// Give it back as `holds_after` for the next of them; left out on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_holds_after: Option<Uuid>,
    /// The sum of all balances, also of those that are on other pages; zero.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LedgerTotal)]
pub struct Total {
    /// ISO 4217.
    pub currency: String,
    /// Minor units.
    pub total: i64,
}

/// How many accounts and how many holds there are on a page.
pub(crate) const PAGE: usize = 1_000;

impl Ledger {
    /// With one account and one hold more than a page has, if there are.
    pub(crate) fn new(
        mut accounts: Vec<Balance>,
        mut holds: Vec<Hold>,
        totals: Vec<Total>,
    ) -> Self {
        let more = (accounts.len() > PAGE, holds.len() > PAGE);
        accounts.truncate(PAGE);
        holds.truncate(PAGE);
        let last = accounts.last().filter(|_| more.0);
        let next_accounts_after = last.map(|last| format!("{}/{}", last.account, last.currency));
        let next_holds_after = holds.last().filter(|_| more.1).map(|last| last.payment_id);
        Self {
            total: totals.iter().map(|total| total.total).sum(),
            totals,
            accounts,
            next_accounts_after,
            holds,
            next_holds_after,
        }
    }
}
