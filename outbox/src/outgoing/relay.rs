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

use std::{
    io::Write as _,
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error,
    broker::Broker,
    caught, crash,
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
/// A session that follows a failed one must have worked for so long until it counts as working: one that
/// ends again and again, a moment after it began, is none.
const STEADY: Duration = Duration::from_secs(3);
/// How often a standby asks for the lease, in parts of its length; and how much longer than the question
/// took it waits at least, so that a row with many old versions does not become a load.
const ASKING: (u32, u32) = (8, 20);

/// What a relay is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Without a database session that works; the text is why.
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

/// Says what a leader is doing, to whoever asks.
pub(super) struct Reporter<'a> {
    status: &'a watch::Sender<Status>,
    /// Before, a former session's failure is what there is to say.
    steady_at: Instant,
}

impl Reporter<'_> {
    /// Notes a status, unless it is too early to say that all is well again.
    pub(super) fn steadily(&self, status: Status) {
        if Instant::now() < self.steady_at {
            return;
        }
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed && status == Status::Stalled {
                tracing::warn!("the broker acknowledges nothing; waiting for it");
            } else if changed && *current == Status::Stalled {
                tracing::info!("the broker acknowledges again");
            }
            *current = status;
            changed
        });
    }
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
        warn_if_nobody_listens();
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
        let (mut pause, mut failed) = (PAUSE.0, false);
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let steady_at = match failed {
                true => began + STEADY,
                false => began,
            };
            // A panic ends the session, not the relay.
            let session = caught(self.session(shutdown, spares, steady_at));
            let error = match session.await {
                Ok(()) => {
                    failed = false;
                    continue;
                }
                Err(Error::Fenced) => {
                    tracing::warn!("lost the lease, standing by");
                    continue;
                }
                Err(error @ Error::ForeignCursor(_)) => return Err(error),
                Err(error) => error,
            };
            failed = true;
            if began.elapsed() > STEADY {
                pause = PAUSE.0;
            }
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
        steady_at: Instant,
    ) -> Result<(), Error> {
        let connecting = table::connect(&self.database, self.config.lease);
        let mut connection = patiently(connecting).await?;
        let result = self
            .lead(&mut connection, shutdown, spares, steady_at)
            .await;
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
        steady_at: Instant,
    ) -> Result<(), Error> {
        patiently(check_cursor(connection)).await?;
        let status = Reporter {
            status: &self.status,
            steady_at,
        };
        status.steadily(Status::Standby);
        // Ready before it is needed.
        let config = self.for_the_topics(connection).await?;
        spares.refill(&*self.broker, &config.tuning)?;
        let taken = loop {
            let asked = Instant::now();
            let acquiring = table::acquire(connection, &self.owner, self.config.lease);
            if let Some(taken) = patiently(acquiring).await? {
                break taken;
            }
            status.steadily(Status::Standby);
            let pause = (self.config.lease / ASKING.0).max(asked.elapsed() * ASKING.1);
            tokio::select! {
                () = sleep(pause.min(self.config.lease)) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        };
        let (lease, cursor, written) = &taken;
        let (epoch, last_seq) = (lease.epoch(), cursor.last_seq);
        tracing::info!(epoch, last_seq, "leading");
        telemetry::lease_held(true);
        status.steadily(match written.paused {
            true => Status::Paused,
            false => Status::Leading,
        });
        crash::point("after_lease");
        // Once more: a database restored under a standby's feet gives it another's cursor.
        patiently(check_cursor(connection)).await?;
        let config = self.for_the_topics(connection).await?;
        Leader::new(connection, &*self.broker, &config, status, spares, taken)?
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

/// A relay's warnings are all that it has to say; without a subscriber they are lost. Said once.
fn warn_if_nobody_listens() {
    static SAID: Once = Once::new();
    if !tracing::dispatcher::has_been_set() {
        SAID.call_once(|| {
            // Nobody to be told of a failure of this.
            let _ = writeln!(
                std::io::stderr(),
                "relay: no tracing subscriber is installed, so its warnings are lost; install one, as \
                 tracing_subscriber::fmt::init(), before Relay::run"
            );
        });
    }
}
