//! The proofs: the shop as separate processes on real Postgres and real Kafka, and the rules of the house.
//!
//! The processes are those that `cargo build --workspace --bins --features outbox/relay-bin` makes.

// What the others stand on.
mod shop;
mod topics;

mod house_rules;

mod compose;

mod chart;

mod described;

mod authorized;
mod secrets;

mod scenarios;

mod doors;

mod faults;
mod faults_agree;

mod starting;

mod gateway;

mod fuzzed;
mod pages;
mod rude;

mod trials;

mod observe;

mod records;
mod traced;
