//! The shop in one process: four databases on one server, four relays, four services, one broker.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use chassis::{
    Process, config::try_parse_from, http::auth::Auth, shutdown::Failed, telemetry::Telemetry,
};
use outbox::{
    Relay,
    broker::{Broker, Embedded},
    outgoing,
};
use testbed::{Database, Postgres, free_port, port_is_free, wait_for};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Short, so that nobody waits long for the payment that never answers.
const STEP_TIMEOUT: &str = "1s";

/// A running shop.
pub(crate) struct Shop {
    postgres: Postgres,
    ports: [u16; 4],
    databases: Vec<Database>,
    parts: JoinSet<Result<()>>,
    shutdown: CancellationToken,
    /// By service.
    pub(crate) orders: String,
    pub(crate) payments: String,
    pub(crate) deliveries: String,
    pub(crate) notifications: String,
    pub(crate) http: reqwest::Client,
}

impl Shop {
    /// A server, and everything else still to be started.
    pub(crate) async fn open(shutdown: CancellationToken) -> Result<Self> {
        let ports = [8081, 8082, 8083, 8084].map(|port| match port_is_free(port) {
            true => port,
            false => free_port(),
        });
        let [orders, payments, deliveries, notifications] =
            ports.map(|port| format!("http://127.0.0.1:{port}"));
        Ok(Self {
            postgres: Postgres::from_env_or_start("DATABASE_URL").await?,
            ports,
            databases: Vec::new(),
            parts: JoinSet::new(),
            shutdown,
            orders,
            payments,
            deliveries,
            notifications,
            http: testbed::http(Duration::from_secs(5)),
        })
    }

    /// Starts everything and waits until all of it is ready.
    pub(crate) async fn start(&mut self, telemetry: Telemetry) -> Result<()> {
        let broker: Arc<dyn Broker> = Arc::new(Embedded::start()?);
        let shutdown = self.shutdown.clone();
        let process = Process {
            telemetry,
            shutdown,
        };
        let mut databases = Vec::new();
        let names = ["orders", "payments", "deliveries", "notifications"];
        for (name, port) in names.into_iter().zip(self.ports) {
            let database = Database::fresh_on(&self.postgres, &format!("demo_{name}")).await?;
            self.databases.push(database.clone());
            self.start_service(name, port, &database, &broker, &process)?;
            databases.push((name, database));
        }
        // A relay reads what its service's migrations make.
        self.wait_until("/readyz?exclude=broker&exclude=lease&exclude=consumer")
            .await?;
        for (name, database) in databases {
            self.start_relay(name, &database, &broker)?;
        }
        self.wait_until("/readyz").await
    }

    fn start_service(
        &mut self,
        name: &str,
        port: u16,
        database: &Database,
        broker: &Arc<dyn Broker>,
        process: &Process,
    ) -> Result<()> {
        let listen = format!("127.0.0.1:{port}");
        let mut arguments = vec![name, "--migrate", "--database-connections=10"];
        arguments.extend(["--database-url", &database.url, "--listen", &listen]);
        // The embedded broker is handed over as it is; the setting only has to be there.
        arguments.extend(["--kafka-brokers", "127.0.0.1:9"]);
        if name == "orders" {
            arguments.extend(["--step-timeout", STEP_TIMEOUT]);
        }
        let arguments = arguments.into_iter().map(Into::into).collect::<Vec<_>>();
        let (broker, process) = (Arc::clone(broker), process.clone());
        match name {
            "orders" => {
                let config: order_service::Config = try_parse_from(arguments)?;
                let auth = Auth::new(&config.auth, config.settings.listen)?;
                self.part(name, order_service::run(config, auth, broker, process));
            }
            "payments" => {
                let config: payment_service::Config = try_parse_from(arguments)?;
                let auth = Auth::new(&config.auth, config.settings.listen)?;
                self.part(name, payment_service::run(config, auth, broker, process));
            }
            "deliveries" => {
                let config: delivery_service::Config = try_parse_from(arguments)?;
                let auth = Auth::new(&config.auth, config.settings.listen)?;
                self.part(name, delivery_service::run(config, auth, broker, process));
            }
            _ => {
                let config: notification_service::Config = try_parse_from(arguments)?;
                let auth = Auth::new(&config.auth, config.settings.listen)?;
                self.part(
                    name,
                    notification_service::run(config, auth, broker, process),
                );
            }
        }
        Ok(())
    }

    fn part(
        &mut self,
        name: &str,
        part: impl Future<Output = Result<(), Failed>> + Send + 'static,
    ) {
        let name = name.to_owned();
        self.parts
            .spawn(async move { part.await.with_context(|| format!("{name} ended")) });
    }

    fn start_relay(
        &mut self,
        name: &str,
        database: &Database,
        broker: &Arc<dyn Broker>,
    ) -> Result<()> {
        let config = outgoing::Config {
            source: format!("/{name}").parse().map_err(anyhow::Error::msg)?,
            ..Default::default()
        };
        let relay = Relay::new(database.options()?, Arc::clone(broker), config);
        let shutdown = self.shutdown.clone();
        self.parts
            .spawn(async move { Ok(relay.run(shutdown).await?) });
        Ok(())
    }

    /// Waits until every service answers this path with success.
    async fn wait_until(&mut self, path: &str) -> Result<()> {
        let services = [
            &self.orders,
            &self.payments,
            &self.deliveries,
            &self.notifications,
        ];
        let services = services.map(|url| format!("{url}{path}"));
        let http = self.http.clone();
        let ready = async {
            for url in &services {
                wait_for(Duration::from_secs(60), url, async || {
                    let answer = http.get(url).send().await;
                    Ok(answer
                        .is_ok_and(|answer| answer.status().is_success())
                        .then_some(()))
                })
                .await?;
            }
            Ok(())
        };
        tokio::select! {
            ready = ready => ready,
            failed = next(&mut self.parts) => Err(failed),
        }
    }

    /// Why a part of the shop ended that should not have. Waits for it.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        next(&mut self.parts).await
    }

    pub(crate) fn print_addresses(&self) {
        println!(
            "\nThe shop stays open until Ctrl-C. Its dashboard, with an order to place on every button:"
        );
        println!("  {}", self.orders);
        println!("Its REST API:");
        println!(
            "  orders and sagas  {}/v1/orders   {}/v1/sagas",
            self.orders, self.orders
        );
        println!("  payments, ledger  {}/v1/ledger", self.payments);
        println!(
            "  deliveries        {}/v1/deliveries?order_id=…",
            self.deliveries
        );
        println!(
            "  notifications     {}/v1/notifications?order_id=…",
            self.notifications
        );
        println!("Try:  curl -s {}/v1/sagas | head -c 600", self.orders);
    }

    /// Stops everything and removes what was made on a server that stays.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.shutdown.cancel();
        while self.parts.join_next().await.is_some() {}
        if self.postgres.pid().is_some() {
            return self.postgres.stop().await;
        }
        for database in &self.databases {
            self.postgres.drop_database(&database.name).await?;
        }
        Ok(())
    }
}

async fn next(parts: &mut JoinSet<Result<()>>) -> anyhow::Error {
    match parts.join_next().await {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => error.into(),
        Some(Ok(Ok(()))) | None => anyhow!("a part of the shop ended"),
    }
}
