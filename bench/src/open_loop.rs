//! A load that does not wait for what it measures.
//!
//! Every message has a time at which it is meant to be written, whatever became of those before it.
//! A closed loop would stop writing while the system stalls, and so leave the stalls out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use outbox::{
    Message,
    broker::{Broker, Subscription},
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;

use crate::world::{KIND, payloads};

/// A time for each message, in µs since the beginning.
pub(crate) struct Times {
    epoch: Instant,
    micros: Vec<AtomicU64>,
}

impl Times {
    fn new(epoch: Instant, messages: usize) -> Self {
        let micros = (0..messages).map(|_| AtomicU64::new(0)).collect();
        Self { epoch, micros }
    }

    /// Notes that it happened now, unless it happened before.
    pub(crate) fn note(&self, n: usize) {
        let Some(slot) = self.micros.get(n) else {
            return;
        };
        let now = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Zero means never.
        let _ = slot.compare_exchange(0, now.max(1), Relaxed, Relaxed);
    }

    /// When it happened, if it did.
    pub(crate) fn of(&self, n: usize) -> Option<u64> {
        let micros = self.micros.get(n)?.load(Relaxed);
        (micros > 0).then_some(micros)
    }
}

/// What happened to each message, and when.
pub(crate) struct Stamps {
    pub(crate) epoch: Instant,
    /// The writer heard that its transaction is committed.
    pub(crate) committed: Times,
    /// The relay gave it to the client.
    pub(crate) sent: Times,
    /// The broker's acknowledgement came.
    pub(crate) acknowledged: Times,
    /// The consumer had it in hand.
    pub(crate) consumed: Times,
}

impl Stamps {
    pub(crate) fn new(messages: usize) -> Self {
        let epoch = Instant::now();
        let times = || Times::new(epoch, messages);
        Self {
            epoch,
            committed: times(),
            sent: times(),
            acknowledged: times(),
            consumed: times(),
        }
    }
}

/// So many messages a second, one in each transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rate: u64,
    pub(crate) messages: usize,
    pub(crate) writers: usize,
    /// When the first is due, after the beginning of the stamps.
    pub(crate) begin: Duration,
}

impl Load {
    /// When a message is meant to be written.
    pub(crate) fn due(&self, n: usize) -> Duration {
        self.begin + Duration::from_nanos(n as u64 * 1_000_000_000 / self.rate)
    }

    /// Writes them all, or until `stop`. Every writer is a thread with a connection of its own:
    /// tasks would share their runtime, and its clock of milliseconds, with the relay.
    pub(crate) async fn write(
        self,
        options: PgConnectOptions,
        topic: &str,
        stamps: Arc<Stamps>,
        stop: CancellationToken,
    ) -> Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let payloads = Arc::new(payloads());
        let writers: Vec<_> = (0..self.writers)
            .map(|_| {
                let writer = Writer {
                    load: self,
                    next: Arc::clone(&next),
                    stamps: Arc::clone(&stamps),
                    payloads: Arc::clone(&payloads),
                    topic: topic.to_owned(),
                    stop: stop.clone(),
                };
                let options = options.clone();
                tokio::task::spawn_blocking(move || {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?
                        .block_on(writer.run(options))
                })
            })
            .collect();
        for writer in writers {
            writer.await??;
        }
        Ok(())
    }
}

struct Writer {
    load: Load,
    next: Arc<AtomicUsize>,
    stamps: Arc<Stamps>,
    payloads: Arc<Vec<Vec<u8>>>,
    topic: String,
    stop: CancellationToken,
}

impl Writer {
    async fn run(self, options: PgConnectOptions) -> Result<()> {
        let mut connection = PgConnection::connect_with(&options).await?;
        loop {
            let n = self.next.fetch_add(1, Relaxed);
            if n >= self.load.messages || self.stop.is_cancelled() {
                return Ok(connection.close().await?);
            }
            let early = self.load.due(n).saturating_sub(self.stamps.epoch.elapsed());
            // The thread has nothing else to do, and its sleep is finer than the runtime's.
            std::thread::sleep(early);
            let payload = self.payloads[n % self.payloads.len()].clone();
            let message = Message::raw(&self.topic, n.to_string(), KIND, payload);
            let mut tx = connection.begin().await?;
            outbox::enqueue(&mut tx, &message).await?;
            tx.commit().await?;
            self.stamps.committed.note(n);
        }
    }
}

/// Notes when each message of a topic comes in, until all have or the deadline.
pub(crate) struct Arrivals {
    reading: tokio::task::JoinHandle<Result<()>>,
}

impl Arrivals {
    /// Joins the group, and returns when that is done.
    pub(crate) async fn of(
        broker: &dyn Broker,
        topic: &str,
        messages: usize,
        deadline: Duration,
        stamps: Arc<Stamps>,
    ) -> Result<Self> {
        let subscription = broker.subscribe("arrivals", &[topic.to_owned()])?;
        let deadline = Instant::now() + deadline;
        let (joined, joining) = tokio::sync::oneshot::channel();
        let reading = tokio::task::spawn_blocking(move || {
            while !subscription.has_joined() {
                subscription.poll(Duration::from_millis(10))?;
                if Instant::now() > deadline {
                    bail!("the consumer did not join its group");
                }
            }
            // Who waits for it may have given up.
            let _ = joined.send(());
            read(&*subscription, messages, deadline, &stamps)
        });
        joining.await.context("the consumer ended early")?;
        Ok(Self { reading })
    }

    pub(crate) async fn all(self) -> Result<()> {
        self.reading.await?
    }
}

fn read(
    subscription: &dyn Subscription,
    messages: usize,
    deadline: Instant,
    stamps: &Stamps,
) -> Result<()> {
    let mut left = messages;
    while left > 0 {
        if Instant::now() > deadline {
            bail!("{left} of {messages} messages did not arrive");
        }
        let Some(record) = subscription.poll(Duration::from_millis(100))? else {
            continue;
        };
        let n: usize = String::from_utf8(record.key.unwrap_or_default())?.parse()?;
        if stamps.consumed.of(n).is_none() {
            stamps.consumed.note(n);
            left -= 1;
        }
    }
    subscription.leave();
    Ok(())
}
