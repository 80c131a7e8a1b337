//! `testbed up`: the shop in the background, for a person with curl.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use testbed::shop::{self, PLANS, Ports, Shop};
use testbed::{Gateway, Kafka, Postgres, Process, gateway, kafka, port_is_free, postgres};

use crate::record::Record;

/// Where the second order-service listens.
const SECOND: u16 = 8181;

/// What a person may choose.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) step_timeout: String,
    pub(crate) second_order_service: bool,
}

/// Starts everything and leaves it running. Until the last step all of it would end with us: an `up` that fails or is
/// interrupted leaves nothing behind.
pub(crate) async fn up(folder: &Path, wanted: Wanted) -> Result<ExitCode> {
    refuse_if_running(folder)?;
    refuse_taken_ports(wanted.second_order_service)?;
    let logs = empty(folder)?;
    println!("starting Postgres and Kafka (the first time, they are fetched) …");
    let postgres_options = postgres::Options {
        log: Some(logs.join("postgres.log")),
        ..postgres::Options::default()
    };
    let kafka_options = kafka::Options {
        log: Some(logs.join("kafka.log")),
        ..kafka::Options::default()
    };
    let (mut postgres, mut kafka) = tokio::try_join!(
        Postgres::start_with(postgres_options),
        Kafka::start_with(kafka_options)
    )?;
    println!("starting four relays, four services and the gateway …");
    let options = shop::Options {
        ports: Ports::Documented,
        step_timeout: Some(wanted.step_timeout.clone()),
        logs: Some(logs.clone()),
        ..shop::Options::default()
    };
    let mut shop = Shop::start(&postgres, &kafka, options).await?;
    let mut gateway_options = gateway::Options {
        port: Some(gateway::PORT),
        log: Some(logs.join("gateway.log")),
        ..gateway::Options::of(&shop)
    };
    let mut record = Record::of(&postgres, &kafka, &shop);
    let mut second = None;
    if wanted.second_order_service {
        let url = format!("http://127.0.0.1:{SECOND}");
        let process = start_second(&shop, &kafka, &logs, wanted.step_timeout)?;
        process.wait_ready(&url).await?;
        record.put_process("ORDER_SERVICE_2", &url, process.pid());
        gateway_options.orders.push(url);
        second = Some(process);
    }
    let gateway = Gateway::start(gateway_options).await?;
    record.put_process("GATEWAY", gateway.url(), gateway.pid());
    record.write(folder)?;
    gateway.detach();
    if let Some(second) = second {
        second.detach();
    }
    shop.detach();
    kafka.detach();
    postgres.detach();
    summary(&shop, &kafka, &gateway, folder);
    Ok(ExitCode::SUCCESS)
}

/// One more on the orders' database, as a replica would be.
fn start_second(shop: &Shop, kafka: &Kafka, logs: &Path, step_timeout: String) -> Result<Process> {
    let mut process = Process::new(shop.orders.plan.service)?
        .env("DATABASE_URL", &shop.orders.database_url)
        .env("KAFKA_BROKERS", kafka.bootstrap())
        .env("LISTEN", format!("127.0.0.1:{SECOND}"))
        .env("STEP_TIMEOUT", step_timeout)
        .env("DASHBOARD_NEIGHBOURS", shop.neighbours())
        .log(logs.join("order-service-2.log"));
    process.start()?;
    Ok(process)
}

fn refuse_if_running(folder: &Path) -> Result<()> {
    let record = Record::read(folder)?.unwrap_or_default();
    if let Some(entry) = record
        .groups()
        .into_iter()
        .flatten()
        .find(|entry| entry.is_alive())
    {
        bail!(
            "the shop is up already ({} is process {}): `make down` stops it",
            entry.name,
            entry.pid
        );
    }
    Ok(())
}

fn refuse_taken_ports(second: bool) -> Result<()> {
    let departments = PLANS.iter().flat_map(|plan| {
        [
            (plan.port, plan.service.to_owned()),
            (plan.relay_port(), format!("{} relay", plan.name)),
        ]
    });
    let others = [
        (gateway::PORT, "gateway".to_owned()),
        (SECOND, "second order-service".to_owned()),
    ];
    for (port, whose) in departments.chain(others.into_iter().take(1 + usize::from(second))) {
        ensure!(
            port_is_free(port),
            "port {port} ({whose}) is in use: stop the program that listens on it, then try again"
        );
    }
    Ok(())
}

/// The folder, without what an earlier `up` left in it.
fn empty(folder: &Path) -> Result<std::path::PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for entry in fs::read_dir(folder)?
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "log"))
    {
        fs::remove_file(entry.path())?;
    }
    Ok(folder.canonicalize()?)
}

fn summary(shop: &Shop, kafka: &Kafka, gateway: &Gateway, folder: &Path) {
    println!("\nthe shop is up, all of it at {}:\n", gateway.url());
    for department in shop.departments() {
        println!(
            "  {:<24}{}",
            department.plan.service, department.service_url
        );
    }
    println!("  {:<24}{}", "Kafka", kafka.bootstrap());
    for department in shop.departments() {
        println!(
            "  {:<24}{}",
            format!("database {}", department.plan.name),
            department.database_url
        );
    }
    println!(
        "\nlogs and addresses (`env`) are in {}; `make down` stops everything.",
        folder.display()
    );
}
