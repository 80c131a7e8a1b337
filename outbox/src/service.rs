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
    Connection, PgConnection, PgPool,
    migrate::{Migrate, MigrateError, Migration, Migrator},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Consumer, Error, Handler,
    broker::{Broker, Topic},
    operator::Census,
    outgoing, telemetry,
};

/// How long to wait before something is tried again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

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
    } else if !check_schema(pool, schemas, shutdown).await? {
        return Ok(false);
    }
    started.wait_for("the broker");
    let declared = patiently(shutdown, "the topics could not be declared", || {
        outgoing::declare(pool, &**broker, topics)
    });
    Ok(declared.await?.is_some())
}

/// Does something that a start needs, again and again while only the database or the broker stand in
/// its way: away, busy, out of connections. None if the process should end before it is done.
///
/// # Errors
///
/// What no waiting heals.
pub async fn patiently<T, Attempt>(
    shutdown: &CancellationToken,
    complaint: &str,
    mut attempt: impl FnMut() -> Attempt,
) -> Result<Option<T>, Error>
where
    Attempt: Future<Output = Result<T, Error>>,
{
    let mut pause = PAUSE.0;
    loop {
        match shutdown.run_until_cancelled(attempt()).await {
            None => return Ok(None),
            Some(Ok(done)) => return Ok(Some(done)),
            Some(Err(error)) if !error.is_transient() => return Err(error),
            Some(Err(error @ Error::Broker(_))) => {
                tracing::warn!(%error, retry_in = ?pause, "the broker is unreachable");
            }
            Some(Err(error)) => tracing::warn!(%error, retry_in = ?pause, "{complaint}"),
        }
        let waited = shutdown.run_until_cancelled(tokio::time::sleep(pause));
        if waited.await.is_none() {
            return Ok(None);
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Runs a consumer until the shutdown, and counts beside it what is [parked](Census). Opens the gate
/// when the consumer has joined its group: a service that cannot hear is not ready.
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
    let census = Census::new(consumer.pool().clone()).run(shutdown.clone());
    let pool = database::watch(consumer.pool().clone(), shutdown.clone());
    let running = async {
        // They end with the consumer, and end nothing.
        let counting = async {
            tokio::join!(census, pool);
            std::future::pending().await
        };
        tokio::select! {
            ended = consumer.run(shutdown) => ended,
            never = counting => never,
        }
    };
    let mut running = std::pin::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = joined.wait_for(|joined| *joined) => started.open(),
    }
    running.await
}

/// Makes sure that every migration of these schemas is applied. False if the process should end
/// before that is known.
///
/// # Errors
///
/// [`Error::Permanent`] when one is not.
pub async fn check_schema(
    pool: &PgPool,
    schemas: &[&Migrator],
    shutdown: &CancellationToken,
) -> Result<bool, Error> {
    let applied = patiently(shutdown, "the schema could not be looked at", || {
        is_migrated(pool, schemas)
    });
    match applied.await? {
        None => Ok(false),
        Some(true) => Ok(true),
        Some(false) => {
            let message = "the database's schema is missing or outdated: start once with --migrate";
            Err(Error::permanent(message))
        }
    }
}

/// On a connection of its own: requests that wait for the pool of a service which is not ready say
/// nothing about its schema.
async fn is_migrated(pool: &PgPool, schemas: &[&Migrator]) -> Result<bool, Error> {
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    let migrated = are_applied(&mut connection, schemas).await;
    // Whether the goodbye arrives does not matter.
    let _ = connection.close().await;
    migrated
}

/// A table that is not there is no error.
async fn are_applied(connection: &mut PgConnection, schemas: &[&Migrator]) -> Result<bool, Error> {
    for schema in schemas {
        let applied = connection.list_applied_migrations(&schema.table_name).await;
        let applied = match applied {
            Ok(applied) => applied,
            Err(MigrateError::Execute(error)) if database::is_outage(&error) => {
                return Err(error.into());
            }
            Err(_) => return Ok(false),
        };
        let is_applied =
            |needed: &Migration| applied.iter().any(|done| done.version == needed.version);
        if !schema.iter().all(is_applied) {
            return Ok(false);
        }
    }
    Ok(true)
}
