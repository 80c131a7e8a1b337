//! The servers that all tests of a process share.
//!
//! Under `testbed run` these are its servers, for every test process alike. Otherwise each process starts its own when it
//! first asks. They are never dropped, as statics are not: the watchdog ends them with the process.

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::{Kafka, Postgres};

/// The variable that names the shared Postgres server.
pub(crate) const POSTGRES_VARIABLE: &str = "TESTBED_POSTGRES_URL";
/// The variable that names the shared broker.
pub(crate) const KAFKA_VARIABLE: &str = "TESTBED_KAFKA";

/// The shared Postgres server: fast, not durable. A test that kills a server starts one of its own.
///
/// # Panics
/// If it cannot be started, with the reason.
pub async fn postgres() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    let server = SHARED
        .get_or_try_init(|| Postgres::from_env_or_start(POSTGRES_VARIABLE))
        .await;
    server.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The shared broker. A test that kills or suspends a broker starts one of its own.
///
/// # Panics
/// If it cannot be started, with the reason.
pub async fn kafka() -> &'static Kafka {
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    let broker = SHARED.get_or_try_init(kafka_from_env_or_start).await;
    broker.unwrap_or_else(|error| panic!("{error:#}"))
}

async fn kafka_from_env_or_start() -> Result<Kafka> {
    match std::env::var(KAFKA_VARIABLE) {
        Ok(bootstrap) if !bootstrap.is_empty() => Ok(Kafka::existing(&bootstrap)),
        _ => Kafka::start().await,
    }
}
