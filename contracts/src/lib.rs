//! The words of the shop: commands, replies and events as they are on the wire.
//!
//! What passes here: plain values with a serde form and a wire name ([`outbox::Payload::KIND`]).
//! Commands are imperative, replies and events past tense, both dotted and versioned
//! (`payment.authorize.v1` → `payment.authorized.v1`). Every kind and version has one golden file
//! under `golden/`, checked both ways, so that a change of the wire is a change somebody sees.
//!
//! What is promised: a reader ignores fields that it does not know, so a field can be added. What
//! is not: renaming, removing or reinterpreting a field is a new version with a new name.

mod address;
pub mod delivery;
mod money;
pub mod order;
pub mod payment;
pub mod topic;

pub use address::Address;
pub use money::{Currency, Money, UnknownCurrency};
