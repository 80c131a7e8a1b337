//! The testbed, on real servers.

mod kafka;
mod postgres;
mod processes;
mod until;
