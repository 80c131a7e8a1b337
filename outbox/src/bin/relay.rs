//! The relay as a program of its own, beside a service: settings, probes and logs around
//! [`outbox::Relay`]. Start it twice and the second stands by.

use std::{process::ExitCode, sync::Arc, time::Duration};

use chassis::{
    Process,
    config::{Settings, duration},
    database::{self, Waited},
    health::{self, Readiness},
    http::{self, auth::Auth},
    shutdown::Tasks,
};
use outbox::{
    Relay,
    broker::{Broker, Kafka},
    outgoing::{Config, Profile, Source, Status},
    service,
};
use tokio::sync::watch;

const NAME: &str = "relay";
const ABOUT: &str = "Sends what services enqueue to Kafka.";

/// Carries committed messages from a database's outbox to Kafka. Several may run for one database:
/// one leads, the others stand by.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "relay",
    version,
    mut_arg("listen", |listen| listen.required(false).default_value("127.0.0.1:9080")),
    mut_arg("database_connections", |connections| connections.default_value("2"))
)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,

    /// The CloudEvents `source` of every message: who says so, as a URI reference of at most 255 bytes.
    #[arg(long, env = "SOURCE", value_name = "URI", default_value = "/outbox")]
    source: Source,

    /// How long a leader may be silent before a standby takes over. Shorter means faster take-over
    /// and more false alarms on a starved machine; those cost duplicates, never messages.
    #[arg(long, env = "LEASE", value_name = "DURATION", default_value = "1500ms", value_parser = lease)]
    lease: Duration,

    /// What is dear: `low-latency` sends at once and looks at the log all the time; `balanced`
    /// takes some milliseconds and works little when idle; `throughput` makes larger batches, of
    /// tens of milliseconds, in up to twice the memory.
    #[arg(long, env = "PROFILE", value_name = "NAME", default_value_t)]
    profile: Profile,

    /// How long a record may wait for others to share its batch, in milliseconds, instead of what
    /// the profile says. 0 is quickest for single messages; batches form under load all the same.
    #[arg(long, env = "LINGER_MS", value_name = "MILLISECONDS", value_parser = linger)]
    linger_ms: Option<f64>,
}

/// Below, a leader could not renew in time on a busy machine; above, a crash stops the flow.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if (Duration::from_millis(300)..=Duration::from_secs(60)).contains(&lease) {
        Ok(lease)
    } else {
        Err("must be between 300ms and 60s".to_owned())
    }
}

/// Within what the client accepts; more than a second would only delay.
fn linger(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(linger) if (0.0..=1000.0).contains(&linger) => Ok(linger),
        _ => Err("must be a number from 0 to 1000".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = chassis::config::parse();
    let settings = arguments.settings.clone();
    chassis::run(NAME, &settings, async |process| {
        run(arguments, process).await
    })
}

async fn run(arguments: Arguments, process: Process) -> anyhow::Result<()> {
    let Process {
        telemetry,
        shutdown,
    } = process;
    let settings = arguments.settings;
    let pool = database::pool(&settings.database_url, settings.database_connections, NAME);
    let broker: Arc<dyn Broker> = Arc::new(Kafka::new(settings.kafka_brokers.to_string())?);
    let mut config = Config {
        source: arguments.source,
        lease: arguments.lease,
        ..Config::of(arguments.profile)
    };
    if let Some(linger_ms) = arguments.linger_ms {
        config.tuning.linger_ms = linger_ms;
    }
    let relay = Relay::new(
        settings.database_url.options().clone(),
        Arc::clone(&broker),
        config,
    );

    let readiness = Readiness::new();
    readiness.add_database(&pool, &database::own(&pool, "readiness"));
    readiness.add("broker", move || {
        let broker = Arc::clone(&broker);
        async move { broker.ping().await.map(|()| "answers".into()) }
    });
    let status = relay.status();
    readiness.add("lease", move || {
        let status = status.clone();
        async move { role(&status) }
    });
    let router = health::router(readiness, telemetry.metrics());
    // Nothing but probes, figures and their description: everybody's, so nobody is asked who he is.
    let router = http::described(NAME, ABOUT, env!("CARGO_PKG_VERSION"), router);

    let tasks = Tasks::new(NAME, shutdown.clone());
    tasks.spawn(
        "http",
        http::serve_at(settings.listen, router, Auth::open(), shutdown.clone()),
    );
    tasks.spawn("relay", async move {
        if database::wait_until_reachable(&pool, &shutdown).await == Waited::ShuttingDown {
            return Ok(());
        }
        if settings.migrate {
            outbox::migrate(&pool).await?;
        } else if !service::check_schema(&pool, &[&outbox::MIGRATOR], &shutdown).await? {
            return Ok(());
        }
        relay.run(shutdown).await
    });
    Ok(tasks.finish(settings.shutdown_timeout).await?)
}

/// Ready is who leads and gets acknowledgements, and who could take over at once.
fn role(status: &watch::Receiver<Status>) -> Result<serde_json::Value, String> {
    match &*status.borrow() {
        Status::Leading => Ok("leading".into()),
        Status::Paused => Ok("leading, paused by an operator".into()),
        Status::Standby => Ok("standby".into()),
        Status::Stalled => Err("leading, but the broker acknowledges nothing".to_owned()),
        Status::Disconnected(why) => Err(format!("no database session that works: {why}")),
    }
}
