//! order-service: takes orders and steers the sagas that fulfil them.
//!
//! **What passes here**: an order over HTTP, into [`place_order`], which starts its saga
//! ([`fulfilment`]) in the same transaction; replies of participants on
//! [`topic::ORDER_REPLIES`] and timers, into the coordinator; the order's end, in the
//! transaction that ends its saga. **Promised**: an order exists if and only if its saga does; one
//! order per idempotency key; it ends confirmed, rejected with nothing left of it and a reason, or
//! abandoned because an operator said so.
//! **Not promised**: when. A saga past its point of no return goes on, and is parked for a person if
//! twenty attempts bring no answer, or ten rounds only refusals.
//!
//! **What if we die here**: each turn of a saga is one transaction. Replies come again, timers are
//! still due, and any replica takes them.

mod config;

mod http;

pub mod order;
pub mod place_order;

pub mod fulfilment;

mod finish_order;
mod samples;
mod table;

use std::sync::Arc;

use chassis::health::{self, Gate};
use chassis::http::OpenApiRouter;
use chassis::http::auth::Auth;
use chassis::shutdown::{Failed, Tasks};
use chassis::{Process, database, http as web};
use contracts::topic;
use dashboard::Dashboard;
use outbox::broker::{Broker, OnPoison, Topic};
use outbox::{Batched, incoming, service};
use saga::Coordinator;
use saga::http::Streams;
use saga::locks::Watch;
use saga::operator::Census;
use saga::operator::bulk::Bulks;
use saga::retention::Retention;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio_util::sync::CancellationToken;

pub use config::Config;
use fulfilment::Patience;

/// The service's name: in logs and metrics.
pub const NAME: &str = "order-service";

/// What it does, for whoever reads its API.
const ABOUT: &str = "Takes orders, and steers the sagas that fulfil them.";

/// The consumer of replies to sagas.
const SAGAS: &str = "order-service.sagas";

/// Connections for replies: a partition uses one at a time; more partitions than these take turns.
const REPLIES_CONNECTIONS: u32 = 8;

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
    let coordinator = coordinator(&config)?;
    let pool = database::pool(&settings.database_url, settings.database_connections, NAME);
    let readiness = service::readiness(&pool, &broker);
    let started = readiness.gate("start", "the database");
    let listening = readiness.gate("consumer", "the database");
    // Their own connection: who watches waits for nobody, and nobody for who watches.
    let own = database::pool(&settings.database_url, 1, "order-service streams");
    let streams = Streams::new(own);
    let app = app(pool.clone(), coordinator.clone(), streams.clone());
    let dashboard = dashboard(&config, app.clone());
    let router = web::gated(app.merge(dashboard.router()), &started)
        .merge(health::router(readiness, process.telemetry.metrics()));
    let router = web::described(NAME, ABOUT, env!("CARGO_PKG_VERSION"), router);
    let tasks = Tasks::new(NAME, process.shutdown);
    tasks.spawn(
        "http",
        web::serve_at(settings.listen, router, auth, tasks.shutdown().clone()),
    );
    let shutdown = tasks.shutdown();
    let streaming = streams.run(shutdown.clone());
    tasks.spawn("streams", after(&started, shutdown, streaming));
    let reading = dashboard.run(shutdown.clone());
    tasks.spawn("dashboard", after(&started, shutdown, reading));
    let steering = steer(
        config.clone(),
        coordinator,
        pool,
        broker,
        (started, listening),
        tasks.clone(),
    );
    tasks.spawn("sagas", steering);
    tasks.finish(settings.shutdown_timeout).await
}

/// Everything under `/v1`, described, without the guard that [`chassis::http::serve`] puts around it.
pub fn app(pool: PgPool, coordinator: Coordinator, streams: Streams) -> OpenApiRouter {
    http::router(pool, coordinator, streams)
}

