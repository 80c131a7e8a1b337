//! Time passes, and what else wakes a saga from here.
//!
//! What passes here: every timer that is due by the database's clock; sagas whose claim was granted
//! by another one's end; replies that waited for a replica of their version. Promised: a due timer
//! becomes one more input of its saga; many sagas share a transaction, each read and decided by
//! itself; one that fails for a reason of its own is parked with it, one that fails otherwise is put
//! off, for longer each time; neither stops or starves another. Not promised: punctuality beyond the
//! poll's pause. If we die here, the timer is still due and any replica fires it.

use std::{
    ops::AddAssign,
    sync::Mutex,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{PgPool, PgTransaction};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug_span, warn};
use uuid::Uuid;

use crate::{
    Error,
    coordinator::{Coordinator, Failed, Turns, stop},
    locks, pending,
    table::{self, Locked},
    telemetry,
};

/// Sagas whose turns share a transaction.
const BATCH: i64 = 100;

/// The pause after work was found, doubled while there is none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// The pause when nothing is due for long.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// The pause when the database does not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// How often all timers are looked at, not only those that have become due just now; also how late a
/// transaction may commit a timer that is due already.
const ALL_EVERY: Duration = Duration::from_secs(1);

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
    /// When nothing at all was due, by the database's clock and by ours.
    nothing_due: Mutex<Option<(DateTime<Utc>, Instant)>>,
}

impl Timers {
    pub(crate) fn new(coordinator: Coordinator, pool: PgPool) -> Self {
        Self {
            coordinator,
            pool,
            nothing_due: Mutex::default(),
        }
    }

