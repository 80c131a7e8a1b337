//! Settings of payment-service.

use std::time::Duration;

use chassis::config::{Settings, duration};
use chassis::http::auth;

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

    /// How long the barrier remembers an operation after it was answered. Must be longer than the
    /// 24 h for which a command may be begun; longer than the longest time a saga waits for a
    /// person, or what comes for it afterwards needs one as well. Costs a row of some hundred bytes
    /// for each operation.
    #[arg(
        long,
        env = "BARRIER_RETENTION",
        value_name = "DURATION",
        default_value = "15d",
        value_parser = outlives_commands
    )]
    pub barrier_retention: Duration,
}

/// What a command is answered from must be there for as long as it may be begun.
fn outlives_commands(text: &str) -> Result<Duration, String> {
    let expiry = saga::participant::COMMAND_EXPIRY;
    match duration(text)? {
        time if time <= expiry => Err(format!(
            "must be longer than the {} h for which a command may be begun",
            expiry.as_secs() / 3600
        )),
        time => Ok(time),
    }
}
