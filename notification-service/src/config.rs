//! Settings of notification-service.

use chassis::config::Settings;
use chassis::http::auth;

/// Records what customers would be told about their orders.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "notification-service",
    version,
    mut_arg("listen", |listen| listen.required(false).default_value("127.0.0.1:8084"))
)]
pub struct Config {
    /// What every service has.
    #[command(flatten)]
    pub settings: Settings,

    /// Who may call.
    #[command(flatten)]
    pub auth: auth::Settings,

    /// How many partitions the topics get that this service creates at start; topics that exist
    /// stay as they are. The upper bound of what replicas can do at the same time.
    #[arg(
        long,
        env = "TOPIC_PARTITIONS",
        value_name = "COUNT",
        default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    pub topic_partitions: u16,
}
