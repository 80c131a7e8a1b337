//! The shop as it runs for real: four databases, four relays, four services, each relay and service a process of its own.
//!
//! *What passes here*: each process, to kill and start again; each database's and service's URL. *Promised*: every `/readyz`
//! answered 200 before [`Shop::start`] returns. *If we die*, all of it is killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use crate::folder::Folder;
use crate::port::free_port;
use crate::{Kafka, Postgres, Process};

/// Migrations of an empty database take well under a second; a busy machine gets time.
const MIGRATION: Duration = Duration::from_secs(60);

/// Which ports the shop listens on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ports {
    /// Free ones, so that several shops live side by side.
    #[default]
    Free,
    /// 8081–8084 for the services, 9081–9084 for their relays: what the documentation tells people to call.
    Documented,
}

/// How the shop is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Put before the databases' names, so that several shops can share a server.
    pub prefix: String,
    /// Which ports to listen on.
    pub ports: Ports,
    /// How long a saga's step may take, as `2s`; the order-service's own default unless told.
    pub step_timeout: Option<String>,
    /// The folder for logs; a throw-away one unless told.
    pub logs: Option<PathBuf>,
    /// Further environment variables of every process.
    pub environment: Vec<(String, String)>,
}

/// What is fixed about a department.
#[derive(Debug)]
pub struct Plan {
    /// Its database, and its own schema in there.
    pub name: &'static str,
    /// Its service's binary.
    pub service: &'static str,
    /// The schemas of its database, in the order of their migrations.
    pub schemas: &'static [&'static str],
    /// The service's documented port.
    pub port: u16,
}

impl Plan {
    /// The relay's documented port.
    #[must_use]
    pub fn relay_port(&self) -> u16 {
        self.port + 1000
    }
}

/// The four departments, in the order in which an order passes them.
pub const PLANS: [Plan; 4] = [
    Plan {
        name: "orders",
        service: "order-service",
        schemas: &["outbox", "saga", "orders"],
        port: 8081,
    },
    Plan {
        name: "payments",
        service: "payment-service",
        schemas: &["outbox", "saga", "payments"],
        port: 8082,
    },
    Plan {
        name: "deliveries",
        service: "delivery-service",
        schemas: &["outbox", "saga", "deliveries"],
        port: 8083,
    },
    Plan {
        name: "notifications",
        service: "notification-service",
        schemas: &["outbox", "notifications"],
        port: 8084,
    },
];

/// A service with its database and its relay.
#[derive(Debug)]
pub struct Department {
    /// What is fixed about it.
    pub plan: &'static Plan,
    /// Its database.
    pub database_url: String,
    /// The service's process.
    pub service: Process,
    /// Where the service answers, `http://127.0.0.1:port`.
    pub service_url: String,
    /// The relay's process.
    pub relay: Process,
    /// Where the relay answers.
    pub relay_url: String,
}

/// The running shop. Dropped, its processes are killed.
#[derive(Debug)]
pub struct Shop {
    /// Takes orders, and coordinates their sagas.
    pub orders: Department,
    /// Holds and captures money.
    pub payments: Department,
    /// Schedules deliveries.
    pub deliveries: Department,
    /// Tells customers.
    pub notifications: Department,
    logs: Folder,
}

impl Shop {
    /// Creates the databases, migrates them, starts the relays and services, and waits until all are ready.
    ///
    /// # Errors
    /// If a database exists already, a binary is not built, a migration fails or a process is not ready in a minute; the
    /// end of the log in question is part of the error.
    pub async fn start(postgres: &Postgres, kafka: &Kafka, options: Options) -> Result<Shop> {
        let logs = Folder::lasting_or_throw_away(options.logs.as_deref(), "shop")?;
        let ports = PLANS.map(|plan| match options.ports {
            Ports::Documented => plan.port,
            Ports::Free => free_port(),
        });
        let building = Building {
            postgres,
            kafka,
            options: &options,
            logs: logs.path(),
            ports,
        };
        let departments = PLANS.iter().zip(ports);
        let departments = departments.map(|(plan, port)| building.open(plan, port));
        let departments = try_join_all(departments).await?;
        let [orders, payments, deliveries, notifications] = departments
            .try_into()
            .ok()
            .context("a shop has four departments")?;
        let shop = Shop {
            orders,
            payments,
            deliveries,
            notifications,
            logs,
        };
        try_join_all(shop.departments().map(Department::wait_ready)).await?;
        Ok(shop)
    }

    /// All departments, in the order in which an order passes them.
    #[must_use]
    pub fn departments(&self) -> [&Department; 4] {
        [
            &self.orders,
            &self.payments,
            &self.deliveries,
            &self.notifications,
        ]
    }

