//! The relay: reads the log and sends it to the broker, in order, until it is told to stop.
//!
//! Promised: every committed message is acknowledged by the broker at least once; messages of one
//! key are first seen in the order of the log. Not promised: no duplicates.
//!
//! If it dies, the next leader goes on from the stored cursor; what was sent after that is sent
//! again. Everything a leader knows belongs to one database session: when the session is lost,
//! lease, snapshots, cursor and what is on its way are forgotten, and it starts like a fresh
//! process. (Transaction ids and numbers that were never flushed are given out again after a crash
//! of the server: a snapshot remembered across it would skip messages.)

use std::{sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error,
    broker::{Broker, Tuning},
    crash,
    outgoing::{
        leader::{Leader, patiently},
        table,
        topics::largest_and_smallest_limit,
    },
    telemetry,
};

/// After a lost session; it doubles up to 5 s while sessions go on failing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Settings of a relay.
#[derive(Debug, Clone)]
pub struct Config {
    /// The CloudEvents `source` of every message; by default `/outbox`.
    pub source: String,
    /// How long a leader may be silent before a standby takes over; by default 1.5 s. Shorter
    /// means faster take-over and more false alarms on a starved machine (harmless: duplicates).
    pub lease: Duration,
    /// Most rows read at once; by default 2,000. Large rows are read fewer at once.
    pub page: usize,
    /// Most messages on their way to the broker; by default 20,000.
    pub max_in_flight: usize,
    /// Most bytes on their way; by default 32 MiB.
    pub max_in_flight_bytes: usize,
    /// Shortest pause between two looks at the log, while there is work; by default 1 ms.
    pub poll_busy: Duration,
    /// Longest pause, when idle; by default 20 ms. Bounds the latency of the first message.
    pub poll_idle: Duration,
    /// How often the cursor is written down at most; by default 50 ms. A crash repeats what was
    /// acknowledged since.
    pub cursor_interval: Duration,
    /// How long a stopping relay waits for what is on its way; by default 5 s.
    pub grace: Duration,
    /// The producer's trade between latency and throughput.
    pub tuning: Tuning,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: "/outbox".to_owned(),
            lease: Duration::from_millis(1500),
            page: 2_000,
            max_in_flight: 20_000,
            max_in_flight_bytes: 32 << 20,
            poll_busy: Duration::from_millis(1),
            poll_idle: Duration::from_millis(20),
            cursor_interval: Duration::from_millis(50),
            grace: Duration::from_secs(5),
            tuning: Tuning::default(),
        }
    }
}

/// What a relay is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Without a database session; the text is why.
    Disconnected(String),
    /// Another relay leads.
    Standby,
    /// It publishes.
    Leading,
    /// It leads, and sends nothing because an operator said so.
    Paused,
    /// It leads, and the broker has acknowledged nothing for a while.
    Stalled,
}

/// A relay for one database.
pub struct Relay {
    database: PgConnectOptions,
    broker: Arc<dyn Broker>,
    config: Config,
    owner: String,
    status: watch::Sender<Status>,
}

impl Relay {
    /// A relay that has not started.
    #[must_use]
    pub fn new(database: PgConnectOptions, broker: Arc<dyn Broker>, config: Config) -> Self {
        Self {
            database,
            broker,
            config,
            // Unique, so that a restarted process is never taken for its former self.
            owner: format!("{}-{}", std::process::id(), Uuid::now_v7().simple()),
            status: watch::Sender::new(Status::Disconnected("not started".to_owned())),
        }
    }

    /// What it is doing, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Publishes, or waits to take over, until `shutdown`; then what is on its way is waited for
    /// and the lease handed over.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignCursor`], which nobody can heal but a person. Every other failure is
    /// logged, shown by [`Relay::status`], and tried again.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        telemetry::describe_metrics();
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_cancelled() {
            let error = match self.session(&shutdown, &mut pause).await {
                Ok(()) => continue,
                Err(Error::Fenced) => {
                    tracing::warn!("lost the lease, standing by");
                    continue;
                }
                Err(error @ Error::ForeignCursor(_)) => return Err(error),
                Err(error) => error,
            };
            tracing::warn!(%error, retry_in = ?pause, "relay session ended");
            self.status
                .send_replace(Status::Disconnected(error.to_string()));
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        Ok(())
    }

    /// One database session: stand by, lead, and end with the lease.
    async fn session(
        &self,
        shutdown: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        let connecting = table::connect(&self.database, self.config.lease);
        let mut connection = patiently(connecting).await?;
        let result = self.lead(&mut connection, shutdown, pause).await;
        telemetry::lease_held(false);
        if result.is_ok() {
            // Best effort: the server notices a closed socket too.
            let _ = connection.close().await;
        }
        result
    }

    async fn lead(
        &self,
        connection: &mut PgConnection,
        shutdown: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        patiently(check_cursor(connection)).await?;
        self.status.send_replace(Status::Standby);
        let taken = loop {
            let acquiring = table::acquire(connection, &self.owner, self.config.lease);
            if let Some(taken) = patiently(acquiring).await? {
                break taken;
            }
            *pause = FIRST_PAUSE;
            tokio::select! {
                () = sleep(self.config.lease / 8) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        };
        tracing::info!(
            epoch = taken.0.epoch(),
            last_seq = taken.1.last_seq,
            "leading"
        );
        telemetry::lease_held(true);
        self.status.send_replace(match taken.2.paused {
            true => Status::Paused,
            false => Status::Leading,
        });
        crash::point("after_lease");
        // What the topics take is asked once a leadership; a producer's settings are fixed.
        let limits = patiently(largest_and_smallest_limit(connection)).await?;
        let config = Config {
            tuning: self.config.tuning.clone().for_limits(limits),
            ..self.config.clone()
        };
        Leader::new(connection, &*self.broker, &config, &self.status, taken)?
            .run(shutdown)
            .await
    }
}

/// Refuses a cursor that another cluster wrote: its transaction ids mean nothing here.
async fn check_cursor(connection: &mut PgConnection) -> Result<(), Error> {
    let advice = "nothing was read; compare outbox.log with the topics, then set \
                  outbox.relay's snapshots and system_identifier for this cluster";
    match table::cursor_is_native(connection).await? {
        (true, true) => Ok(()),
        (false, _) => Err(Error::ForeignCursor(format!(
            "the cursor was written in another database cluster (restored or copied here): {advice}"
        ))),
        (true, false) => Err(Error::ForeignCursor(format!(
            "the cursor is ahead of this cluster's transaction ids (rewound): {advice}"
        ))),
    }
}
