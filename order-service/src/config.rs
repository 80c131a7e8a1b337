//! Settings of order-service.

use std::time::Duration;

use chassis::config::{Refusal, Settings, positive_duration};
use chassis::http::auth::{self, is_this_machine};
use dashboard::Neighbour;

/// Takes orders and steers their sagas: payment, delivery, carrier.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "order-service",
    version,
    mut_arg("listen", |listen| listen.required(false).default_value("127.0.0.1:8081"))
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

    /// How long a participant may take to answer one attempt at a step, such as `10s`. Shorter
    /// turns an order back sooner when a participant is away; too short, and slow answers come
    /// after their step was given up.
    #[arg(
        long,
        env = "STEP_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = attempt
    )]
    pub step_timeout: Duration,

    /// How often a step that can be undone is asked for before its outcome counts as unknown and
    /// the order turns back. Steps from the capture on are asked for twenty times, then the
    /// saga is parked for a person.
    #[arg(
        long,
        env = "STEP_ATTEMPTS",
        value_name = "COUNT",
        default_value_t = 2,
        value_parser = clap::value_parser!(i32).range(1..=100)
    )]
    pub step_attempts: i32,

    /// How much a customer's open orders may come to together, in minor units of their currency.
    /// An order that would exceed it waits until others have ended; one that exceeds it alone is
    /// rejected. Changed, it counts from the next order on.
    #[arg(
        long,
        env = "CREDIT_LIMIT",
        value_name = "AMOUNT",
        default_value_t = 10_000_000,
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub credit_limit: i64,

    /// How long sagas are kept after their end, with their history, such as `30d`.
    #[arg(
        long,
        env = "SAGA_RETENTION",
        value_name = "DURATION",
        default_value = "30d",
        value_parser = positive_duration
    )]
    pub saga_retention: Duration,

    /// Services whose parked messages the dashboard shows beside this one's, with their addresses.
    #[arg(
        long,
        env = "DASHBOARD_NEIGHBOURS",
        value_name = "NAME=URL,…",
        value_delimiter = ','
    )]
    pub dashboard_neighbours: Vec<Neighbour>,

    /// Send the viewers' tokens to neighbours over plain HTTP, where whoever is on the way can read them. For
    /// where nobody is, such as a network of the services' own.
    #[arg(long, env = "DASHBOARD_PLAIN_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    pub dashboard_plain_http: bool,

    /// Where a trace is shown, with `{trace_id}` in it, to be linked from its saga's page. Of
    /// Zipkin: `http://localhost:9411/zipkin/traces/{trace_id}`.
    #[arg(long, env = "TRACES_URL", value_name = "URL", value_parser = traces_url)]
    pub traces_url: Option<String>,
}

impl Config {
    /// Settings that do not fit together.
    ///
    /// # Errors
    /// One line that names them, with exit status 2.
    pub fn check(&self, auth: &auth::Auth) -> Result<(), Refusal> {
        let plain = |neighbour: &&Neighbour| {
            neighbour.url.scheme() == "http" && !is_this_machine(&neighbour.url)
        };
        match self.dashboard_neighbours.iter().find(plain) {
            Some(neighbour) if auth.is_required() && !self.dashboard_plain_http => Err(Refusal {
                text: format!(
                    "error: wrong setting --dashboard-neighbours (environment DASHBOARD_NEIGHBOURS): the tokens of \
                     viewers would travel to {} over plain http; give it an https address, or \
                     --dashboard-plain-http (DASHBOARD_PLAIN_HTTP) where nobody is on the way",
                    neighbour.name
                ),
                status: 2,
            }),
            _ => Ok(()),
        }
    }
}

/// A command that nobody has begun within 24 hours is begun no more: no attempt may take that long, and
/// twenty of them, with their pauses, should not.
fn attempt(text: &str) -> Result<Duration, String> {
    match positive_duration(text)? {
        time if time > Duration::from_secs(60 * 60) => Err("must be at most 1h".to_owned()),
        time => Ok(time),
    }
}

fn traces_url(url: &str) -> Result<String, String> {
    let is_web = ["http://", "https://"].iter().any(|s| url.starts_with(s));
    match is_web && url.contains("{trace_id}") {
        true => Ok(url.to_owned()),
        false => Err("give an address like http://localhost:9411/zipkin/traces/{trace_id}".into()),
    }
}
