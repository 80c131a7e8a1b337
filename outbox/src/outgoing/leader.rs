//! One leadership: from taking the lease to losing it or handing it over.
//!
//! The loop is: take deliveries, keep the lease and write the cursor, feed the producer, read the
//! next page, wait. Reading page k+1 happens while page k is on its way.
//!
//! When a delivery fails, it depends on whose fault it is. The topic's: its messages are held, the
//! others flow on. The record's, or nobody's: the leader gives the producer up and starts again
//! from the cursor; a record that was refused is then sent alone, because a record that is too
//! large fails its whole batch, and only what is refused alone is parked. What is parked has a
//! producer of its own, so that its failures do not concern the log: see [`parking`]. A topic that
//! answers nothing at all while others do is held too: see `stuck`.
//!
//! [`parking`]: crate::outgoing::parking

mod deliveries;
mod lease_keeping;
mod measuring;
mod parked;
mod stuck;

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    broker::{Broker, Delivery, SendError},
    crash,
    outgoing::{
        config::Config,
        cursor::Cursor,
        lane::{Lane, Spares},
        leader::{parked::Parked, stuck::Question},
        lease::Lease,
        reader::Reader,
        relay::Status,
        ring::{Ring, Tick},
        table::{Logged, Written, empty_partition_ahead},
        wire,
    },
    telemetry::Publishing,
    trace::Sends,
};

/// How often the ring of partitions is looked after, and what is parked is tried again.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Without an acknowledgement for so long, a leader with messages on their way calls itself stalled.
const STALLED: Duration = Duration::from_secs(3);
/// First and longest pause after an outage that broke the producer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A database that answers nothing for so long is gone, whatever the socket says. Above the
/// session's statement timeout.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Leader<'a> {
    connection: &'a mut PgConnection,
    broker: &'a dyn Broker,
    config: &'a Config,
    status: &'a watch::Sender<Status>,
    lease: Lease,

    /// Acknowledged.
    cursor: Cursor,
    /// Whether messages were acknowledged since the cursor was last written down, and when that was.
    moved: bool,
    written_at: Instant,
    /// What the last write returned, see [`Cut::floor`](crate::outgoing::cursor::Cut::floor).
    floor: i64,
    /// Read ahead of the cursor.
    reader: Reader,
    /// Read and not yet sent.
    pending: VecDeque<(Arc<Tick>, Logged)>,
    /// The tick `pending` ends, if it does.
    ending: Option<Arc<Tick>>,
    /// Sent and not yet acknowledged.
    ring: Ring,

    /// What the log is sent through, and what would take its place.
    lane: Lane,
    spares: &'a mut Spares,
    arrived: Vec<Delivery>,
    /// Records refused in company: to be sent alone.
    suspects: BTreeSet<i64>,
    /// The suspect on its way alone: its token and number.
    alone: Option<(usize, i64)>,
    /// The highest number that was given to a producer that has been given up since.
    given: i64,
    parked: Parked,
    /// What the broker is being asked about a topic that answers nothing.
    question: Option<Question<'a>>,
    /// An operator's wish, as of the last write.
    paused: bool,

    acknowledged_at: Instant,
    housekept_at: Instant,
    backoff: Duration,
    /// Nothing is sent before.
    resume_at: Instant,
    /// The log is not read before; the pause before it, growing while there is nothing.
    read_at: Instant,
    poll: Duration,

    metrics: Publishing,
    sends: Sends,
}

