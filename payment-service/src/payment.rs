//! A payment, what may become of it, and what that does to the ledger. Pure: no SQL, no clock.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// The money of one order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Payment {
    /// Its id.
    pub id: Uuid,
    /// What is paid for.
    pub order_id: Uuid,
    /// Whose money it is.
    pub customer_id: Uuid,
    /// The card provider's token.
    pub payment_method: String,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// Where the money is.
    pub status: Status,
    /// When it was authorized.
    pub created_at: DateTime<Utc>,
}

/// Where a payment's money is; the words of the column `payments.payment.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = PaymentStatus)]
pub enum Status {
    /// Held of the customer.
    Authorized,
    /// The merchant's.
    Captured,
    /// The customer's again.
    Released,
}

/// A movement of a payment's money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// Customer → held.
    Hold,
    /// Held → merchant.
    Capture,
    /// Held → customer.
    Release,
}

/// What a movement asked for leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The money moves, and this is the status afterwards.
    Move(Status),
    /// It is there already; nothing moves.
    Already,
    /// It went the other way, for good.
    Impossible,
}

/// One line of a ledger transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// The account's name.
    pub account: String,
    /// Minor units; positive: into the account.
    pub amount: i64,
}

impl Status {
    /// Decides a movement of money that is already held.
    #[must_use]
    pub fn decide(self, movement: Movement) -> Verdict {
        match (self, movement) {
            (Self::Authorized, Movement::Capture) => Verdict::Move(Self::Captured),
            (Self::Authorized, Movement::Release) => Verdict::Move(Self::Released),
            (Self::Authorized, Movement::Hold)
            | (Self::Captured, Movement::Capture)
            | (Self::Released, Movement::Release) => Verdict::Already,
            (Self::Captured | Self::Released, _) => Verdict::Impossible,
        }
    }
}

impl Payment {
    /// The two lines that a movement of this payment adds to the ledger. They sum to zero.
    #[must_use]
    pub fn postings(&self, movement: Movement) -> [Posting; 2] {
        let customer = format!("customer:{}", self.customer_id);
        let held = format!("held:{}", self.customer_id);
        let (from, to) = match movement {
            Movement::Hold => (customer, held),
            Movement::Capture => (held, "merchant".to_owned()),
            Movement::Release => (held, customer),
        };
        let line = |account, amount| Posting { account, amount };
        [line(from, -self.amount), line(to, self.amount)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn payment() -> Payment {
        Payment {
            id: Uuid::nil(),
            order_id: Uuid::nil(),
            customer_id: Uuid::nil(),
            payment_method: "pm_card_visa".to_owned(),
            amount: 2500,
            currency: "EUR".to_owned(),
            status: Status::Authorized,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    fn balances(movements: &[Movement]) -> BTreeMap<String, i64> {
        let mut balances = BTreeMap::new();
        for posting in movements.iter().flat_map(|m| payment().postings(*m)) {
            *balances.entry(posting.account).or_default() += posting.amount;
        }
        balances
    }

    #[test]
    fn every_movement_sums_to_zero() {
        for movement in [Movement::Hold, Movement::Capture, Movement::Release] {
            let sum: i64 = payment().postings(movement).iter().map(|p| p.amount).sum();
            assert_eq!(sum, 0, "{movement:?}");
        }
    }

    #[test]
    fn captured_money_is_the_merchants() {
        let balances = balances(&[Movement::Hold, Movement::Capture]);
        assert_eq!(balances["merchant"], 2500);
        assert_eq!(balances[&format!("held:{}", Uuid::nil())], 0);
        assert_eq!(balances[&format!("customer:{}", Uuid::nil())], -2500);
    }

    #[test]
    fn released_money_is_the_customers() {
        let balances = balances(&[Movement::Hold, Movement::Release]);
        assert!(balances.values().all(|balance| *balance == 0));
    }

    #[test]
    fn money_is_either_captured_or_released_and_only_once() {
        use Movement::{Capture, Release};
        for (status, movement, verdict) in [
            (Status::Authorized, Capture, Verdict::Move(Status::Captured)),
            (Status::Authorized, Release, Verdict::Move(Status::Released)),
            (Status::Captured, Capture, Verdict::Already),
            (Status::Captured, Release, Verdict::Impossible),
            (Status::Released, Release, Verdict::Already),
            (Status::Released, Capture, Verdict::Impossible),
        ] {
            assert_eq!(
                status.decide(movement),
                verdict,
                "{status:?} and {movement:?}"
            );
        }
    }
}
