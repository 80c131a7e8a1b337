//! Starts the real thing: PostgreSQL and Apache Kafka servers, and the shop's own processes.
//!
//! *What passes here*: the address of a server that answers, and a handle to hurt it (kill -9, suspend, start again).
//! *Promised*: whatever is started ends with the process that started it, however that one ends; data is thrown away;
//! nothing here needs containers, root, or a fixed port. *Not promised*: durability, unless a server is asked to be durable.
//!
//! A test says `testbed::postgres().await` and `testbed::kafka().await`. Under `testbed run` these are the servers that it
//! started for the whole run; otherwise one of each is started for the test's process when first asked for.
//!
//! | variable | meaning |
//! |---|---|
//! | `TESTBED_POSTGRES_URL` | use this Postgres server (a superuser) as the shared one |
//! | `TESTBED_KAFKA` | use this broker (`host:port`) as the shared one |
//! | `TESTBED_POSTGRES` | which server binaries: `archive`, or a folder that holds `postgres` and `initdb` |
//! | `TRIALS`, `TRIALS_SEED` | `long` fault trials, and the seed to replay one: see [`trials()`] |
//! | `RECOMPENSE_CACHE` | where downloaded servers and tools are kept, instead of the user's cache folder, `target/kafka` and `target/tools` |

// What everything stands on.
mod folder;
mod http;
mod port;
mod signal;
mod until;
mod watchdog;

mod child;

// The servers.
pub mod kafka;
pub mod postgres;

mod shared;

mod database;

// Our own programs.
pub mod process;

pub mod shop;

// What people reach them by.
pub mod gateway;

// What they say of themselves.
pub mod collector;

// How faults are tried.
pub mod trials;

pub use database::Database;
pub use folder::{target as target_folder, tool};
pub use gateway::Gateway;
pub use http::http;
pub use kafka::Kafka;
pub use port::{free_port, port_is_free};
pub use postgres::Postgres;
pub use process::Process;
pub use shared::{kafka, postgres};
pub use shop::Shop;
pub use signal::{command_line, signal};
pub use trials::trials;
pub use until::{until, wait_for};
