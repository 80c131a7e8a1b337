//! Settings of payment-service.

use chassis::config::Settings;

/// Authorizes, captures and releases money, and keeps a ledger that sums to zero.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "payment-service",
    version,
    mut_arg("listen", |listen| listen.required(false).default_value("127.0.0.1:8082"))
)]
pub struct Config {
    /// What every service has.
    #[command(flatten)]
    pub settings: Settings,

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
