//! delivery-service against a real Postgres: commands through the barrier, questions over HTTP.

mod asking;
mod commands;
mod conformance;
mod room;