    /// Fires what is due, until told to stop. A transaction once begun is finished.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = SHORTEST_PAUSE;
        while !shutdown.is_cancelled() {
            // Nothing of one item's panics that far; if anything does, it ends this look alone.
            pause = match outbox::caught(self.look(self.since())).await {
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
    /// When the database does not answer. A saga that cannot go on is no error here: it is parked
    /// with the reason, or its timers are put off where the reason may pass.
    pub async fn run_once(&self) -> Result<Fired, Error> {
        self.look(None).await
    }

    /// As [`Timers::run_once`], of timers that have become due since then.
    async fn look(&self, since: Option<DateTime<Utc>>) -> Result<Fired, Error> {
        // These are for the log alone: a look that finds nothing is no trace. What is found has a
        // span of its own. Grants first, because it is a timer that a grant sets; and what was
        // answered before what is overdue. None of the three stops the others.
        let granted = self.grant().instrument(debug_span!("saga.grants")).await;
        is_no_outage(&granted)?;
        let kept = pending::take_up(&self.coordinator, &self.pool);
        let kept = kept.instrument(debug_span!("saga.pending")).await;
        is_no_outage(&kept)?;
        let fired = self.fire_due(since);
        let fired = fired.instrument(debug_span!("saga.timers")).await;
        Ok(match (fired?, granted? + kept?) {
            (Fired::None, 0) => Fired::None,
            (Fired::Some(fired), others) => Fired::Some(fired + others),
            (Fired::None, others) => Fired::Some(others),
            (Fired::Postponed, _) => Fired::Postponed,
        })
    }

    /// From when on timers may have become due that were not when all were looked at last. What is
    /// older need not be walked over each time: an old snapshot anywhere keeps every index entry that
    /// ever stood there.
    fn since(&self) -> Option<DateTime<Utc>> {
        let nothing_due = *self.nothing_due.lock().ok()?;
        let (then, looked) = nothing_due?;
        (looked.elapsed() < ALL_EVERY).then(|| then - ALL_EVERY)
    }

    async fn fire_due(&self, since: Option<DateTime<Utc>>) -> Result<Fired, Error> {
        let mut all = Done::default();
        // Of sagas whose timers could not be fired together; one of them cannot go on.
        let mut apart = Vec::new();
        loop {
            let (sagas, came) = self.fire(&Wanted::Due(since)).await?;
            match came {
                // All were looked at too early, and are moved on; there may be more.
                Ok(done) if done == Done::default() && sagas.len() >= BATCH as usize => continue,
                Ok(done) => all += done,
                Err(error) => apart.push((sagas, error)),
            }
            break;
        }
        while let Some((sagas, error)) = apart.pop() {
            if let [saga] = sagas[..] {
                let failed = Failed::new("cannot write what its timers lead to", error);
                let mut tx = self.pool.begin_with(table::BEGIN).await?;
                give_up(&mut tx, saga, &failed).await?;
                tx.commit().await?;
                all.failed += 1;
                continue;
            }
            let (one, other) = sagas.split_at(sagas.len() / 2);
            for half in [one, other] {
                match self.fire(&Wanted::These(half)).await? {
                    (_, Ok(done)) => all += done,
                    (_, Err(error)) => apart.push((half.to_vec(), error)),
                }
            }
        }
        telemetry::timers_fired(all.fired);
        Ok(match all {
            Done { failed: 1.., .. } => Fired::Postponed,
            Done { fired: 0, .. } => Fired::None,
            Done { fired, .. } => Fired::Some(fired),
        })
    }

    /// Fires the due timers of sagas in one transaction. Which sagas these were, and what came of it;
    /// an error of the database itself is the outer one.
    async fn fire(&self, wanted: &Wanted<'_>) -> Result<(Vec<Uuid>, Result<Done, Error>), Error> {
        let mut tx = self.pool.begin_with(table::BEGIN).await?;
        let locked = match wanted {
            Wanted::Due(since) => {
                let nothing_due = table::nothing_due(&mut tx, *since).await?;
                if since.is_none()
                    && let Ok(mut looked) = self.nothing_due.lock()
                {
                    *looked = nothing_due.map(|now| (now, Instant::now()));
                }
                if nothing_due.is_some() {
                    return Ok((Vec::new(), Ok(Done::default())));
                }
                let known = self.coordinator.known();
                table::lock_due_instances(&mut tx, &known, *since, BATCH).await?
            }
            Wanted::These(sagas) => table::load_for_update(&mut tx, sagas).await?,
        };
        let ids: Vec<Uuid> = locked.iter().map(|saga| saga.id).collect();
        if ids.is_empty() {
            return Ok((ids, Ok(Done::default())));
        }
        match self.decide(&mut tx, locked).await {
            Ok(done) => {
                let committed = tx.commit().await.map_err(Error::from);
                Ok((ids, committed.map(|()| done)))
            }
            Err(error) => {
                tx.rollback().await?;
                Ok((ids, Err(error)))
            }
        }
    }

    /// Decides about each by itself, and writes what was decided together.
    async fn decide(&self, tx: &mut PgTransaction<'_>, locked: Vec<Locked>) -> Result<Done, Error> {
        let ids: Vec<Uuid> = locked.iter().map(|saga| saga.id).collect();
        let traces = table::last_traces(tx, &ids).await?;
        let (mut loaded, mut failed) = (Vec::with_capacity(ids.len()), Vec::new());
        for Locked { id, loaded: saga } in locked {
            match saga {
                // Parked as a whole meanwhile.
                Ok(saga) if saga.instance.stopped => {}
                Ok(saga) => loaded.push(saga),
                Err(error) => failed.push((id, Failed::new("cannot go on", error))),
            }
        }
        let mut turns = Turns::of(&self.coordinator, loaded);
        put_off_unsent(tx, &mut turns).await?;
        let mut fired = 0;
        for id in ids {
            match turns.fire(id, traces.get(&id)) {
                Ok(timers) => fired += timers,
                Err(error) => {
                    turns.forget(id);
                    failed.push((id, error));
                }
            }
        }
        turns.write(tx).await?;
        for (id, failed) in &failed {
            give_up(tx, *id, failed).await?;
        }
        let failed = failed.len();
        Ok(Done { fired, failed })
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
}

/// A command that the relay has not sent yet has not been ignored: its timer is put off, and costs no
/// attempt.
async fn put_off_unsent(tx: &mut PgTransaction<'_>, turns: &mut Turns<'_>) -> Result<(), Error> {
    let (attempts, topics): (Vec<_>, Vec<_>) = turns
        .overdue()
        .into_iter()
        .map(|(id, due, topic)| ((id, due), topic))
        .unzip();
    if attempts.is_empty() {
        return Ok(());
    }
    let sent_in = table::sent_in(tx, &attempts).await?;
    let asked = attempts.iter().zip(&topics).zip(sent_in);
    let asked = asked.map(|(((id, _), topic), xid)| outbox::Sent {
        xid,
        topic: (*topic).to_owned(),
        key: id.to_string(),
    });
    let asked: Vec<_> = asked.collect();
    let unsent = outbox::unsent(tx, &asked).await?;
    for ((id, due), unsent) in attempts.iter().zip(unsent) {
        turns.put_off(*id, due, unsent);
    }
    Ok(())
}

/// Which sagas' timers to fire.
enum Wanted<'a> {
    /// Those that are due, of those that have become so since then.
    Due(Option<DateTime<Utc>>),
    These(&'a [Uuid]),
}

/// What became of timers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Done {
    /// Timers that became a decision.
    fired: usize,
    /// Sagas that are parked for it, or put off.
    failed: usize,
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.fired += other.fired;
        self.failed += other.failed;
    }
}

/// An outage is not tried at three times.
fn is_no_outage(came: &Result<usize, Error>) -> Result<(), Error> {
    match came {
        Err(Error::Outbox(error)) if error.is_database_outage() => {
            Err(outbox::Error::transient(error.to_string()).into())
        }
        _ => Ok(()),
    }
}

/// A saga that fails for a reason of its own is parked with it. Any other is put off, each time for
/// longer: what stands in its way may pass.
async fn give_up(tx: &mut PgTransaction<'_>, saga_id: Uuid, failed: &Failed) -> Result<(), Error> {
    if failed.error.is_the_sagas_own() && stop(tx, saga_id, failed).await? {
        return Ok(());
    }
    warn!(%saga_id, error = %failed, "a timer could not be fired and is put off");
    table::postpone_timers(tx, saga_id).await?;
    telemetry::timer_postponed();
    Ok(())
}
