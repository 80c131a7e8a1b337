//! The settings every service has.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::values::{
    DatabaseUrl, KafkaBrokers, LogFilter, LogFormat, kafka_member, positive_duration,
};

/// The settings every service has, to be flattened into a service's own.
///
/// `--listen` has no default here because each service has its own port. Give it beside the
/// flattened field:
///
/// ```
/// #[derive(Debug, Clone, clap::Parser)]
/// #[command(version, mut_arg("listen", |listen| listen.required(false).default_value("127.0.0.1:8082")))]
/// struct Config {
///     #[command(flatten)]
///     settings: chassis::config::Settings,
/// }
/// # use clap::Parser;
/// # let arguments = ["payments", "--database-url", "postgres://localhost/p", "--kafka-brokers", "localhost:9092"];
/// # assert_eq!(Config::parse_from(arguments).settings.listen.port(), 8082);
/// ```
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Where the service's database is: `postgres://user:password@host:port/database`. The
    /// password is never printed; `PGPASSFILE` is honoured. `DATABASE_URL_FILE` names a file that holds it.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: DatabaseUrl,

    /// How many connections the service's pool may open. Each costs the server a process; too
    /// few make requests wait and then answer 503. Loops such as the relay open their own besides.
    #[arg(
        long,
        env = "DATABASE_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub database_connections: u32,

    /// Run the service's migrations before anything else. Without it an outdated schema is an
    /// error at start.
    #[arg(long, env = "MIGRATE", value_parser = clap::builder::BoolishValueParser::new())]
    pub migrate: bool,

    /// The Kafka brokers to begin with: `host:port`, several separated by commas.
    /// `KAFKA_BROKERS_FILE` names a file that holds them.
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT,…")]
    pub kafka_brokers: KafkaBrokers,

    /// A name for this process among its replicas that stays when it is started anew, such as a
    /// pod's of a StatefulSet. Killed and back again it takes up its partitions at once instead of
    /// after six seconds; stopped for good it is missed only then. No two may share one.
    #[arg(long, env = "KAFKA_MEMBER", value_name = "NAME", value_parser = kafka_member)]
    pub kafka_member: Option<String>,

    /// The address and port to answer HTTP on. On others than loopback a service wants to know who
    /// calls. Port 0 takes any free one.
    #[arg(long, env = "LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// How long tasks may take to end after a SIGTERM, such as `10s` or `500ms`. What is still
    /// running then is cut off, which loses nothing but time.
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    pub shutdown_timeout: Duration,

    /// How log lines look: `text` for eyes, `json` for machines, `auto` picks text on a terminal.
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value = "auto"
    )]
    pub log_format: LogFormat,

    /// What is logged, in the language of RUST_LOG: `info`, `warn,outbox=debug`. Traces and
    /// metrics do not depend on it.
    #[arg(
        long,
        env = "RUST_LOG",
        value_name = "DIRECTIVES",
        default_value = "info"
    )]
    pub log: LogFilter,
}
