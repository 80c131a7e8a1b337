//! notification-service: records what customers would be told about their orders.
//!
//! **What passes here**: events on [`topic::ORDER_EVENTS`], each through the inbox into
//! [`OrderEvents`]; questions of people over HTTP. It depends on no saga: nobody commands it and
//! nobody waits for it. **Promised**: one notification per event, whatever is delivered twice.
//! **Not promised**: that anything is sent.
//!
//! **What if we die here**: an event and its notification are one transaction. It comes again.

mod config;

mod http;

pub mod notification;

mod events;
mod table;

use std::sync::Arc;

use chassis::health::{self, Gate};
use chassis::http::OpenApiRouter;
use chassis::http::auth::Auth;
use chassis::shutdown::{Failed, Tasks};
use chassis::{Process, database, http as web};
use contracts::topic;
use outbox::broker::{Broker, Topic};
use outbox::{incoming, service};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use events::OrderEvents;

/// The service's name: in logs and metrics, and as a consumer.
pub const NAME: &str = "notification-service";

/// What it does, for whoever reads its API.
const ABOUT: &str = "Tells customers what became of their orders.";

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
    tasks.spawn("events", consuming);
    tasks.finish(settings.shutdown_timeout).await
}

/// Everything under `/v1`, described, without the guard that [`chassis::http::serve`] puts around it.
pub fn app(pool: PgPool) -> OpenApiRouter {
    http::router(pool)
}

/// Brings the service's database up to date: the pipe's schema and its own.
///
/// # Errors
///
/// When the database is away or has another history than these migrations.
pub async fn migrate(pool: &PgPool) -> Result<(), outbox::Error> {
    outbox::migrate(pool).await?;
    outbox::run_migrations(pool, &MIGRATOR).await
}

/// Prepares database and broker, then handles events until the end.
async fn consume(
    config: Config,
    pool: PgPool,
    broker: Arc<dyn Broker>,
    (started, listening): (Gate, Gate),
    shutdown: CancellationToken,
) -> Result<(), outbox::Error> {
    let topics = [Topic::new(topic::ORDER_EVENTS, config.topic_partitions)];
    let settings = &config.settings;
    if !service::prepare(
        settings,
        &pool,
        &[&outbox::MIGRATOR, &MIGRATOR],
        migrate(&pool),
        &started,
        &shutdown,
    )
    .await?
    {
        return Ok(());
    }
    started.open();
    let consumer = outbox::Consumer::new(
        NAME,
        &[topic::ORDER_EVENTS],
        pool,
        broker.clone(),
        OrderEvents,
    );
    let consumer = consumer.with(incoming::Config {
        audit_retention: Some(config.auth.audit_retention),
        ..incoming::Config::default()
    });
    service::consume(consumer, (&broker, &topics), listening, shutdown).await
}
