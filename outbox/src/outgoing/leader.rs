//! One leadership: from taking the lease to losing it or handing it over.
//!
//! The loop is: take deliveries, keep the lease and write the cursor, feed the producer, read the
//! next page, wait. Reading page k+1 happens while page k is on its way.
//!
//! When a delivery fails, it depends on whose fault it is. The topic's: its messages are held
//! (see [`Held`]), the others flow on. The record's, or nobody's: the leader gives the producer up
//! and starts again from the cursor; a record that was refused is then sent alone, because a
//! record that is too large fails its whole batch, and only what is refused alone is parked.

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use sqlx::{Connection, PgConnection, PgTransaction};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    broker::{Broker, Delivery, Failure, FailureClass, Producer, SendError},
    crash,
    outgoing::{
        cursor::Cursor,
        held::Held,
        lease::Lease,
        reader::Reader,
        relay::{Config, Status},
        ring::{Ring, Tick},
        table::{self, Logged},
        wire,
    },
    telemetry,
};

/// How often the ring of partitions is looked after, and held messages are tried again.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// Without an acknowledgement for so long, a leader with messages on their way calls itself stalled.
const STALLED: Duration = Duration::from_secs(3);
/// First and longest pause after an outage that broke the producer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A database that answers nothing for so long is gone, whatever the socket says. Above the
/// session's statement timeout.
const PATIENCE: Duration = Duration::from_secs(20);
const BEGIN: &str = "begin isolation level read committed";

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

    producer: Box<dyn Producer>,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    arrived: Vec<Delivery>,
    /// Records refused in company: to be sent alone.
    suspects: BTreeSet<i64>,
    /// The suspect on its way alone: its token and number.
    alone: Option<(usize, i64)>,
    held: Held,
    /// To be held: tokens, numbers, and the last reason.
    withheld: (Vec<(usize, i64)>, String),

    acknowledged_at: Instant,
    housekept_at: Instant,
    backoff: Duration,
    /// Nothing is sent before.
    resume_at: Instant,
    /// The log is not read before; the pause before it, growing while there is nothing.
    read_at: Instant,
    poll: Duration,
}

