//! Moves records from the client's thread to one worker per partition.
//!
//! The client must be polled steadily, whatever the handlers do, or the group takes its partitions
//! away. So a full worker does not block the pump: its partition is paused until there is room.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    broker::{Record, Subscription},
    incoming::{Handler, worker::Worker},
};

const POLL: Duration = Duration::from_millis(50);
/// While a partition is paused, how soon it is looked at again.
const POLL_PAUSED: Duration = Duration::from_millis(2);

/// One partition's worker, seen from the pump.
struct Lane {
    records: mpsc::Sender<Record>,
    /// Did not fit; the partition is paused while there are any.
    overflow: Vec<Record>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs until `shutdown`, or until the subscription is beyond help.
pub(super) async fn run<H: Handler>(
    subscription: Arc<Box<dyn Subscription>>,
    worker: Worker<H>,
    joined: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let grace = worker.config.grace;
    // The pump is a thread: when this future is dropped, it must end too.
    let shutdown = shutdown.child_token();
    let _stop = shutdown.clone().drop_guard();
    let runtime = Handle::current();
    let shared = Arc::clone(&subscription);
    let pump = move || pump(&shared, &worker, &joined, &shutdown, &runtime);
    let (ended, lanes) = tokio::task::spawn_blocking(pump)
        .await
        .unwrap_or_else(|error| (Err(Error::Broker(error.to_string())), Vec::new()));
    // All at once, so that none begins another batch while another is waited for.
    for lane in &lanes {
        lane.stop.cancel();
    }
    let deadline = Instant::now() + grace;
    for lane in lanes {
        drop(lane.records);
        let left = deadline.saturating_duration_since(Instant::now());
        // A worker that outlives the deadline is left to finish its transaction; the records it
        // still holds come again.
        let _ = tokio::time::timeout(left, lane.task).await;
    }
    // Leaving may block, so not here; the deadline bounds how long anyone waits for it.
    let leave = tokio::task::spawn_blocking(move || subscription.leave());
    let left = deadline.saturating_duration_since(Instant::now());
    let _ = tokio::time::timeout(left.max(Duration::from_secs(1)), leave).await;
    ended
}

type Lanes = HashMap<(String, i32), Lane>;

fn pump<H: Handler>(
    subscription: &Arc<Box<dyn Subscription>>,
    worker: &Worker<H>,
    joined: &watch::Sender<bool>,
    shutdown: &CancellationToken,
    runtime: &Handle,
) -> (Result<(), Error>, Vec<Lane>) {
    let mut lanes = Lanes::new();
    // Lanes of partitions taken away, finishing what is under way.
    let mut leaving: Vec<Lane> = Vec::new();
    let mut ended = Ok(());
    while !shutdown.is_cancelled() && ended.is_ok() {
        let paused = lanes.values().any(|lane| !lane.overflow.is_empty());
        let polled = subscription.poll(if paused { POLL_PAUSED } else { POLL });
        if subscription.has_joined() {
            joined.send_if_modified(|joined| !std::mem::replace(joined, true));
        }
        leaving.retain(|lane| !lane.task.is_finished());
        for place in subscription.take_revoked() {
            let Some(lane) = lanes.remove(&place) else {
                continue;
            };
            // Its next owner reads the rest. The client remembers a pause for when the partition
            // comes back.
            if !lane.overflow.is_empty() {
                subscription.set_paused(&place.0, place.1, false);
            }
            lane.stop.cancel();
            leaving.push(lane);
        }
        for ((topic, partition), lane) in &mut lanes {
            if lane.records.is_closed() {
                ended = Err(Error::Broker(format!(
                    "the worker of {topic}/{partition} died"
                )));
            } else if !lane.overflow.is_empty() && lane.drain() {
                subscription.set_paused(topic, *partition, false);
            }
        }
        match polled {
            Ok(None) => {}
            Ok(Some(record)) => {
                let (topic, partition) = (record.topic.clone(), record.partition);
                let lane = lanes
                    .entry((topic.clone(), partition))
                    .or_insert_with(|| Lane::start(subscription, worker, runtime));
                match lane.push(record) {
                    Pushed::Queued => {}
                    Pushed::Full => subscription.set_paused(&topic, partition, true),
                    Pushed::Dead => {
                        ended = Err(Error::Broker(format!(
                            "the worker of {topic}/{partition} died"
                        )));
                    }
                }
            }
            Err(error) => ended = Err(error),
        }
    }
    leaving.extend(lanes.into_values());
    (ended, leaving)
}

/// What became of a record handed to a lane.
enum Pushed {
    Queued,
    /// It waits in the overflow; the partition must be paused.
    Full,
    /// Nobody will ever handle it here.
    Dead,
}

impl Lane {
    fn start<H: Handler>(
        subscription: &Arc<Box<dyn Subscription>>,
        worker: &Worker<H>,
        runtime: &Handle,
    ) -> Self {
        // Room for the batch under way and the next.
        let (records, queue) = mpsc::channel(worker.config.batch * 2);
        let stop = CancellationToken::new();
        let (worker, subscription) = (worker.clone(), Arc::clone(subscription));
        let task = runtime.spawn({
            let stop = stop.clone();
            async move { worker.run(queue, &**subscription, &stop).await }
        });
        Self {
            records,
            overflow: Vec::new(),
            stop,
            task,
        }
    }

    fn push(&mut self, record: Record) -> Pushed {
        if !self.overflow.is_empty() {
            // Fetched before the pause took effect.
            self.overflow.push(record);
            return Pushed::Queued;
        }
        match self.records.try_send(record) {
            Ok(()) => Pushed::Queued,
            Err(mpsc::error::TrySendError::Full(record)) => {
                self.overflow.push(record);
                Pushed::Full
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Pushed::Dead,
        }
    }

    /// Hands over what did not fit. Returns whether all of it did.
    fn drain(&mut self) -> bool {
        let free = self.records.capacity().min(self.overflow.len());
        for record in self.overflow.drain(..free) {
            // There was room, and this thread is the only sender.
            let _ = self.records.try_send(record);
        }
        self.overflow.is_empty()
    }
}
