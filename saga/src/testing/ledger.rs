//! Money to try sagas with: what is held and what is owned, by account.
//!
//! Promised: nothing here makes money or loses it, so the [total](Ledger::total) tells whether a
//! participant did, and equality with the ledger of before whether everything was undone. An account
//! that nobody opened is a misspelt one: whoever names it panics.

use std::collections::BTreeMap;

use crate::wire::Refusal;

/// Accounts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    accounts: BTreeMap<String, Account>,
}

/// What an account has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Account {
    /// Free to be spent.
    pub balance: i64,
    /// Set aside for somebody.
    pub held: i64,
}

impl Ledger {
    /// Without accounts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one account more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, balance: i64) -> Self {
        self.accounts
            .insert(name.into(), Account { balance, held: 0 });
        self
    }

    /// Sets money aside.
    ///
    /// # Errors
    ///
    /// A refusal `insufficient_funds` if there is not enough.
    ///
    /// # Panics
    ///
    /// If nobody opened this account; so do all that name one.
    pub fn hold(&mut self, account: &str, amount: i64) -> Result<(), Refusal> {
        let account = self.account(account);
        account.spend(amount)?;
        account.held += amount;
        Ok(())
    }

    /// Gives back what was set aside.
    ///
    /// # Errors
    ///
    /// A refusal `not_held` if less was.
    pub fn release(&mut self, account: &str, amount: i64) -> Result<(), Refusal> {
        let account = self.account(account);
        account.let_go(amount)?;
        account.balance += amount;
        Ok(())
    }

    /// Moves what was set aside to another account.
    ///
    /// # Errors
    ///
    /// A refusal `not_held` if less was.
    pub fn capture(&mut self, from: &str, to: &str, amount: i64) -> Result<(), Refusal> {
        let _opened = self.account(to);
        self.account(from).let_go(amount)?;
        self.account(to).balance += amount;
        Ok(())
    }

    /// Moves money.
    ///
    /// # Errors
    ///
    /// A refusal `insufficient_funds` if there is not enough.
    pub fn transfer(&mut self, from: &str, to: &str, amount: i64) -> Result<(), Refusal> {
        let _opened = self.account(to);
        self.account(from).spend(amount)?;
        self.account(to).balance += amount;
        Ok(())
    }

    /// What an account has.
    ///
    /// # Panics
    ///
    /// If nobody opened it.
    #[must_use]
    #[track_caller]
    pub fn of(&self, account: &str) -> Account {
        let found = self.accounts.get(account).copied();
        found.unwrap_or_else(|| panic!("{}", self.unopened(account)))
    }

    /// All there is, free or set aside.
    #[must_use]
    pub fn total(&self) -> i64 {
        let accounts = self.accounts.values();
        accounts.map(|account| account.balance + account.held).sum()
    }

    #[track_caller]
    fn account(&mut self, name: &str) -> &mut Account {
        if !self.accounts.contains_key(name) {
            panic!("{}", self.unopened(name))
        }
        self.accounts.entry(name.to_owned()).or_default()
    }

    fn unopened(&self, name: &str) -> String {
        let known: Vec<_> = self.accounts.keys().map(String::as_str).collect();
        format!(
            "there is no account {name:?}; there are {}",
            known.join(", ")
        )
    }
}

impl Account {
    fn spend(&mut self, amount: i64) -> Result<(), Refusal> {
        if self.balance < amount {
            let code = "insufficient_funds";
            return Err(Refusal::new(code, "There is not enough money."));
        }
        self.balance -= amount;
        Ok(())
    }

    fn let_go(&mut self, amount: i64) -> Result<(), Refusal> {
        if self.held < amount {
            return Err(Refusal::new("not_held", "Less than that was set aside."));
        }
        self.held -= amount;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_moves_and_is_neither_made_nor_lost() {
        let mut ledger = Ledger::new()
            .with("ada", 100)
            .with("shop", 1)
            .with("bob", 0);
        let before = ledger.clone();
        ledger.hold("ada", 80).unwrap();
        assert_eq!(
            ledger.of("ada"),
            Account {
                balance: 20,
                held: 80
            }
        );
        assert_eq!(
            ledger.hold("ada", 21).unwrap_err().code,
            "insufficient_funds"
        );
        ledger.release("ada", 80).unwrap();
        assert_eq!(ledger, before);
        assert_eq!(ledger.release("ada", 1).unwrap_err().code, "not_held");
        ledger.hold("ada", 50).unwrap();
        ledger.capture("ada", "shop", 50).unwrap();
        ledger.transfer("shop", "bob", 51).unwrap();
        assert_eq!(
            ledger.capture("ada", "shop", 1).unwrap_err().code,
            "not_held"
        );
        assert_eq!(ledger.of("bob").balance, 51);
        assert_eq!(ledger.total(), 101);
    }

    #[test]
    #[should_panic(expected = "there is no account \"adda\"; there are ada, shop")]
    fn an_account_that_nobody_opened_is_misspelt() {
        let mut ledger = Ledger::new().with("ada", 100).with("shop", 1);
        let _never = ledger.hold("adda", 0);
    }
}
