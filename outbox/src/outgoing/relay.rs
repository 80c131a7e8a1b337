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
    broker::Broker,
    crash,
    outgoing::{
        config::Config,
        lane::Spares,
        leader::{Leader, patiently},
        table,
        topics::largest_and_smallest_limit,
    },
    telemetry,
};

/// First and longest pause after a lost session; it doubles while sessions go on failing. The
/// longest is what a server that comes back may wait for us.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

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
        self.config.check()?;
        let mut spares = Spares::default();
        let result = self.sessions(&shutdown, &mut spares).await;
        spares.abandon();
        result
    }

    async fn sessions(
        &self,
        shutdown: &CancellationToken,
        spares: &mut Spares,
    ) -> Result<(), Error> {
        let mut pause = PAUSE.0;
        while !shutdown.is_cancelled() {
            let error = match self.session(shutdown, spares, &mut pause).await {
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
            pause = (pause * 2).min(PAUSE.1);
        }
        Ok(())
    }

    /// One database session: stand by, lead, and end with the lease.
    async fn session(
        &self,
        shutdown: &CancellationToken,
        spares: &mut Spares,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        let connecting = table::connect(&self.database, self.config.lease);
        let mut connection = patiently(connecting).await?;
        let result = self.lead(&mut connection, shutdown, spares, pause).await;
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
        spares: &mut Spares,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        patiently(check_cursor(connection)).await?;
        self.status.send_replace(Status::Standby);
        // Ready before it is needed.
        let config = self.for_the_topics(connection).await?;
        spares.refill(&*self.broker, &config.tuning)?;
        let taken = loop {
            let acquiring = table::acquire(connection, &self.owner, self.config.lease);
            if let Some(taken) = patiently(acquiring).await? {
                break taken;
            }
            *pause = PAUSE.0;
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
        // Once more: a database restored under a standby's feet gives it another's cursor.
        patiently(check_cursor(connection)).await?;
        let config = self.for_the_topics(connection).await?;
        let (broker, status) = (&*self.broker, &self.status);
        Leader::new(connection, broker, &config, status, spares, taken)?
            .run(shutdown)
            .await
    }

    /// With the limits of the topics as they are now: a leader asks once, because a producer's
    /// settings are fixed.
    async fn for_the_topics(&self, connection: &mut PgConnection) -> Result<Config, Error> {
        let limits = patiently(largest_and_smallest_limit(connection)).await?;
        Ok(Config {
            tuning: self.config.tuning.clone().for_limits(limits),
            ..self.config.clone()
        })
    }
}

/// Refuses a cursor that another cluster wrote: its transaction ids mean nothing here.
async fn check_cursor(connection: &mut PgConnection) -> Result<(), Error> {
    let advice = "nothing was read; `recompense outbox rebase --dry-run` shows what may not have been \
                  sent, `recompense outbox rebase` makes a cursor for this cluster and sends that";
    match table::cursor_is_native(connection).await? {
        (true, true) => Ok(()),
        (false, _) => Err(Error::ForeignCursor(format!(
            "the cursor was written in another database cluster (restored or copied here): {advice} \
             (after pg_upgrade: with --same-xids)"
        ))),
        (true, false) => Err(Error::ForeignCursor(format!(
            "the cursor is ahead of this cluster's transaction ids (rewound): {advice}"
        ))),
    }
}
