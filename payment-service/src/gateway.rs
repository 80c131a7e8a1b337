//! The card provider, as this service sees it: three calls, each with an idempotency key.
//!
//! Providers' interfaces look like this one. The service's participant is written against it, and
//! against the promise that the same key gets the same effect and the same answer. There are two:
//! [`Fake`] for the shop, and whatever a test scripts.

mod fake;

use std::future::Future;

use contracts::Money;
use uuid::Uuid;

pub use fake::Fake;

/// What a provider does.
pub trait Gateway: Send + Sync + 'static {
    /// Holds money on a card, once per key.
    ///
    /// # Errors
    ///
    /// [`Unavailable`]: nobody knows whether it was done; ask with [`Gateway::lookup`].
    fn authorize(
        &self,
        key: Uuid,
        hold: &Hold,
    ) -> impl Future<Output = Result<Authorization, Unavailable>> + Send;

    /// Lets go of what was authorized under `authorization`. One that is not known can never be
    /// authorized from then on. `key` is the void's own; voiding again changes nothing.
    ///
    /// # Errors
    ///
    /// [`Unavailable`]: ask again.
    fn void(
        &self,
        key: Uuid,
        authorization: Uuid,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// What is known of a key given to [`Gateway::authorize`].
    ///
    /// # Errors
    ///
    /// [`Unavailable`]: ask again.
    fn lookup(&self, key: Uuid) -> impl Future<Output = Result<Known, Unavailable>> + Send;
}

/// What is to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The provider's token for a card.
    pub payment_method: String,
    /// How much.
    pub amount: Money,
}

/// What the provider says to an authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// The money is held.
    Approved,
    /// It is not, and will not be under this key.
    Declined(Declined),
    /// Nothing, ever, and nothing is held: only a fake knows that of itself.
    NoAnswer,
}

/// Why money is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declined {
    /// As in the provider's documentation.
    pub code: &'static str,
    /// What a person is told.
    pub message: &'static str,
}

/// What the provider knows of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The money is held.
    Approved,
    /// It never was.
    Declined(Declined),
    /// It is not held any more, or was kept from ever being.
    Voided,
    /// Nothing.
    Nothing,
}

/// The provider could not be asked, or its answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the card gateway is unavailable: {0}")]
pub struct Unavailable(pub &'static str);
