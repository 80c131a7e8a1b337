//! The pipe on real servers: each promise met by a test that tries to break it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod consuming;
mod enqueueing;
mod leading;
mod operating;
mod ordering;
mod parking;
mod partitions;
mod plans;
mod world;
