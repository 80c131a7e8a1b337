//! delivery-service: takes a place for an order's parcel, then gives it to the carrier.
//!
//! **What passes here**: commands of sagas on [`topic::DELIVERY_COMMANDS`], each through the
//! barrier into [`participant`]; questions of people over HTTP. **Promised**: an order is delivered
//! once; a day takes no more parcels than it has room for; a cancelled delivery gives its place
//! back. **Not promised**: anything about real carriers: the carrier is simulated and answers by
//! the postcode alone.
//!
//! **What if we die here**: a command and everything it did are one transaction. It comes again.

mod config;

mod http;

pub mod carrier;
pub mod delivery;

mod commands;
mod table;

use std::sync::Arc;

use chassis::health::{self, Gate};
use chassis::http::OpenApiRouter;
use chassis::http::auth::Auth;
use chassis::shutdown::{Failed, Tasks};
use chassis::{Process, database, http as web};
use contracts::topic;
use outbox::broker::{Broker, OnPoison, Topic};
use outbox::{Batched, incoming, service};
use saga::participant::retention;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio_util::sync::CancellationToken;

pub use commands::participant;
pub use config::Config;

/// The service's name: in logs and metrics, and as a consumer.
pub const NAME: &str = "delivery-service";

/// What it does, for whoever reads its API.
const ABOUT: &str = "Gives an order its day, and hands the parcel to the carrier.";

static MIGRATOR: Migrator = sqlx::migrate!();

/// Runs the service until the process should end or a part of it fails. Callers are those whom `auth`
/// lets in.
///
/// # Errors
///
/// The part that failed. An unreachable database or broker is no failure: it is waited for.
pub async fn run(
    config: Config,
    auth: Auth,
    broker: Arc<dyn Broker>,
    process: Process,
) -> Result<(), Failed> {
    let settings = &config.settings;
    let pool = database::pool(&settings.database_url, settings.database_connections, NAME);
    let readiness = service::readiness(&pool, &broker);
    let started = readiness.gate("start", "the database");
    let listening = readiness.gate("consumer", "the database");
    let router = web::gated(app(pool.clone()), &started);
    let router = router.merge(health::router(readiness, process.telemetry.metrics()));
    let router = web::described(NAME, ABOUT, env!("CARGO_PKG_VERSION"), router);
    let tasks = Tasks::new(NAME, process.shutdown);
    let shutdown = tasks.shutdown();
    tasks.spawn(
        "http",
        web::serve_at(settings.listen, router, auth, shutdown.clone()),
    );
    let consuming = consume(
        config.clone(),
        pool,
        broker,
        (started, listening),
        shutdown.clone(),
    );
    tasks.spawn("commands", consuming);
    tasks.finish(settings.shutdown_timeout).await
}

/// Everything under `/v1`, described, without the guard that [`chassis::http::serve`] puts around it.
pub fn app(pool: PgPool) -> OpenApiRouter {
    http::router(pool)
}

/// Brings the service's database up to date: the pipe's schema, the sagas' and its own.
///
/// # Errors
///
/// When the database is away or has another history than these migrations.
pub async fn migrate(pool: &PgPool) -> Result<(), outbox::Error> {
    outbox::migrate(pool).await?;
    saga::migrate(pool).await?;
    outbox::run_migrations(pool, &MIGRATOR).await
}

/// Prepares database and broker, then handles commands until the end.
async fn consume(
    config: Config,
    pool: PgPool,
    broker: Arc<dyn Broker>,
    (started, listening): (Gate, Gate),
    shutdown: CancellationToken,
) -> Result<(), outbox::Error> {
    let topics = [topic::DELIVERY_COMMANDS, topic::ORDER_REPLIES];
    // Commands and replies do not depend on order; one refused must not hold up a compensation.
    let topics = topics
        .map(|name| Topic::new(name, config.topic_partitions).on_poison(OnPoison::SkipMessage));
    let settings = &config.settings;
    if !service::prepare(
        settings,
        &pool,
        &[&outbox::MIGRATOR, &saga::MIGRATOR, &MIGRATOR],
        migrate(&pool),
        &started,
        &shutdown,
    )
    .await?
    {
        return Ok(());
    }
    started.open();
    let batches = incoming::Config {
        batch: saga::participant::MAX_BATCH,
        // Commands do not depend on order: the barrier sees to it.
        on_poison: OnPoison::SkipMessage,
        audit_retention: Some(config.auth.audit_retention),
        ..incoming::Config::default()
    };
    let consumer = outbox::Consumer::new(
        NAME,
        &[topic::DELIVERY_COMMANDS],
        pool.clone(),
        broker.clone(),
        Batched(participant()),
    )
    .with(batches);
    let forgetting = retention::run(pool, config.barrier_retention, shutdown.clone());
    let consuming = service::consume(consumer, (&broker, &topics), listening, shutdown);
    tokio::try_join!(consuming, async { Ok(forgetting.await?) })?;
    Ok(())
}
