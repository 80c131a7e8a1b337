//! Time passes, and what else wakes a saga from here.
//!
//! What passes here: every timer that is due by the database's clock; sagas whose claim was granted
//! by another one's end; replies that waited for a replica of their version. Promised: a due timer
//! becomes one more input of its saga; many sagas share a transaction, and if one of them cannot go
//! on each gets its own; one that fails is put off, for longer each time, and starves no other. Not
//! promised: punctuality beyond the poll's pause. If we die here, the timer is still due and any
//! replica fires it.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span, warn};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Turns},
    locks, pending, table, telemetry,
};

/// Sagas whose turns share a transaction.
const BATCH: i64 = 100;

/// The pause after work was found, doubled while there is none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// The pause when nothing is due for long.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// The pause when the database does not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// So many timers, grants and kept replies became turns.
    Some(usize),
    /// A saga's timers could not be fired and were put off.
    Postponed,
    /// Nothing was due, or others are at it.
    None,
}

/// Fires what is due. See [`Coordinator::timers`].
pub struct Timers {
    coordinator: Coordinator,
    pool: PgPool,
}

impl Timers {
    pub(crate) fn new(coordinator: Coordinator, pool: PgPool) -> Self {
        Self { coordinator, pool }
    }

    /// Fires what is due, until told to stop. A transaction once begun is finished.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = SHORTEST_PAUSE;
        while !shutdown.is_cancelled() {
            pause = match self.run_once().await {
                Ok(Fired::Some(_) | Fired::Postponed) => {
                    pause = SHORTEST_PAUSE;
                    continue;
                }
                Ok(Fired::None) => pause,
                Err(error) => {
                    warn!(%error, "timers cannot be read");
                    OUTAGE_PAUSE
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes what is due now, up to a batch of each sort.
    ///
    /// # Errors
    ///
    /// When the database does not answer. A saga that cannot go on is no error here: its timers
    /// are put off and the reason is logged.
    pub async fn run_once(&self) -> Result<Fired, Error> {
        // These are for the log alone: a look that finds nothing is no trace. What is found has a
        // span of its own. Grants first, because it is a timer that a grant sets.
        let granted = self.grant().instrument(debug_span!("saga.grants")).await?;
        let fired = self
            .fire_due()
            .instrument(debug_span!("saga.timers"))
            .await?;
        let kept = pending::take_up(&self.coordinator, &self.pool);
        let kept = kept.instrument(debug_span!("saga.pending")).await?;
        Ok(match (fired, granted + kept) {
            (Fired::None, 0) => Fired::None,
            (Fired::Some(fired), others) => Fired::Some(fired + others),
            (Fired::None, others) => Fired::Some(others),
            (Fired::Postponed, _) => Fired::Postponed,
        })
    }

    async fn fire_due(&self) -> Result<Fired, Error> {
        let fired = loop {
            match self.fire(BATCH).await {
                // All were looked at too early, and are moved on; there may be more.
                Ok((sagas, Ok(0))) if sagas.len() >= BATCH as usize => {}
                fired => break fired,
            }
        };
        match fired {
            Ok((_, Ok(0))) => return Ok(Fired::None),
            Ok((_, Ok(fired))) => {
                telemetry::timers_fired(fired);
                return Ok(Fired::Some(fired));
            }
            Ok((sagas, Err(error))) if sagas.len() == 1 => {
                return self.postpone(sagas[0], error).await;
            }
            Ok((_, Err(_))) => {}
            Err(error) => return Err(error),
        }
        // One of them cannot go on: each by itself, as often as there were many.
        let (mut all, mut postponed) = (0, false);
        for _ in 0..BATCH {
            match self.fire(1).await? {
                (_, Ok(0)) => break,
                (_, Ok(fired)) => {
                    telemetry::timers_fired(fired);
                    all += fired;
                }
                (sagas, Err(error)) => {
                    for saga_id in sagas {
                        let error = error.to_string();
                        self.postpone(saga_id, error).await?;
                    }
                    postponed = true;
                }
            }
        }
        Ok(match (postponed, all) {
            (true, _) => Fired::Postponed,
            (false, 0) => Fired::None,
            (false, fired) => Fired::Some(fired),
        })
    }

    /// Fires the due timers of up to `limit` sagas in one transaction. Which sagas these were, and
    /// what came of it; an error of the database itself is the outer one.
    async fn fire(&self, limit: i64) -> Result<(Vec<Uuid>, Result<usize, Error>), Error> {
        let mut tx = self.pool.begin_with(table::BEGIN).await?;
        if !table::is_any_due(&mut tx).await? {
            return Ok((Vec::new(), Ok(0)));
        }
        let known = self.coordinator.known();
        let loaded = table::lock_due_instances(&mut tx, &known, limit).await?;
        let ids: Vec<Uuid> = loaded.iter().map(|l| l.instance.id).collect();
        if ids.is_empty() {
            return Ok((ids, Ok(0)));
        }
        let traces = table::last_traces(&mut tx, &ids).await?;
        let mut turns = Turns::of(&self.coordinator, loaded);
        let fired = async {
            let fired = turns.fire(&traces)?;
            turns.write(&mut tx).await?;
            Ok(fired)
        };
        match fired.await {
            Ok(fired) => {
                let committed = tx.commit().await.map_err(Error::from);
                Ok((ids, committed.map(|()| fired)))
            }
            Err(error) => {
                tx.rollback().await?;
                Ok((ids, Err(error)))
            }
        }
    }

    /// Wakes sagas whose claims were granted by another one's end: each gets a timer that is due,
    /// so that one which cannot go on is put off like any other and stops nobody.
    async fn grant(&self) -> Result<usize, Error> {
        let mut tx = self.pool.begin_with(table::BEGIN).await?;
        let granted = locks::notice(&mut tx, BATCH).await?;
        if granted.is_empty() {
            return Ok(0);
        }
        table::wake(&mut tx, &granted).await?;
        tx.commit().await?;
        Ok(granted.len())
    }

    async fn postpone(&self, saga_id: Uuid, error: impl std::fmt::Display) -> Result<Fired, Error> {
        warn!(%saga_id, %error, "a timer could not be fired and is put off");
        let mut tx = self.pool.begin_with(table::BEGIN).await?;
        table::postpone_timers(&mut tx, saga_id).await?;
        tx.commit().await?;
        telemetry::timer_postponed();
        Ok(Fired::Postponed)
    }
}