    /// Where an order-service's dashboard finds the other services, as `DASHBOARD_NEIGHBOURS` has it.
    #[must_use]
    pub fn neighbours(&self) -> String {
        let all = self.departments().into_iter();
        neighbours(all.map(|department| (department.plan, department.service_url.clone())))
    }

    /// All departments, to change them.
    pub fn departments_mut(&mut self) -> [&mut Department; 4] {
        [
            &mut self.orders,
            &mut self.payments,
            &mut self.deliveries,
            &mut self.notifications,
        ]
    }

    /// The folder with one log per process.
    #[must_use]
    pub fn logs(&self) -> &Path {
        self.logs.path()
    }

    /// Lets all processes live on without us.
    pub fn detach(&mut self) {
        self.logs.keep();
        for department in self.departments_mut() {
            department.service.detach();
            department.relay.detach();
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A failed test leaves what it takes to see why.
            self.logs.keep();
            eprintln!("the shop's logs are in {}", self.logs.path().display());
        }
    }
}

impl Department {
    /// Waits until service and relay are ready.
    ///
    /// # Errors
    /// As [`Process::wait_ready`].
    pub async fn wait_ready(&self) -> Result<()> {
        self.relay.wait_ready(&self.relay_url).await?;
        self.service.wait_ready(&self.service_url).await
    }
}

/// What all departments are built from.
struct Building<'a> {
    postgres: &'a Postgres,
    kafka: &'a Kafka,
    options: &'a Options,
    logs: &'a Path,
    /// Of the services, in the order of [`PLANS`].
    ports: [u16; 4],
}

/// All but the first, which shows the others' messages in its dashboard.
fn neighbours(services: impl Iterator<Item = (&'static Plan, String)>) -> String {
    let others = services.skip(1);
    let others = others.map(|(plan, url)| format!("{}={url}", plan.service));
    others.collect::<Vec<_>>().join(",")
}

impl Building<'_> {
    async fn open(&self, plan: &'static Plan, port: u16) -> Result<Department> {
        let database_url = self
            .postgres
            .create_database(&format!("{}{}", self.options.prefix, plan.name))
            .await?;
        self.migrate(plan, &database_url).await?;
        let relay_port = match self.options.ports {
            Ports::Documented => plan.relay_port(),
            Ports::Free => free_port(),
        };
        let relay_log = self.logs.join(format!("{}-relay.log", plan.name));
        let mut relay = self
            .process("relay", &database_url, relay_port)?
            .env("SOURCE", format!("/{}", plan.name))
            .log(relay_log);
        relay.start()?;
        let mut service = self
            .process(plan.service, &database_url, port)?
            .log(self.log_of(plan.service));
        if plan.name == "orders" {
            service = service.env("DASHBOARD_NEIGHBOURS", self.neighbours());
            if let Some(timeout) = &self.options.step_timeout {
                service = service.env("STEP_TIMEOUT", timeout);
            }
        }
        service.start()?;
        let (service_url, relay_url) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{relay_port}"),
        );
        Ok(Department {
            plan,
            database_url,
            service,
            service_url,
            relay,
            relay_url,
        })
    }

    async fn migrate(&self, plan: &Plan, database_url: &str) -> Result<()> {
        let mut migration = Process::new("recompense")?
            .arg("migrate")
            .arg("--database-url")
            .arg(database_url);
        for schema in plan.schemas {
            migration = migration.arg("--schema").arg(*schema);
        }
        migration.start()?;
        let status = migration.wait(MIGRATION).await?;
        ensure!(
            status.success(),
            "the database {} was not migrated:\n{}",
            plan.name,
            migration.log_tail()
        );
        Ok(())
    }

    fn process(&self, binary: &str, database_url: &str, port: u16) -> Result<Process> {
        let process = Process::new(binary)?
            .env("DATABASE_URL", database_url)
            .env("KAFKA_BROKERS", self.kafka.bootstrap())
            .env("LISTEN", format!("127.0.0.1:{port}"));
        Ok(self
            .options
            .environment
            .iter()
            .fold(process, |process, (name, value)| process.env(name, value)))
    }

    /// Whose messages the dashboard shows beside its own service's.
    fn neighbours(&self) -> String {
        let all = PLANS.iter().zip(self.ports);
        neighbours(all.map(|(plan, port)| (plan, format!("http://127.0.0.1:{port}"))))
    }

    fn log_of(&self, service: &str) -> PathBuf {
        self.logs.join(format!("{service}.log"))
    }
}
