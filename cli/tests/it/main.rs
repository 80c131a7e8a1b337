//! The program itself, run as an operator runs it: what it prints, what it exits with, what it never says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acting;
mod auditing;
mod looking;
mod migrating;
mod parked;
mod refusing;
mod roles;
mod room;
mod sagas;
