//! For tests only: what users of this crate try *their* sagas and participants with. Only with the
//! feature `testing`.
//!
//! A definition is tried without a database and without a broker: decisions are pure, so a saga, the
//! messages in flight and the participants behind their barriers fit into a value. From the smallest
//! to the largest:
//!
//! | | what it shows |
//! |---|---|
//! | [`Script`] | one story, told and expected line by line |
//! | [`fails_at_each_step`], [`repeats_each_step`], [`dies_after_each_commit`], [`times_out_at_each_step`] | the trials that every saga passes, one line each |
//! | [`explore`] | every order of what may happen, within [`Bounds`]; the shortest way to a broken promise, if there is one |
//! | [`wander`] | longer runs by seed |
//! | [`World`] | many sagas at once on one [`Ledger`], on a clock of its own, with [`Fault`]s by script or by seed |
//! | [`conformance`] | a participant in any language, over Kafka |
//!
//! Promised: what is tried is the very `decide` that runs in production. Not promised: anything about
//! the participants themselves; the ones here keep their barrier, [`conformance`] tries yours.

mod ledger;

mod closures;
mod given;
mod timeline;

mod books;
mod course;
mod lawful;
mod lengths;

mod claims;
mod participants;

mod moves;
mod possible;
mod promises;
mod scene;

mod expect;
mod script;

mod trials;

mod explore;
mod undisturbed;
mod wander;

mod fault;
mod random;
mod resources;
mod world;

pub mod conformance;

pub use explore::{Bounds, Counterexample, Explored, explore, replay, search};
pub use fault::Fault;
pub use given::Given;
pub use ledger::{Account, Ledger};
pub use script::Script;
pub use trials::{
    Tried, dies_after_each_commit, fails_at_each_step, repeats_each_step, times_out_at_each_step,
};
pub use wander::{Wandered, wander};
pub use world::{Lived, World};

#[cfg(test)]
mod tests;
