//! The testbed, on real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kafka;
mod postgres;
mod processes;
mod run_tests;
mod until;
