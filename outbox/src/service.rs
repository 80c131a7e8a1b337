//! The start of a service with an outbox: readiness, then database, schema, broker. Only with the
//! feature `service`, which brings in the services' floor.
//!
//! **Promised**: from the first moment `/healthz` answers and `/readyz` says what is being waited
//! for. What is away is waited for with a log line for each try; what is wrong ends the process.

use std::{future::Future, sync::Arc, time::Duration};

use chassis::{
    config::Settings,
    database::{self, Waited},
    health::{Gate, Readiness},
};
use serde_json::json;
use sqlx::{
    PgPool,
    migrate::{Migrate, Migration, Migrator},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Consumer, Error, Handler,
    broker::{Broker, Topic},
    outgoing, telemetry,
};

/// How long to wait before the broker is asked again: at first, and at most.
const BROKER_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What readiness looks at: the database, the broker, and whether somebody relays our messages.
#[must_use]
pub fn readiness(pool: &PgPool, broker: &Arc<dyn Broker>) -> Readiness {
    let readiness = Readiness::new();
    readiness.add_database(pool);
    let broker = broker.clone();
    readiness.add("broker", move || {
        let broker = broker.clone();
        async move { broker.ping().await.map(|()| json!("answers")) }
    });
    let pool = pool.clone();
    readiness.add("lease", move || {
        let pool = pool.clone();
        async move {
            match outgoing::lease(&pool).await {
                Ok(Some(holder)) => Ok(json!({ "held_by": holder.owner })),
                Ok(None) => Err("no relay holds the lease of this outbox".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
    });
    readiness
}

/// Waits for the database, sees to its schema, waits for the broker, declares the topics (see
/// [`outgoing::declare`]). False if the process should end before all that is done.
///
/// `schemas` are those that `migrate` would run, so that an outdated one is noticed here and not by
/// the first message.
///
/// # Errors
///
/// [`Error::Migrate`], [`Error::Permanent`] when the schema is outdated and nobody asked for
/// migrations, and [`Error::Database`] when the service's user may not declare topics.
pub async fn prepare(
    settings: &Settings,
    pool: &PgPool,
    schemas: &[&Migrator],
    migrate: impl Future<Output = Result<(), Error>>,
    (broker, topics): (&Arc<dyn Broker>, &[Topic]),
    started: &Gate,
    shutdown: &CancellationToken,
) -> Result<bool, Error> {
    telemetry::describe_metrics();
    if database::wait_until_reachable(pool, shutdown).await == Waited::ShuttingDown {
        return Ok(false);
    }
    if settings.migrate {
        started.wait_for("migrations");
        migrate.await?;
    } else if !is_migrated(pool, schemas).await {
        let message = "the database's schema is missing or outdated: start once with --migrate";
        return Err(Error::permanent(message));
    }
    started.wait_for("the broker");
    let mut pause = BROKER_PAUSE.0;
    loop {
        let declaring = outgoing::declare(pool, &**broker, topics);
        match shutdown.run_until_cancelled(declaring).await {
            None => return Ok(false),
            Some(Ok(())) => break,
            Some(Err(error)) if !error.is_transient() => return Err(error),
            Some(Err(error @ Error::Database(_))) => {
                tracing::warn!(%error, retry_in = ?pause, "the topics could not be noted");
            }
            Some(Err(error)) => {
                tracing::warn!(%error, retry_in = ?pause, "the broker is unreachable");
            }
        }
        let waited = shutdown.run_until_cancelled(tokio::time::sleep(pause));
        if waited.await.is_none() {
            return Ok(false);
        }
        pause = (pause * 2).min(BROKER_PAUSE.1);
    }
    Ok(true)
}

/// Runs a consumer until the shutdown, and opens the gate when it has joined its group: a service
/// that cannot hear is not ready.
///
/// # Errors
///
/// As [`Consumer::run`].
pub async fn consume<H: Handler>(
    consumer: Consumer<H>,
    started: Gate,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    started.wait_for("the consumer group");
    let mut joined = consumer.joined();
    let mut running = std::pin::pin!(consumer.run(shutdown));
    tokio::select! {
        ended = &mut running => return ended,
        _ = joined.wait_for(|joined| *joined) => started.open(),
    }
    running.await
}

/// Whether every migration of these schemas is applied. Where that cannot be read it is not: the
/// database answered a moment ago.
pub async fn is_migrated(pool: &PgPool, schemas: &[&Migrator]) -> bool {
    let Ok(mut connection) = pool.acquire().await else {
        return false;
    };
    for schema in schemas {
        let applied = connection.list_applied_migrations(&schema.table_name).await;
        let Ok(applied) = applied else { return false };
        let is_applied =
            |needed: &Migration| applied.iter().any(|done| done.version == needed.version);
        if !schema.iter().all(is_applied) {
            return false;
        }
    }
    true
}
