//! The floor every service stands on: settings, telemetry, shutdown, database, health and HTTP.
//! It knows no message, no saga and no shop.
//!
//! **What passes here**: a process, from its command line to its exit status. The modules stand
//! in that order: settings are parsed ([`config`]), telemetry is installed ([`telemetry`]), tasks
//! run until a signal or a failure ([`shutdown`]), the database is reached ([`database`]), the
//! process says how it is ([`health`]) and answers requests ([`http`]). [`run`] holds the two ends.
//!
//! **Promised**: a wrong setting is one line and exit status 2. An unreachable database is a
//! line, a wait and a 503, never a crash loop. Every error answer is problem+json and names the
//! field. No secret and no payload reaches a log, an error page or a metric label.
//!
//! **Not promised**: nothing here is process-global but the two things that cannot be otherwise,
//! the log and the metrics recorder ([`telemetry::init`]); so several services may stand in one
//! process, each with its own settings, pool, readiness and tasks.
//!
//! **What if we die here**: nothing is kept here, so nothing is lost. The next process starts the
//! same tasks over the same rows.

pub mod config;
pub mod names;
pub mod telemetry;

pub mod shutdown;

pub mod database;
pub mod health;
pub mod http;

mod process;

pub use process::{Process, run};
