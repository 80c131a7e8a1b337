//! The program itself, run as an operator runs it: what it prints, what it exits with, what it never says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

// What the others stand on.
mod room;
mod served;
mod terminal;

mod acting;
mod auditing;
mod completing;
mod following;
mod looking;
mod migrating;
mod parked;
mod parked_served;
mod refusing;
mod roles;
mod sagas;
mod tokens;
mod waiting;
mod watching;