impl<'a> Leader<'a> {
    pub(super) fn new(
        connection: &'a mut PgConnection,
        broker: &'a dyn Broker,
        config: &'a Config,
        status: &'a watch::Sender<Status>,
        (lease, cursor, floor): (Lease, Cursor, i64),
    ) -> Result<Self, Error> {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let now = Instant::now();
        Ok(Self {
            connection,
            broker,
            config,
            status,
            lease,
            moved: false,
            written_at: now,
            floor,
            reader: Reader::at(&cursor, config.page),
            cursor,
            pending: VecDeque::new(),
            ending: None,
            ring: Ring::default(),
            producer: broker.producer(&config.tuning, sender)?,
            deliveries,
            arrived: Vec::new(),
            suspects: BTreeSet::new(),
            alone: None,
            held: Held::default(),
            withheld: Default::default(),
            acknowledged_at: now,
            housekept_at: now,
            backoff: BACKOFF.0,
            resume_at: now,
            read_at: now,
            poll: config.poll_busy,
        })
    }

    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        let result = self.publish(shutdown).await;
        // Freeing the producer blocks; nobody waits for it.
        tokio::task::spawn_blocking(move || self.producer.abandon());
        result
    }

    async fn publish(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        let topics = patiently(table::held_topics(self.connection)).await?;
        self.held.hold(topics);
        while !shutdown.is_cancelled() {
            self.take_deliveries().await?;
            patiently(self.keep_lease()).await?;
            let mut worked = self.feed();
            patiently(self.withhold()).await?;
            let ready = self.pending.is_empty() && self.ending.is_none() && self.has_room();
            if ready && Instant::now() >= self.read_at {
                worked |= patiently(self.read()).await?;
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
        let page = self.reader.next(self.connection, self.floor).await?;
        crash::point("after_read");
        let worked = page.as_ref().is_some_and(|page| !page.rows.is_empty());
        // Soon while there is work, unless the broker is away: then there is nothing to be early
        // for. Otherwise ever later.
        let busy = self.ring.messages() > 0 && self.acknowledged_at.elapsed() < STALLED;
        self.poll = match worked || busy {
            true => self.config.poll_busy,
            false => (self.poll * 2).min(self.config.poll_idle),
        };
        self.read_at = Instant::now() + self.poll;
        let Some(page) = page else { return Ok(false) };
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
        while self.alone.is_none() && self.has_room() && Instant::now() >= self.resume_at {
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
                self.acknowledged_at = Instant::now();
            }
            let token = self.ring.push(&tick, row.seq, row.bytes(), row.created_at);
            if self.held.contains(&row.topic) {
                self.withheld.0.push((token, row.seq));
                continue;
            }
            crash::point("before_produce");
            let sent = wire::send(&*self.producer, token, &row, &self.config.source);
            crash::point("after_produce");
            if sent == Err(SendError::Full) {
                self.ring.take_back();
                self.pending.push_front((tick, row));
                break;
            }
            worked = true;
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

    async fn take_deliveries(&mut self) -> Result<(), Error> {
        while let Ok(delivery) = self.deliveries.try_recv() {
            self.arrived.push(delivery);
        }
        let mut broken = None;
        let mut healed = Vec::new();
        for Delivery { token, result } in std::mem::take(&mut self.arrived) {
            if let Some(tried) = self.held.tried(token, result.is_ok()) {
                match result {
                    Ok(()) => healed.push(tried.seq),
                    Err(failure) if failure.class == FailureClass::Outage => {
                        broken = Some((token, failure));
                    }
                    // In company it may be another's fault; the next try is alone.
                    Err(failure) if failure.class == FailureClass::Record && tried.alone => {
                        patiently(self.condemn(tried.seq, &failure)).await?;
                    }
                    Err(_) => {}
                }
                continue;
            }
            let Err(failure) = result else {
                crash::point("before_ack");
                self.ring.acknowledge(token);
                crash::point("after_ack");
                continue;
            };
            // A report from before a reset names nothing any more.
            let Some(seq) = self.ring.seq_of(token) else {
                continue;
            };
            match failure.class {
                FailureClass::Topic => {
                    self.alone.take_if(|(alone, _)| *alone == token);
                    self.withheld.0.push((token, seq));
                    self.withheld.1 = failure.reason;
                    continue;
                }
                FailureClass::Record => drop(self.suspects.insert(seq)),
                FailureClass::Outage => {}
            }
            broken = Some((token, failure));
        }
        self.advance();
        if !healed.is_empty() {
            patiently(self.unpark(&healed)).await?;
        }
        match (broken, self.alone) {
            (None, _) => Ok(()),
            (Some((token, failure)), Some((alone, seq)))
                if token == alone && failure.class == FailureClass::Record =>
            {
                patiently(self.park(token, seq, &failure)).await
            }
            (Some((_, failure)), _) => self.reset(&failure),
        }
    }

    /// Moves the cursor over what is acknowledged without a gap.
    fn advance(&mut self) {
        let now = Utc::now();
        let mut published = 0;
        let moved = self.ring.advance(|created_at| {
            published += 1;
            let seconds = (now - created_at).num_microseconds().unwrap_or(0).max(0) as f64 / 1e6;
            metrics::histogram!(telemetry::COMMIT_TO_ACK).record(seconds);
        });
        metrics::gauge!(telemetry::IN_FLIGHT).set(self.ring.messages() as f64);
        let Some(cursor) = moved else { return };
        if let Some((_, seq)) = self.alone.take_if(|(token, _)| self.ring.is_past(*token)) {
            tracing::info!(seq, "a suspect was acknowledged when sent alone");
            self.suspects.remove(&seq);
        }
        self.cursor = cursor;
        if published > 0 {
            self.moved = true;
            metrics::counter!(telemetry::PUBLISHED).increment(published);
            self.acknowledged_at = Instant::now();
            self.backoff = BACKOFF.0;
        }
    }

    /// Gives up the producer and everything on its way; it is read and sent again.
    fn reset(&mut self, failure: &Failure) -> Result<(), Error> {
        tracing::warn!(
            reason = failure.reason,
            in_flight = self.ring.messages(),
            suspects = self.suspects.len(),
            "a delivery failed, starting a new producer at the cursor"
        );
        metrics::counter!(telemetry::PRODUCER_RESETS).increment(1);
        let (sender, deliveries) = mpsc::unbounded_channel();
        let fresh = self.broker.producer(&self.config.tuning, sender)?;
        let former = std::mem::replace(&mut self.producer, fresh);
        // The former's late reports go to a channel that nobody reads.
        self.deliveries = deliveries;
        tokio::task::spawn_blocking(move || former.abandon());
        self.ring.clear();
        self.held.clear();
        self.withheld.0.clear();
        self.pending.clear();
        self.ending = None;
        self.alone = None;
        self.reader = Reader::at(&self.cursor, self.config.page);
        if failure.class == FailureClass::Outage {
            self.resume_at = Instant::now() + self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
        Ok(())
    }

    // ---- to outbox.parked and back, each in one transaction that only the leader can commit ----

    /// Keeps a full copy of a record refused alone, and moves the cursor past it.
    async fn park(&mut self, token: usize, seq: i64, failure: &Failure) -> Result<(), Error> {
        self.ring.acknowledge(token);
        self.advance();
        self.alone = None;
        self.suspects.remove(&seq);
        let (mut tx, floor) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        table::park(&mut tx, &[seq], "poison", &failure.reason).await?;
        crash::point("before_park");
        tx.commit().await?;
        crash::point("after_park");
        self.written(floor);
        metrics::counter!(telemetry::PARKED, "class" => "poison").increment(1);
        tracing::warn!(
            seq,
            reason = failure.reason,
            "parked a message in outbox.parked"
        );
        Ok(())
    }

    /// Keeps full copies of the messages of topics that refuse; the cursor may pass them then.
    async fn withhold(&mut self) -> Result<(), Error> {
        let (withheld, reason) = &mut self.withheld;
        if withheld.is_empty() {
            return Ok(());
        }
        let (tokens, seqs): (Vec<_>, Vec<_>) = withheld.drain(..).unzip();
        let (mut tx, floor) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        table::park(&mut tx, &seqs, "held", reason).await?;
        crash::point("before_hold");
        tx.commit().await?;
        crash::point("after_hold");
        self.held.hold(table::held_topics(self.connection).await?);
        for token in tokens {
            self.ring.acknowledge(token);
        }
        self.written(floor);
        metrics::counter!(telemetry::PARKED, "class" => "held").increment(seqs.len() as u64);
        tracing::warn!(
            messages = seqs.len(),
            reason = self.withheld.1,
            "holding messages of a topic"
        );
        Ok(())
    }

    /// Tries held messages once more, the oldest of each topic first.
    async fn retry_held(&mut self) -> Result<(), Error> {
        for (topic, limit) in self.held.due() {
            let rows = table::held(self.connection, &topic, limit).await?;
            if rows.is_empty() {
                tracing::info!(topic, "the topic takes messages again");
                self.held.release(&topic);
            }
            for row in rows {
                let token = self.held.try_one(&topic, row.seq);
                let sent = wire::send(&*self.producer, token, &row, &self.config.source);
                let Err(refused) = sent else { continue };
                if let SendError::Failed(failure) = refused {
                    // As if the broker had answered.
                    let result = Err(failure);
                    self.arrived.push(Delivery { token, result });
                } else {
                    self.held.tried(token, false);
                }
                // What would follow it must not overtake.
                break;
            }
        }
        Ok(())
    }

    /// Forgets held messages that were acknowledged, and goes on with those behind them.
    async fn unpark(&mut self, seqs: &[i64]) -> Result<(), Error> {
        let (mut tx, floor) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        table::unpark(&mut tx, seqs).await?;
        crash::point("before_unpark");
        tx.commit().await?;
        crash::point("after_unpark");
        self.written(floor);
        self.retry_held().await
    }

    /// A held message whose topic heals, and which is refused for its own sake.
    async fn condemn(&mut self, seq: i64, failure: &Failure) -> Result<(), Error> {
        let (mut tx, floor) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        table::condemn(&mut tx, seq, &failure.reason).await?;
        tx.commit().await?;
        self.written(floor);
        metrics::counter!(telemetry::PARKED, "class" => "poison").increment(1);
        Ok(())
    }

    // ---- to outbox.relay ----

    /// Renews the lease and writes the cursor down: at most every `cursor_interval` while messages
    /// are acknowledged, and three times in a lease while not. Called from this loop alone, so
    /// that a leader that hangs loses its lease.
    async fn keep_lease(&mut self) -> Result<(), Error> {
        let due = match self.moved {
            true => self.config.cursor_interval,
            false => self.config.lease / 3,
        };
        if self.written_at.elapsed() >= due {
            self.write_cursor().await?;
            self.report();
        }
        Ok(())
    }

    async fn write_cursor(&mut self) -> Result<(), Error> {
        let connection = &mut *self.connection;
        crash::point("before_cursor");
        let floor =
            table::advance(connection, &self.lease, self.config.lease, &self.cursor).await?;
        crash::point("after_cursor");
        self.written(floor);
        Ok(())
    }

    /// Notes a committed write.
    fn written(&mut self, floor: i64) {
        self.floor = floor;
        self.written_at = Instant::now();
        self.moved = false;
    }

    fn report(&self) {
        let stalled = self.ring.messages() > 0 && self.acknowledged_at.elapsed() > STALLED;
        let status = match stalled {
            true => Status::Stalled,
            false => Status::Leading,
        };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed && stalled {
                tracing::warn!("the broker acknowledges nothing; waiting for it");
            } else if changed {
                tracing::info!("the broker acknowledges again");
            }
            *current = status;
            changed
        });
    }

    /// Empties the partition ahead of the writers and tries held messages again.
    async fn keep_house(&mut self) -> Result<(), Error> {
        if self.housekept_at.elapsed() < HOUSEKEEPING {
            return Ok(());
        }
        self.housekept_at = Instant::now();
        if table::empty_partition_ahead(self.connection).await? {
            metrics::counter!(telemetry::PARTITIONS_EMPTIED).increment(1);
        }
        self.retry_held().await
    }

    async fn wait(&mut self, worked: bool, shutdown: &CancellationToken) {
        if worked {
            tokio::task::yield_now().await;
            return;
        }
        // At least a little even if reading is due: there was no room for it.
        let until = self.read_at.max(Instant::now() + self.config.poll_busy);
        tokio::select! {
            delivery = self.deliveries.recv() => self.arrived.extend(delivery),
            () = sleep_until(until.into()) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Waits for what is on its way, writes the cursor and gives the lease back.
    async fn hand_over(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.grace;
        while self.ring.messages() > 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::select! {
                delivery = self.deliveries.recv() => self.arrived.extend(delivery),
                () = sleep(left.min(self.config.lease / 4)) => {}
            }
            while let Ok(delivery) = self.deliveries.try_recv() {
                self.arrived.push(delivery);
            }
            for delivery in std::mem::take(&mut self.arrived) {
                // What failed is not acknowledged: the next leader sends it again.
                if delivery.result.is_ok() {
                    self.ring.acknowledge(delivery.token);
                }
            }
            self.advance();
            patiently(self.keep_lease()).await?;
        }
        patiently(self.write_cursor()).await?;
        crash::point("before_release");
        patiently(table::release(self.connection, &self.lease)).await?;
        crash::point("after_release");
        let unacknowledged = self.ring.messages();
        tracing::info!(unacknowledged, "handed the lease over");
        Ok(())
    }
}

/// Opens a transaction that proves the lease and writes the cursor first; returns its floor too.
async fn begin<'c>(
    connection: &'c mut PgConnection,
    lease: &Lease,
    config: &Config,
    cursor: &Cursor,
) -> Result<(PgTransaction<'c>, i64), Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let floor = table::advance(&mut *tx, lease, config.lease, cursor).await?;
    Ok((tx, floor))
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