impl<'a> Leader<'a> {
    pub(super) fn new(
        connection: &'a mut PgConnection,
        broker: &'a dyn Broker,
        config: &'a Config,
        status: &'a watch::Sender<Status>,
        spares: &'a mut Spares,
        (lease, cursor, written): (Lease, Cursor, Written),
    ) -> Result<Self, Error> {
        let now = Instant::now();
        Ok(Self {
            connection,
            broker,
            config,
            status,
            lease,
            moved: false,
            written_at: now,
            floor: written.floor,
            reader: Reader::at(&cursor, config.page),
            cursor,
            pending: VecDeque::new(),
            ending: None,
            ring: Ring::default(),
            lane: spares.take(broker, &config.tuning)?,
            spares,
            arrived: Vec::new(),
            suspects: BTreeSet::new(),
            alone: None,
            given: 0,
            parked: Parked::default(),
            question: None,
            paused: written.paused,
            acknowledged_at: now,
            housekept_at: now,
            backoff: BACKOFF.0,
            resume_at: now,
            read_at: now,
            poll: config.poll_busy,
            metrics: Publishing::new(),
            sends: Sends::new(),
        })
    }

    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        let result = self.publish(shutdown).await;
        self.lane.abandon();
        self.parked.abandon();
        result
    }

    async fn publish(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        patiently(self.remember_parked()).await?;
        while !shutdown.is_cancelled() {
            self.take_deliveries().await?;
            patiently(self.withhold()).await?;
            patiently(self.take_parked()).await?;
            patiently(self.keep_lease()).await?;
            let mut worked = false;
            if !self.paused {
                worked = self.feed();
                patiently(self.withhold()).await?;
                let ready = self.pending.is_empty() && self.ending.is_none() && self.has_room();
                if ready && Instant::now() >= self.read_at {
                    worked |= patiently(self.read()).await?;
                }
            }
            patiently(self.keep_house()).await?;
            self.wait(worked, shutdown).await;
        }
        self.hand_over().await
    }

    fn has_room(&self) -> bool {
        self.ring.messages() < self.config.max_in_flight
            && self.ring.bytes() < self.config.max_in_flight_bytes
    }

    async fn read(&mut self) -> Result<bool, Error> {
        crash::point("before_read");
        self.sends.page();
        let page = self.reader.next(self.connection, self.floor).await?;
        crash::point("after_read");
        let worked = page.as_ref().is_some_and(|page| !page.rows.is_empty());
        // Soon while there is work, unless the broker is away: then there is nothing to be early
        // for. Otherwise ever later.
        let busy = self.ring.messages() > 0 && self.acknowledged_at.elapsed() < STALLED;
        self.poll = match worked || busy {
            true => self.config.poll_busy,
            false => slower(self.poll, self.config.poll_idle),
        };
        self.read_at = Instant::now() + self.poll;
        let Some(page) = page else { return Ok(false) };
        self.metrics.read(page.rows.len());
        if page.last {
            self.ending = Some(Arc::clone(&page.tick));
        } else {
            self.read_at = Instant::now();
        }
        let rows = page.rows.into_iter();
        self.pending
            .extend(rows.map(|row| (Arc::clone(&page.tick), row)));
        Ok(worked)
    }

    // ---- to the broker ----

    /// Sends what is pending, as far as there is room. Returns whether anything was sent.
    fn feed(&mut self) -> bool {
        let mut worked = false;
        let now = Instant::now();
        while self.alone.is_none() && self.has_room() && now >= self.resume_at {
            let Some((tick, row)) = self.pending.pop_front() else {
                if let Some(tick) = self.ending.take() {
                    self.ring.end(&tick);
                }
                break;
            };
            let suspect = self.suspects.contains(&row.seq);
            if suspect && self.ring.messages() > 0 {
                self.pending.push_front((tick, row));
                break;
            }
            if self.ring.messages() == 0 {
                // Silence is counted from the first message that could break it.
                self.acknowledged_at = now;
            }
            let bytes = row.bytes();
            let token = self.ring.push(&tick, row.seq, bytes, row.created_at, now);
            if let Some(why) = self.parked.why_not(&row) {
                self.parked.withhold(token, row, why);
                continue;
            }
            crash::point("before_produce");
            let sent = wire::send(&*self.lane.producer, token, &row, &self.config.source);
            crash::point("after_produce");
            if sent == Err(SendError::Full) {
                self.ring.take_back();
                self.pending.push_front((tick, row));
                break;
            }
            worked = true;
            self.sends.sent(token, &row);
            if suspect {
                self.alone = Some((token, row.seq));
            }
            if let Err(SendError::Failed(failure)) = sent {
                // As if the broker had answered.
                let result = Err(failure);
                self.arrived.push(Delivery { token, result });
                break;
            }
        }
        worked
    }

    /// Forgets what was read and is on its way; it is read and sent again.
    fn rewind(&mut self) {
        self.sends.rewind();
        self.ring.clear();
        self.pending.clear();
        self.parked.withheld.clear();
        self.ending = None;
        self.alone = None;
        self.reader = Reader::at(&self.cursor, self.config.page);
    }

    /// Empties the partition ahead of the writers and sees to what is parked.
    async fn keep_house(&mut self) -> Result<(), Error> {
        if self.housekept_at.elapsed() < HOUSEKEEPING {
            return Ok(());
        }
        self.housekept_at = Instant::now();
        if empty_partition_ahead(self.connection).await? {
            self.metrics.partition_emptied();
        }
        self.spares.refill(self.broker, &self.config.tuning)?;
        self.look_for_stuck().await?;
        self.measure().await?;
        self.look_for_parked().await
    }

    async fn wait(&mut self, worked: bool, shutdown: &CancellationToken) {
        if worked {
            tokio::task::yield_now().await;
            return;
        }
        // At least a little even if reading is due: there was no room for it.
        let least = match self.paused {
            true => self.config.poll_idle,
            false => self.config.poll_busy,
        };
        let until = self.read_at.max(Instant::now() + least);
        tokio::select! {
            delivery = self.lane.deliveries.recv() => self.arrived.extend(delivery),
            delivery = self.parked.delivery() => self.parked.arrived.push(delivery),
            () = sleep_until(until.into()) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// The pause between two looks grows, while there is nothing, to a quarter of the silence so far: what
/// comes after that waits for half a pause. (It doubled once. With a message every 20 ms, at random,
/// the wait was 5.6 ms on average instead of 2.6, for 185 looks a second instead of 307.)
fn slower(pause: Duration, longest: Duration) -> Duration {
    (pause + pause / 4).min(longest)
}

/// Gives up on a database that does not answer. The session ends with it, so that a statement cut
/// off in the middle does no harm.
pub(super) async fn patiently<T>(
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| {
        let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer from the server");
        Err(Error::Database(sqlx::Error::Io(silent)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_quarter_of_the_silence_and_at_last_the_longest() {
        let (shortest, longest) = (Duration::from_millis(1), Duration::from_millis(20));
        let (mut pause, mut silence) = (shortest, Duration::ZERO);
        let mut looks = 0;
        while pause < longest {
            silence += pause;
            pause = slower(pause, longest);
            looks += 1;
            let quarter = shortest + silence / 4;
            assert!(pause <= quarter, "{pause:?} after {silence:?}");
        }
        assert!(looks < 20, "{looks} looks until it is idle");
        assert_eq!(slower(pause, longest), longest);
    }
}
