//! The coordinator as a service runs it: a consumer of replies, timers, and the relay of its
//! database; in a runtime of this process, or, where it is to be killed, as a process of its own.

use std::sync::Arc;

use anyhow::{Context, Result};
use outbox::{
    Consumer, Relay,
    broker::{Broker, Kafka},
    incoming, outgoing,
};
use saga::Coordinator;
use sqlx::postgres::PgPoolOptions;
use testbed::Process;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    sagas::{
        ended::Endings,
        stage::Stage,
        trip::{self, Topics},
    },
    settings::Arguments,
    world::World,
};

/// The variables that make this program a coordinator.
const DATABASE: &str = "BENCH_COORDINATOR_DATABASE";
const BROKERS: &str = "BENCH_COORDINATOR_BROKERS";
const TOPICS: &str = "BENCH_COORDINATOR_TOPICS";
/// What it says when it takes part.
const READY: &str = "the coordinator has joined";

/// Connections of the services, as their settings have it.
pub(crate) const CONNECTIONS: u32 = 10;

/// What a coordinator is made of.
pub(crate) struct Steering {
    pub(crate) coordinator: Coordinator,
    pub(crate) url: String,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) relay: outgoing::Config,
}

impl Steering {
    pub(crate) async fn run(
        self,
        ready: oneshot::Sender<()>,
        stop: CancellationToken,
    ) -> Result<()> {
        let connect = |most| {
            PgPoolOptions::new()
                .max_connections(most)
                .connect(&self.url)
        };
        let pool = connect(CONNECTIONS).await?;
        self.coordinator.register(&pool).await?;
        let timers = self.coordinator.timers(connect(1).await?);
        let timers = tokio::spawn(timers.run(stop.clone()));
        let consumer = self.coordinator.consumer(
            "bench.sagas",
            pool.clone(),
            Arc::clone(&self.broker),
            incoming::Config::default(),
        );
        let relay = Relay::new(self.url.parse()?, self.broker, self.relay);
        consume_and_relay(consumer, relay, ready, stop).await?;
        timers.await?;
        pool.close().await;
        Ok(())
    }
}

/// Runs both until the end, or until one of them fails.
pub(crate) async fn consume_and_relay<H: outbox::Handler>(
    consumer: Consumer<H>,
    relay: Relay,
    ready: oneshot::Sender<()>,
    stop: CancellationToken,
) -> Result<()> {
    let mut joined = consumer.joined();
    let token = stop.clone();
    let consuming = tokio::spawn(async move { consumer.run(token).await });
    let token = stop.clone();
    let relaying = tokio::spawn(async move { relay.run(token).await });
    tokio::spawn(async move {
        if joined.wait_for(|joined| *joined).await.is_ok() {
            // Who waited may have given up.
            let _ = ready.send(());
        }
    });
    let _stop = stop.drop_guard();
    let consuming = async { anyhow::Ok(consuming.await??) };
    let relaying = async { anyhow::Ok(relaying.await??) };
    tokio::try_join!(consuming, relaying)?;
    Ok(())
}

/// Runs as a coordinator, if this process was started as one.
pub(crate) async fn run_if_asked(arguments: &Arguments) -> Result<bool> {
    let Ok(url) = std::env::var(DATABASE) else {
        return Ok(false);
    };
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is missing"));
    let topics = Topics::new(variable(TOPICS)?, arguments.participants);
    let steering = Steering {
        coordinator: trip::coordinator(&topics, &Endings::default())?,
        url,
        // Known again when it comes back, or its partitions would wait for the dead one.
        broker: Arc::new(Kafka::new(&variable(BROKERS)?)?.member(Some("coordinator".to_owned()))),
        relay: arguments.relay(),
    };
    let (ready, readiness) = oneshot::channel();
    tokio::spawn(async {
        if readiness.await.is_ok() {
            println!("{READY}");
        }
    });
    steering.run(ready, CancellationToken::new()).await?;
    Ok(true)
}

/// This program again, as the coordinator of a stage; not started yet.
pub(crate) fn program(world: &World, stage: &Stage) -> Result<Process> {
    let mut process = Process::new("bench")?;
    for argument in std::env::args().skip(1) {
        process = process.arg(argument);
    }
    Ok(process
        .env(DATABASE, stage.url())
        .env(BROKERS, world.bootstrap())
        .env(TOPICS, stage.name()))
}

/// Whether the process has joined its group since it was last started.
pub(crate) fn is_ready(process: &Process) -> bool {
    process.output().contains(READY)
}
