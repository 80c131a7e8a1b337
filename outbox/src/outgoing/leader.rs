//! One leadership: from taking the lease to losing it or handing it over.
//!
//! The loop is: take deliveries, keep the lease and write the cursor, feed the producer, read the
//! next page, wait. Reading page k+1 happens while page k is on its way.
//!
//! What is to be done is decided in [`flow`](crate::outgoing::flow); here it is done. When a delivery
//! fails, it depends on whose fault it is. The topic's: its messages are held, the others flow on. The
//! record's, or nobody's: the leader gives the producer up and starts again from the cursor; a record
//! that was refused is then sent alone, because a record that is too large fails its whole batch, and
//! only what is refused alone is parked. What is parked has a producer of its own, so that its failures
//! do not concern the log: see [`parking`]. A topic that answers nothing at all while others do is held
//! too: see `stuck`.
//!
//! [`parking`]: crate::outgoing::parking

mod asking;
mod deliveries;
mod lease_keeping;
mod measuring;
mod parked;
mod stuck;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    broker::{Broker, Delivery, SendError, Tuning},
    crash,
    outgoing::{
        config::Config,
        cursor::Cursor,
        flow::{Flow, Room},
        lane::{Lane, Spares},
        leader::{
            asking::{Asked, Identity},
            parked::Parked,
            stuck::Suspicion,
        },
        lease::Lease,
        reader::Reader,
        relay::Reporter,
        table::{Written, empty_partition_ahead},
        wire,
    },
    telemetry::Publishing,
    trace::Sends,
};

/// How often the ring of partitions is looked after, and what is parked is tried again.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Without an acknowledgement for so long, a leader with messages on their way calls itself stalled.
const STALLED: Duration = Duration::from_secs(3);
/// How often a limit that was changed is looked for.
const LIMITS: Duration = Duration::from_secs(10);
/// A database that answers nothing for so long is gone, whatever the socket says. Above the
/// session's statement timeout.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Leader<'a> {
    connection: &'a mut PgConnection,
    broker: &'a dyn Broker,
    config: &'a Config,
    status: Reporter<'a>,
    lease: Lease,

    flow: Flow,
    /// Whether messages were acknowledged since the cursor was last written down, when that was, and
    /// what it returned.
    moved: bool,
    written_at: Instant,
    written: Written,
    /// Read ahead of the cursor.
    reader: Reader,

    /// What the log is sent through, and what would take its place.
    lane: Lane,
    spares: &'a mut Spares,
    arrived: Vec<Delivery>,
    /// The producer has no room.
    full: bool,
    /// What producers are made with now, and whether the one in use was made with something else.
    tuning: Tuning,
    outdated: bool,
    parked: Parked,
    /// What the broker is being asked before anything is sent.
    asked: Option<Asked<'a>>,
    /// Which broker this is, until it has said so.
    identity: Option<Identity<'a>>,
    /// The topic that answers nothing, while the broker is being asked about it.
    suspicion: Option<Suspicion<'a>>,

    acknowledged_at: Instant,
    housekept_at: Instant,
    limits_at: Instant,
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
        status: Reporter<'a>,
        spares: &'a mut Spares,
        (lease, cursor, written): (Lease, Cursor, Written),
    ) -> Result<Self, Error> {
        let now = Instant::now();
        let room = Room {
            messages: config.max_in_flight,
            bytes: config.max_in_flight_bytes,
        };
        Ok(Self {
            connection,
            broker,
            config,
            status,
            lease,
            moved: false,
            written_at: now,
            reader: Reader::at(&cursor, config.page),
            written,
            flow: Flow::at(cursor, room, config.tuning.batch_bytes, now),
            lane: spares.take(broker, &config.tuning)?,
            spares,
            arrived: Vec::new(),
            full: false,
            tuning: config.tuning.clone(),
            outdated: false,
            parked: Parked::default(),
            asked: None,
            identity: Some(broker.identity()),
            suspicion: None,
            acknowledged_at: now,
            housekept_at: now,
            limits_at: now,
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
        self.remember_parked().await?;
        while !shutdown.is_cancelled() {
            self.take_deliveries().await?;
            patiently(self.withhold()).await?;
            patiently(self.take_parked()).await?;
            patiently(self.keep_lease()).await?;
            patiently(self.take_answer()).await?;
            let mut worked = false;
            if !self.written.paused && !self.awaits_producer()? {
                worked = self.feed();
                worked |= patiently(self.withhold()).await?;
                if self.flow.wants_rows() && Instant::now() >= self.read_at {
                    worked |= patiently(self.read()).await?;
                }
            }
            patiently(self.keep_house()).await?;
            self.wait(worked, shutdown).await;
        }
        self.hand_over().await
    }

    async fn read(&mut self) -> Result<bool, Error> {
        crash::point("before_read");
        self.sends.page();
        let page = self
            .reader
            .next(self.connection, &self.lease, self.written.floor)
            .await?;
        crash::point("after_read");
        let worked = page.as_ref().is_some_and(|page| !page.rows.is_empty());
        // Soon while there is work, unless the broker is away: then there is nothing to be early
        // for. Otherwise ever later.
        let busy = self.flow.in_flight() > 0 && self.acknowledged_at.elapsed() < STALLED;
        self.poll = match worked || busy {
            true => self.config.poll_busy,
            false => slower(self.poll, self.config.poll_idle),
        };
        self.read_at = Instant::now() + self.poll;
        let Some(page) = page else { return Ok(false) };
        self.metrics.read(page.rows.len());
        if !page.last {
            self.read_at = Instant::now();
        }
        self.flow.take(page);
        Ok(worked)
    }

    // ---- to the broker ----

    /// Sends what was read, as far as there is room. Returns whether anything was sent.
    fn feed(&mut self) -> bool {
        let mut worked = false;
        let now = Instant::now();
        self.full = false;
        loop {
            if self.flow.in_flight() == 0 {
                // Silence is counted from the first message that could break it.
                self.acknowledged_at = now;
            }
            let Some((token, row)) = self.flow.next(now) else {
                return worked;
            };
            crash::point("before_produce");
            let sent = wire::send(&*self.lane.producer, token, &row, &self.config.source);
            crash::point("after_produce");
            if sent == Err(SendError::Full) {
                self.full = true;
                self.flow.not_sent(token, row);
                return worked;
            }
            worked = true;
            self.sends.sent(token, &row);
            if let Err(SendError::Failed(failure)) = sent {
                // As if the broker had answered.
                let result = Err(failure);
                self.arrived.push(Delivery { token, result });
                return worked;
            }
        }
    }

    /// Forgets what was read and is in flight; it is read and sent again.
    fn rewind(&mut self) {
        self.sends.rewind();
        self.flow.rewind();
        self.reader = Reader::at(self.flow.cursor(), self.config.page);
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
        self.look_at_broker().await?;
        self.look_for_limits().await?;
        self.spares.refill(self.broker, &self.tuning)?;
        self.look_for_stuck().await?;
        self.measure().await?;
        self.look_for_parked().await
    }

    async fn wait(&mut self, worked: bool, shutdown: &CancellationToken) {
        if worked {
            tokio::task::yield_now().await;
            return;
        }
        // At least a little even if reading is due: there was no room for it. Room comes with a
        // delivery, which is waited for as well.
        let waits = self.written.paused || self.full || !self.flow.wants_rows();
        let least = match waits {
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
