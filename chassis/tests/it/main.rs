//! The floor, tried from outside.

#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has said what it has to say"
)]

mod auth;
mod extractors;
mod guard;
mod jwt;
mod jwt_keys;
mod pool;
mod process;
mod readiness;
mod request;
mod secret_files;
mod serving;
mod settings;
mod shutdown;
mod telemetry;
