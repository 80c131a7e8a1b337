//! Time passes.
//!
//! What passes here: every timer that is due by the database's clock. Promised: a due timer
//! becomes one more input of its saga, in one transaction of its own; one that fails is put off,
//! for longer each time, and starves no other. Not promised: punctuality beyond the poll's pause.
//! If we die here, the timer is still due and any replica fires it.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};
use uuid::Uuid;

use crate::{Error, coordinator::Coordinator, event::Input, table, telemetry};

/// The pause after work was found, doubled while there is none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// The pause when nothing is due for long.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// The pause when the database does not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What one look at the timers came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// This many timers of one saga were fired.
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

    /// Takes one saga with timers due and fires them, in one transaction.
    ///
    /// # Errors
    ///
    /// When the database does not answer. A saga that cannot go on is no error here: its timers
    /// are put off and the reason is logged.
    pub async fn run_once(&self) -> Result<Fired, Error> {
        let mut tx = self.pool.begin_with(table::BEGIN).await?;
        let Some(saga_id) = table::lock_due_instance(&mut tx).await? else {
            return Ok(Fired::None);
        };
        let span = info_span!("saga.timer", %saga_id);
        async {
            let fired = match self.fire(&mut tx, saga_id).await {
                Ok(fired) => tx.commit().await.map(|()| fired).map_err(Error::from),
                Err(error) => {
                    tx.rollback().await?;
                    Err(error)
                }
            };
            match fired {
                Ok(fired) => {
                    telemetry::timers_fired(fired);
                    Ok(Fired::Some(fired))
                }
                Err(error) => self.postpone(saga_id, error).await,
            }
        }
        .instrument(span)
        .await
    }

    async fn fire(&self, tx: &mut sqlx::PgTransaction<'_>, saga_id: Uuid) -> Result<usize, Error> {
        let timers = table::take_due_timers(tx, saga_id).await?;
        let fired = timers.len();
        for timer in timers {
            let loaded = table::load_for_update(tx, saga_id).await?;
            let loaded = loaded.ok_or(Error::UnknownSaga(saga_id))?;
            self.coordinator
                .turn(tx, loaded, &Input::Timer(timer))
                .await?;
        }
        Ok(fired)
    }

    async fn postpone(&self, saga_id: Uuid, error: Error) -> Result<Fired, Error> {
        warn!(%error, "a timer could not be fired and is put off");
        let mut tx = self.pool.begin_with(table::BEGIN).await?;
        table::postpone_timers(&mut tx, saga_id).await?;
        tx.commit().await?;
        telemetry::timer_postponed();
        Ok(Fired::Postponed)
    }
}
