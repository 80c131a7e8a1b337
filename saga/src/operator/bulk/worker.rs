//! Carries bulk operations out, one saga after another.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use outbox::caught;
use sqlx::{PgPool, PgTransaction};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};
use uuid::Uuid;

use crate::{
    Coordinator, Error,
    operator::{
        Request,
        bulk::{
            ItemResult,
            table::{self, Running, Taken, Turn},
        },
        intervene::intervene_as,
    },
    table as sagas, telemetry,
};

/// The pause after work was found, doubled while there is none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The pause when there is nothing to do for long.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The pause when the database does not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// How often a saga is tried whose intervention fails for a cause that may pass.
const ATTEMPTS: i32 = 8;
/// How long this replica leaves a bulk operation alone that it cannot carry out: another one may know
/// what is to be done.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worked {
    /// A saga had its turn.
    Item(ItemResult),
    /// A saga could not have its turn now and is put off.
    Postponed,
    /// A bulk operation has ended.
    Ended,
    /// There is nothing to do now.
    Idle,
}

/// Carries out what is pending. Any number of replicas may run it.
pub struct Bulks {
    coordinator: Coordinator,
    pool: PgPool,
    /// Those that this replica cannot carry out, and since when it leaves them alone.
    left: Mutex<BTreeMap<Uuid, Instant>>,
}

impl Bulks {
    /// With the definitions of this coordinator.
    #[must_use]
    pub fn new(coordinator: Coordinator, pool: PgPool) -> Self {
        Self {
            coordinator,
            pool,
            left: Mutex::default(),
        }
    }

    /// Carries out what is pending, until told to stop. A transaction once begun is finished.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = SHORTEST_PAUSE;
        while !shutdown.is_cancelled() {
            pause = match self.run_once().await {
                Ok(Worked::Item(_) | Worked::Postponed | Worked::Ended) => {
                    pause = SHORTEST_PAUSE;
                    continue;
                }
                Ok(Worked::Idle) => pause,
                Err(error) => {
                    warn!(%error, "bulk operations cannot be carried out");
                    OUTAGE_PAUSE
                }
            };
            shutdown.run_until_cancelled(sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Gives one saga its turn, of the bulk operation that has waited longest. One that cannot be read,
    /// or fails for a reason of its own, is left alone for a minute and holds up no other.
    ///
    /// # Errors
    ///
    /// The database's. A saga that cannot be intervened in is no error here: that is its result.
    pub async fn run_once(&self) -> Result<Worked, Error> {
        let mut tx = self.pool.begin_with(sagas::BEGIN).await?;
        let bulk = match table::take_running(&mut tx, &self.left()).await? {
            None => return Ok(Worked::Idle),
            Some(Taken::Whole(bulk)) => bulk,
            Some(Taken::Unreadable { id, reason }) => {
                tx.rollback().await?;
                self.leave_alone(id, &reason);
                return Ok(Worked::Postponed);
            }
        };
        match self.take_turn(tx, &bulk).await {
            Err(error) if !error.is_transient() => {
                self.leave_alone(bulk.id, &error.to_string());
                Ok(Worked::Postponed)
            }
            worked => worked,
        }
    }

    /// Those that are left alone now.
    fn left(&self) -> Vec<Uuid> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, since| since.elapsed() < LEFT_ALONE);
        left.keys().copied().collect()
    }

    fn leave_alone(&self, id: Uuid, reason: &str) {
        warn!(bulk_id = %id, reason, "a bulk operation cannot be carried out here");
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.insert(id, Instant::now());
    }

    async fn take_turn(&self, mut tx: PgTransaction<'_>, bulk: &Running) -> Result<Worked, Error> {
        let Some(turn) = table::next_turn(&mut tx, bulk.id).await? else {
            let ended = table::end_or_wait(&mut tx, bulk.id).await?;
            if ended {
                table::count_again(&mut tx, bulk.id).await?;
            }
            tx.commit().await?;
            if ended {
                info!(bulk_id = %bulk.id, "a bulk operation is done");
                return Ok(Worked::Ended);
            }
            return Ok(Worked::Idle);
        };
        let span = info_span!("saga.bulk", bulk_id = %bulk.id, saga_id = %turn.saga_id);
        self.take(tx, bulk, &turn).instrument(span).await
    }

    async fn take(
        &self,
        mut tx: PgTransaction<'_>,
        bulk: &Running,
        turn: &Turn,
    ) -> Result<Worked, Error> {
        let (request, role) = (request(bulk, turn), bulk.role.as_deref());
        let intervening = intervene_as(&mut tx, &self.coordinator, turn.saga_id, &request, role);
        let (result, detail) = match caught(intervening).await {
            Ok(_) => (ItemResult::Done, None),
            // Nothing was written: the result goes into the same transaction.
            Err(Error::NotAllowed { reason, .. }) => (ItemResult::Refused, Some(reason)),
            Err(error @ Error::Stale { .. }) => (ItemResult::Changed, Some(error.to_string())),
            Err(Error::UnknownSaga(_)) => (ItemResult::Gone, None),
            Err(error) => {
                tx.rollback().await?;
                return self.put_off(bulk, turn, &error).await;
            }
        };
        let detail = detail.map(|detail| stored(&detail));
        table::settle(&mut tx, bulk.id, turn.position, result, detail.as_deref()).await?;
        table::pace(&mut tx, bulk.id).await?;
        tx.commit().await?;
        telemetry::bulk_item(bulk.what.name(), result.as_str());
        Ok(Worked::Item(result))
    }

    /// An intervention that failed is tried again later, by whoever comes, and given up in the end:
    /// a sick saga holds up no other.
    async fn put_off(&self, bulk: &Running, turn: &Turn, error: &Error) -> Result<Worked, Error> {
        warn!(%error, failures = turn.failures + 1, "a saga of a bulk operation failed");
        let mut tx = self.pool.begin_with(sagas::BEGIN).await?;
        // Another replica may have been quicker, or the version may be known elsewhere.
        let hopeless = !error.is_transient() && !matches!(error, Error::UnknownDefinition { .. });
        let worked = if hopeless || turn.failures + 1 >= ATTEMPTS {
            let (result, detail) = (ItemResult::Failed, detail(error));
            table::settle(&mut tx, bulk.id, turn.position, result, Some(&detail)).await?;
            telemetry::bulk_item(bulk.what.name(), result.as_str());
            Worked::Item(result)
        } else {
            table::postpone(&mut tx, bulk.id, turn.position).await?;
            Worked::Postponed
        };
        table::pace(&mut tx, bulk.id).await?;
        tx.commit().await?;
        Ok(worked)
    }
}

/// The key is the bulk operation's: whatever becomes of this transaction, the saga is intervened in
/// once.
fn request(bulk: &Running, turn: &Turn) -> Request {
    Request {
        what: bulk.what.clone(),
        actor: bulk.actor.clone(),
        reason: bulk.reason.clone(),
        expected_seq: (!bulk.allow_changed).then_some(turn.expected_seq),
        idempotency_key: key(bulk.id),
        dry_run: false,
    }
}

fn key(bulk: Uuid) -> String {
    format!("bulk:{bulk}")
}

/// What the database or a hook said may quote what it was about.
fn detail(error: &Error) -> String {
    match error {
        Error::Outbox(_) => "the database or a hook refused; the log tells".to_owned(),
        error => stored(&error.to_string()),
    }
}

/// A reason as a column takes it: somebody's words may hold what PostgreSQL does not keep.
fn stored(reason: &str) -> String {
    reason.replace('\0', "\u{fffd}")
}
