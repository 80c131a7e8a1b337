//! What the outside sees: spans that arrive at a collector, metrics, log lines; and that none of them
//! ever shows what a message holds.
//!
//! Telemetry is one per process, so each test here runs its scenario in a child: this binary once
//! more, with `OTEL_*` variables of its own.

mod child;
mod metrics;
mod parked;
mod traces;
mod trouble;
