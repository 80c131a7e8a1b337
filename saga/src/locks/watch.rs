//! Old claims are told of, never taken away; only from a saga that has ended.
//!
//! What passes here: how many claims wait and how old the oldest are, as metrics; claims held for
//! long, in the log; claims of ended sagas, on their way out. Promised: each of those held for long
//! is told once, and again only after a while; what is told of is the oldest; a claim whose saga has
//! ended is given up within some looks, one for each [`PAGE`] sagas that claim something. Not
//! promised: that anybody acts; only its saga, or a person who cancels it, gives a claim up. If we
//! die here, the next one looks again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    Error,
    locks::{exchange::release, table},
    table as sagas, telemetry,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15);
/// After which a claim is called held for long, unless set.
const LONG: Duration = Duration::from_secs(60 * 60);
/// After which the same claim is told of again, unless set.
const AGAIN: Duration = Duration::from_secs(60 * 60);
/// How many claims are told of at most; the others are older soon enough.
const TOLD: i64 = 20;

/// How many sagas with claims are asked in one look whether they have ended.
const PAGE: i64 = 2_000;

/// How old the claims are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// How many wait.
    pub waiting: i64,
    /// How many were granted and their sagas have not noticed.
    pub unnoticed: i64,
    /// How long the oldest of those who wait does.
    pub oldest_waiting: Duration,
    /// How long the oldest claim is held.
    pub oldest_held: Duration,
    /// Which of those held for long were told of this time.
    pub told: Vec<(Uuid, String)>,
    /// Ended sagas whose claims were given up this time.
    pub ended: Vec<Uuid>,
}

/// Looks at the ages of claims.
pub struct Watch {
    pool: PgPool,
    long: Duration,
    again: Duration,
    told: HashMap<(Uuid, String), Instant>,
    /// The last saga that was asked whether it has ended.
    asked: Uuid,
}

impl Watch {
    /// Looks at the claims in this database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            long: LONG,
            again: AGAIN,
            told: HashMap::new(),
            asked: Uuid::nil(),
        }
    }

    /// A claim held for longer than this is told of in the log. An hour unless set: longer than a
    /// saga of yours should take, shorter than the patience of who waits for it.
    #[must_use]
    pub fn held_for_long(mut self, long: Duration) -> Self {
        self.long = long;
        self
    }

    /// How soon the same claim is told of again. An hour unless set.
    #[must_use]
    pub fn told_again_after(mut self, again: Duration) -> Self {
        self.again = again;
        self
    }

    /// Looks every 15 seconds, until told to stop.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.run_once().await {
                warn!(%error, "the ages of claims cannot be read");
            }
            shutdown
                .run_until_cancelled(tokio::time::sleep(EVERY))
                .await;
        }
    }

    /// Looks once.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn run_once(&mut self) -> Result<Seen, Error> {
        let ages = table::ages(&self.pool).await?;
        let mut seen = Seen {
            waiting: ages.waiting,
            unnoticed: ages.unnoticed,
            oldest_waiting: seconds(ages.oldest_waiting_seconds),
            oldest_held: seconds(ages.oldest_held_seconds),
            told: Vec::new(),
            ended: self.give_up_ended().await?,
        };
        if seen.oldest_held > self.long {
            seen.told = self.tell().await?;
        }
        telemetry::locks(&seen);
        Ok(seen)
    }

    /// Gives up what ended sagas claim, of the next page of sagas that claim something. None should:
    /// a saga's end gives its claims up.
    async fn give_up_ended(&mut self) -> Result<Vec<Uuid>, Error> {
        let claimants = table::claimants_after(&self.pool, self.asked, PAGE).await?;
        let is_last = i64::try_from(claimants.len()).is_ok_and(|found| found < PAGE);
        let last = claimants.last().filter(|_| !is_last);
        self.asked = last.copied().unwrap_or_default();
        if claimants.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.pool.begin_with(sagas::BEGIN).await?;
        let ended = table::lock_ended(&mut tx, &claimants).await?;
        if ended.is_empty() {
            return Ok(ended);
        }
        release(&mut tx, &ended).await?;
        tx.commit().await?;
        for saga_id in &ended {
            warn!(%saga_id, "the saga has ended and claimed resources still; they are given up now");
        }
        Ok(ended)
    }

    async fn tell(&mut self) -> Result<Vec<(Uuid, String)>, Error> {
        let again = self.again;
        self.told.retain(|_, when| when.elapsed() < again);
        let mut told = Vec::new();
        for claim in table::held_longer_than(&self.pool, self.long.as_secs_f64(), TOLD).await? {
            let (saga_id, resource) = (claim.saga_id, claim.resource);
            let this = (saga_id, resource.clone());
            if self.told.contains_key(&this) {
                continue;
            }
            let (held_seconds, waiters) = (claim.seconds.round(), claim.waiters);
            warn!(
                %saga_id, resource, held_seconds, waiters,
                "a claim is held for long; see what its saga waits for, cancel or resume it"
            );
            self.told.insert(this.clone(), Instant::now());
            told.push(this);
        }
        Ok(told)
    }
}

/// A clock that was set back makes an age negative.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}
