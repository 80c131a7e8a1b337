//! The runner: brings operations with something outside of the database to their answers.
//!
//! ```text
//! consumer: commits the row `running` and the command that waits (saga.external)
//! runner:   claim (a lease) → call or probe, in no transaction → settle: rows, answer, replies
//!                           ↘ failed: a reason and a pause that grows (next_at)
//! ```
//!
//! Promised: each operation by itself, of each kind as many at once as it allows, so that a slow
//! outside delays its own sagas and nobody else; whatever was begun is worked at until it has its
//! answer, also when nobody asks for it any more; what has none is listed ([`list`](fn@list)) with the
//! reason, and counted. Any number of processes share the work. Not promised: an order.
//! If we die here, the lease ends and another process probes before it calls.
//!
//! What is to be done with an operation that was begun and is not known outside:
//!
//! | who waits for it | what is done |
//! |---|---|
//! | its command, in time | called again, with the same key |
//! | its compensation, or a probe | revoked, and answered `tombstoned` |
//! | its command, expired; or nobody for as long as a command lives | revoked, and answered `failed` with the code `expired` |
//! | nobody | nothing: only the probe is repeated |
//!
//! Where the outside cannot revoke, it stays `running`, and the probe is repeated.

mod item;
pub(crate) mod table;

mod list;

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use crate::{
    Error, Participant,
    participant::{
        external::{AT_ONCE, PATIENCE},
        outside::Limits,
    },
    telemetry,
};

pub use list::{External, list};

/// The pause after work was found or announced, doubled while there is none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The pause when nothing is due for long.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The pause when the database does not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// Between two counts of what has no answer.
const COUNTED_EVERY: Duration = Duration::from_secs(10);
/// More than that are not counted.
const COUNTED: i64 = 100_000;
/// How long operations under way may take to end when the process does.
const GRACE: Duration = Duration::from_secs(5);

/// Works at what a participant's commands have begun. A consumer of a participant runs one beside
/// itself; any number may run.
pub struct Runner {
    participant: Participant,
    pool: PgPool,
    hint: Arc<Notify>,
}

/// Operations under way, by kind.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<String>,
    by_kind: HashMap<String, usize>,
}

impl Runner {
    pub(crate) fn new(participant: Participant, pool: PgPool, hint: Arc<Notify>) -> Self {
        Self {
            participant,
            pool,
            hint,
        }
    }

    /// Works until told to stop; then what is under way has some seconds to end.
    pub async fn run(self, shutdown: CancellationToken) {
        if !self.participant.asks_outside() {
            return;
        }
        let mut under_way = UnderWay::default();
        let (mut pause, mut counted) = (SHORTEST_PAUSE, None::<Instant>);
        while !shutdown.is_cancelled() {
            if counted.is_none_or(|at| at.elapsed() > COUNTED_EVERY) {
                counted = Some(Instant::now());
                self.count().await;
            }
            pause = match self.start(&mut under_way).await {
                Ok(0) => pause,
                Ok(_) => SHORTEST_PAUSE,
                Err(error) => {
                    warn!(%error, "the operations that wait for something outside cannot be read");
                    OUTAGE_PAUSE
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.hint.notified() => pause = SHORTEST_PAUSE,
                Some(ended) = under_way.tasks.join_next() => {
                    under_way.ended(ended);
                    pause = SHORTEST_PAUSE;
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
        let _ = tokio::time::timeout(GRACE, under_way.all_ended()).await;
        // Aborted in its `begin`, a task would leave a transaction open on a pooled connection.
        under_way.tasks.detach_all();
    }

    /// Works at what is due now, as much as may be under way at once. How many operations that were.
    ///
    /// # Errors
    ///
    /// When the database does not answer. That an operation failed is no error here: it is put off
    /// with the reason.
    pub async fn run_once(&self) -> Result<usize, Error> {
        let mut under_way = UnderWay::default();
        let started = self.start(&mut under_way).await;
        under_way.all_ended().await;
        started
    }

    /// Begins what is due, where there is room.
    async fn start(&self, under_way: &mut UnderWay) -> Result<usize, Error> {
        while let Some(ended) = under_way.tasks.try_join_next() {
            under_way.ended(ended);
        }
        let limits = self.participant.limits();
        let rooms: Vec<_> = limits
            .map(|(kind, limits)| {
                let busy = under_way.by_kind.get(kind).copied().unwrap_or_default();
                (kind, limits, limits.at_once.max(1).saturating_sub(busy))
            })
            .filter(|(_, _, room)| *room > 0)
            .collect();
        if rooms.is_empty() {
            return Ok(0);
        }
        // A task of its own, so that a claim once begun is not forgotten.
        let items = table::claim(&self.pool, &rooms).await?;
        let started = items.len();
        for item in items {
            *under_way.by_kind.entry(item.kind.clone()).or_default() += 1;
            let operation = &item.operation;
            let span = info_span!(
                "saga.external",
                participant = self.participant.name(),
                saga_id = %operation.saga_id,
                step = operation.step,
                phase = operation.phase.as_str(),
            );
            let (participant, pool) = (self.participant.clone(), self.pool.clone());
            let working = async move {
                item::work(&participant, &pool, &item).await;
                item.kind
            };
            under_way.tasks.spawn(working.instrument(span));
        }
        Ok(started)
    }

    async fn count(&self) {
        match table::census(&self.pool, COUNTED).await {
            Ok((running, failing, oldest)) => {
                telemetry::external_running(self.participant.name(), running, failing, oldest);
            }
            Err(error) => warn!(%error, "what waits for something outside cannot be counted"),
        }
    }
}

impl UnderWay {
    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(kind) => {
                if let Some(busy) = self.by_kind.get_mut(&kind) {
                    *busy = busy.saturating_sub(1);
                }
            }
            // Panics are caught where they happen; of this one nobody knows the kind.
            Err(error) => {
                warn!(%error, "an operation with something outside ended by itself");
                if self.tasks.is_empty() {
                    self.by_kind.clear();
                }
            }
        }
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
    }
}

/// Of compensations that ask nothing outside and only wait for their action.
pub(crate) const INSIDE: Limits = Limits {
    patience: PATIENCE,
    at_once: AT_ONCE,
};
