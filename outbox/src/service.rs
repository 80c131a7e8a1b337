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

/// What readiness looks at: the database, the broker, and whether somebody relays our messages. Asked on a
/// connection of its own, so that a crowd of requests does not look like a dead service.
#[must_use]
pub fn readiness(pool: &PgPool, broker: &Arc<dyn Broker>) -> Readiness {
    let readiness = Readiness::new();
    let own = database::own(pool, "readiness");
    readiness.add_database(pool, &own);
    let broker = broker.clone();
    readiness.add("broker", move || {
        let broker = broker.clone();
        async move { broker.ping().await.map(|()| json!("answers")) }
    });
    readiness.add("lease", move || {
        let own = own.clone();
        async move {
            match outgoing::lease(&own).await {
                Ok(Some(holder)) => Ok(json!({ "held_by": holder.owner })),
                Ok(None) => Err("no relay holds the lease of this outbox".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
    });
    readiness
}

/// Waits for the database and sees to its schema. False if the process should end before that is done.
/// The broker is not asked: what needs only the database begins after this, whatever becomes of the broker.
///
/// `schemas` are those that `migrate` would run, so that an outdated one is noticed here and not by
/// the first message.
///
/// # Errors
///
/// [`Error::Migrate`], and [`Error::Permanent`] when the schema is outdated and nobody asked for
/// migrations.
pub async fn prepare(
    settings: &Settings,
    pool: &PgPool,
    schemas: &[&Migrator],
    migrate: impl Future<Output = Result<(), Error>>,
    started: &Gate,
    shutdown: &CancellationToken,
) -> Result<bool, Error> {
    telemetry::describe_metrics();
    if database::wait_until_reachable(pool, shutdown).await == Waited::ShuttingDown {
        return Ok(false);
    }
    if !settings.migrate {
        return check_schema(pool, schemas, shutdown).await;
    }
    started.wait_for("migrations");
    // Cut off, the server takes back what the migration at work has done.
    match shutdown.run_until_cancelled(migrate).await {
        Some(migrated) => migrated.map(|()| true),
        None => Ok(false),
    }
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

/// Declares topics as soon as the broker is there (see [`outgoing::declare`]), then runs a consumer until the
/// shutdown, and counts beside it what is [parked](Census). Opens the gate when the consumer has joined its
/// group: a service that cannot hear is not wholly ready, though it answers requests.
///
/// # Errors
///
/// As [`Consumer::run`], and [`Error::Database`] when the service's user may not declare topics.
pub async fn consume<H: Handler>(
    consumer: Consumer<H>,
    (broker, topics): (&Arc<dyn Broker>, &[Topic]),
    listening: Gate,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    listening.wait_for("the broker");
    let pool = consumer.pool().clone();
    let declared = patiently(&shutdown, "the topics could not be declared", || {
        outgoing::declare(&pool, &**broker, topics)
    });
    if declared.await?.is_none() {
        return Ok(());
    }
    listening.wait_for("the consumer group");
    let mut joined = consumer.joined();
    let census = Census::new(pool).run(shutdown.clone());
    let running = async {
        // It ends with the consumer, and ends nothing.
        let counting = async {
            census.await;
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
        _ = joined.wait_for(|joined| *joined) => listening.open(),
    }
    running.await
}

/// Makes sure that every migration of these schemas is applied. False if the process should end
/// before that is known.
///
/// # Errors
///
/// [`Error::Permanent`] when one is not, or when that may not be looked at.
pub async fn check_schema(
    pool: &PgPool,
    schemas: &[&Migrator],
    shutdown: &CancellationToken,
) -> Result<bool, Error> {
    let wrong = patiently(shutdown, "the schema could not be looked at", || {
        what_is_wrong(pool, schemas)
    });
    match wrong.await? {
        None => Ok(false),
        Some(None) => Ok(true),
        Some(Some(wrong)) => Err(Error::permanent(wrong)),
    }
}

/// On a connection of its own: requests that wait for the pool of a service which is not ready say
/// nothing about its schema.
async fn what_is_wrong(pool: &PgPool, schemas: &[&Migrator]) -> Result<Option<String>, Error> {
    let options = pool.connect_options();
    let mut connection = PgConnection::connect_with(&options).await?;
    let mut wrong = Ok(None);
    for schema in schemas {
        wrong = what_is_wrong_with(&mut connection, schema, options.get_username()).await;
        if !matches!(wrong, Ok(None)) {
            break;
        }
    }
    // Whether the goodbye arrives does not matter.
    let _ = connection.close().await;
    wrong
}

async fn what_is_wrong_with(
    connection: &mut PgConnection,
    migrator: &Migrator,
    user: &str,
) -> Result<Option<String>, Error> {
    let table = &*migrator.table_name;
    let schema = table.split('.').next().unwrap_or(table);
    let remedy =
        format!("run `recompense migrate --schema {schema}`, or start once with --migrate");
    let applied = match connection.list_applied_migrations(table).await {
        Ok(applied) => applied,
        Err(MigrateError::Execute(error)) => {
            let code = error.as_database_error().and_then(|error| error.code());
            return match code.as_deref() {
                // No such table, no such schema.
                Some("42P01" | "3F000") => Ok(Some(format!(
                    "the schema {schema} is missing in the database: {remedy}"
                ))),
                Some("42501") => Ok(Some(format!(
                    "the user {user} of --database-url may not read {table}, so whether the schema {schema} is up to \
                     date cannot be seen: grant {user} USAGE on the schema and SELECT on that table"
                ))),
                _ => Err(error.into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let is_missing =
        |needed: &&Migration| !applied.iter().any(|done| done.version == needed.version);
    let missing = migrator.iter().find(is_missing).map(|needed| {
        let (version, description) = (needed.version, &needed.description);
        format!(
            "the schema {schema} is outdated: migration {version} ({description}) was not applied; {remedy}"
        )
    });
    Ok(missing)
}
