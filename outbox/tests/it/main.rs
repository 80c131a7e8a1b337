//! The pipe on real servers: each promise met by a test that tries to break it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auditing;
mod blocking;
mod catching_up;
mod consuming;
mod doors;
mod enqueueing;
mod example;
mod http;
mod inbox_parking;
mod inbox_retention;
mod leading;
mod limits;
mod migrating;
mod observing;
mod offsets;
mod operating;
mod ordering;
mod parking;
mod partitions;
mod plans;
mod reading;
mod roles;
mod scripted;
mod sick_rows;
mod starting;
mod trials;
mod upgrading;
mod watchdog;
mod world;
