//! The testbed, on real servers.

mod kafka;
mod postgres;
mod processes;
mod run_tests;
mod until;
