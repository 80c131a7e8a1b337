//! The gateway in front of the services: Caddy with `deploy/gateway/Caddyfile`, the file that compose runs too.
//!
//! *What passes here*: where the instances of each service are, and the gateway's own address. *Promised*: it answers when
//! [`Gateway::start`] returns; whether the services behind it do is their affair. *If we die*, it is killed.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::folder::Folder;
use crate::port::free_port;
use crate::process::Process;
use crate::shop::Shop;

/// Where the documentation says it is.
pub const PORT: u16 = 8080;

/// Where it listens, and what is behind it. Addresses are URLs such as `http://127.0.0.1:8081`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its port on 127.0.0.1; a free one unless told.
    pub port: Option<u16>,
    /// Its log; a throw-away one unless told.
    pub log: Option<PathBuf>,
    /// Instances of order-service, one or more.
    pub orders: Vec<String>,
    /// Instances of payment-service.
    pub payments: Vec<String>,
    /// Instances of delivery-service.
    pub deliveries: Vec<String>,
    /// Instances of notification-service.
    pub notifications: Vec<String>,
}

impl Options {
    /// In front of this shop, with one instance of each service.
    #[must_use]
    pub fn of(shop: &Shop) -> Options {
        Options {
            orders: vec![shop.orders.service_url.clone()],
            payments: vec![shop.payments.service_url.clone()],
            deliveries: vec![shop.deliveries.service_url.clone()],
            notifications: vec![shop.notifications.service_url.clone()],
            ..Options::default()
        }
    }
}

/// The running gateway. Dropped, it is killed.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    url: String,
    _folder: Folder,
}

impl Gateway {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// If there is no Caddy, an address is none, or it does not answer in a minute: with the end of its log.
    pub async fn start(options: Options) -> Result<Gateway> {
        let folder = Folder::throw_away("gateway")?;
        let port = options.port.unwrap_or_else(free_port);
        let mut process = Process::tool("caddy")?
            .arg("run")
            .arg("--adapter")
            .arg("caddyfile")
            .arg("--config")
            .arg(caddyfile())
            .env("GATEWAY_PORT", port.to_string())
            .env("ORDER_SERVICE", upstreams(&options.orders)?)
            .env("PAYMENT_SERVICE", upstreams(&options.payments)?)
            .env("DELIVERY_SERVICE", upstreams(&options.deliveries)?)
            .env("NOTIFICATION_SERVICE", upstreams(&options.notifications)?);
        // Whatever it would keep, it keeps there.
        for variable in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            process = process.env(variable, folder.path().display().to_string());
        }
        if let Some(log) = options.log {
            process = process.log(log);
        }
        process.start()?;
        let url = format!("http://127.0.0.1:{port}");
        process.wait_for_ok(&format!("{url}/-/healthy")).await?;
        Ok(Gateway {
            process,
            url,
            _folder: folder,
        })
    }

    /// Where it answers, `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// What it has written: JSON, a line for each request.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Lets it live on without us.
    pub fn detach(&self) {
        self.process.detach();
    }
}

/// The file that says what goes where.
fn caddyfile() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/gateway/Caddyfile").to_owned()
}

/// As the file wants them: `to 127.0.0.1:8081 127.0.0.1:8181`. Without any, what nobody listens on.
fn upstreams(instances: &[String]) -> Result<String> {
    let mut to = "to".to_owned();
    for instance in instances {
        let address = instance
            .strip_prefix("http://")
            .with_context(|| format!("{instance} is not http://host:port"))?;
        ensure!(
            !address.contains(['/', ' ']),
            "{instance} is not http://host:port"
        );
        to.push(' ');
        to.push_str(address);
    }
    if instances.is_empty() {
        to.push_str(" 127.0.0.1:1");
    }
    Ok(to)
}