/// The pages over that API.
pub fn dashboard(config: &Config, app: OpenApiRouter) -> Dashboard {
    let dashboard = Dashboard::new(NAME, app)
        .with_samples(samples::samples())
        .with_traces(config.traces_url.clone());
    let neighbours = config.dashboard_neighbours.iter();
    neighbours.fold(dashboard, |dashboard, neighbour| {
        dashboard.with_neighbour(neighbour.clone())
    })
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

/// Prepares database and broker, then runs what moves sagas, replies and timers, until the end.
async fn steer(
    config: Config,
    coordinator: Coordinator,
    pool: PgPool,
    broker: Arc<dyn Broker>,
    (started, listening): (Gate, Gate),
    tasks: Tasks,
) -> Result<(), outbox::Error> {
    // Commands and replies do not depend on order; one refused must not hold up a compensation.
    let topics = [
        (topic::PAYMENT_COMMANDS, OnPoison::SkipMessage),
        (topic::DELIVERY_COMMANDS, OnPoison::SkipMessage),
        (topic::ORDER_REPLIES, OnPoison::SkipMessage),
        (topic::ORDER_EVENTS, OnPoison::BlockKey),
    ];
    let topics = topics
        .map(|(name, on_poison)| Topic::new(name, config.topic_partitions).on_poison(on_poison));
    let (settings, shutdown) = (&config.settings, tasks.shutdown());
    if !service::prepare(
        settings,
        &pool,
        &[&outbox::MIGRATOR, &saga::MIGRATOR, &MIGRATOR],
        migrate(&pool),
        &started,
        shutdown,
    )
    .await?
    {
        return Ok(());
    }
    let registered = service::patiently(shutdown, "the saga could not be registered", || async {
        Ok(coordinator.register(&pool).await?)
    });
    if registered.await?.is_none() {
        return Ok(());
    }
    started.open();
    // A connection of their own: a crowd of requests must not hold up every saga's time.
    let own = database::pool(&settings.database_url, 1, "order-service timers");
    let timers = coordinator.timers(own).run(shutdown.clone());
    tasks.spawn("timers", forever(timers));
    // And theirs: an operation on ten thousand sagas is not a reason to be late.
    let own = database::pool(&settings.database_url, 1, "order-service bulks");
    let bulks = Bulks::new(coordinator.clone(), own).run(shutdown.clone());
    tasks.spawn("bulks", forever(bulks));
    // Housekeeping, which may be late: a connection that nobody else waits for.
    let own = database::pool(&settings.database_url, 1, "order-service housekeeping");
    let retention = Retention::new(own.clone(), config.saga_retention)?;
    tasks.spawn("retention", forever(retention.run(shutdown.clone())));
    tasks.spawn(
        "census",
        forever(Census::new(own.clone()).run(shutdown.clone())),
    );
    tasks.spawn("locks", forever(Watch::new(own).run(shutdown.clone())));
    // Nor must that crowd hold up what sagas are answered.
    let own = database::pool(
        &settings.database_url,
        REPLIES_CONNECTIONS,
        "order-service replies",
    );
    let replies = Batched(coordinator.replies());
    let consumer =
        outbox::Consumer::new(SAGAS, &[topic::ORDER_REPLIES], own, broker.clone(), replies);
    // Replies do not depend on order: a parked one must not hold up the others of its saga.
    let consumer = consumer.with(incoming::Config {
        on_poison: OnPoison::SkipMessage,
        audit_retention: Some(config.auth.audit_retention),
        ..incoming::Config::default()
    });
    service::consume(consumer, (&broker, &topics), listening, shutdown.clone()).await
}

/// A loop that begins when the service has started: before the migrations there is nothing to read.
fn after(
    started: &Gate,
    shutdown: &CancellationToken,
    looping: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<(), outbox::Error>> + Send + 'static {
    let (started, shutdown) = (started.clone(), shutdown.clone());
    async move {
        if shutdown
            .run_until_cancelled(started.opened())
            .await
            .is_some()
        {
            looping.await;
        }
        Ok(())
    }
}

/// A loop that ends only when it is told to.
async fn forever(looping: impl Future<Output = ()>) -> Result<(), outbox::Error> {
    looping.await;
    Ok(())
}

fn coordinator(config: &Config) -> Result<Coordinator, Failed> {
    let patience = Patience {
        timeout: config.step_timeout,
        attempts: config.step_attempts,
    };
    fulfilment::coordinator(patience, config.credit_limit).map_err(|error| Failed {
        task: "sagas".to_owned(),
        cause: error.into(),
    })
}
