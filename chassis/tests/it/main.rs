//! The floor, tried from outside.

#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has said what it has to say"
)]

mod extractors;
mod guard;
mod pool;
mod process;
mod readiness;
mod request;
mod serving;
mod settings;
mod shutdown;
mod telemetry;
