//! Moves records from the client's thread to one worker per partition.
//!
//! The client must be polled steadily, whatever the handlers do, or the group takes its partitions
//! away. So a full worker does not block the pump: its partition is paused until there is room.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    broker::{Record, Subscription},
    incoming::{
        Handler,
        lane::{Lane, Pushed},
        membership::Membership,
        watchdog::Watchdog,
        worker::{Place, Worker},
    },
};

const POLL: Duration = Duration::from_millis(50);
/// While a partition is paused, how soon it is looked at again.
const POLL_PAUSED: Duration = Duration::from_millis(2);

/// Runs until `shutdown`, or until the subscription is beyond help.
pub(super) async fn run<H: Handler>(
    subscription: Box<dyn Subscription>,
    worker: Worker<H>,
    membership: Membership,
    watchdog: &mut Watchdog,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let subscription = Arc::<dyn Subscription>::from(subscription);
    let grace = worker.handling.config.grace;
    // The pump is a thread: when this future is dropped, it must end too.
    let stop = shutdown.child_token();
    let _stop = stop.clone().drop_guard();
    let pump = Pump {
        subscription: Arc::clone(&subscription),
        worker,
        membership,
        runtime: Handle::current(),
        stop: stop.clone(),
        lanes: Vec::new(),
        leaving: Vec::new(),
    };
    let mut pumping = tokio::task::spawn_blocking(move || pump.run());
    let (pumped, stalled) = tokio::select! {
        pumped = &mut pumping => (pumped, None),
        stalled = watchdog.watch(&subscription) => {
            stop.cancel();
            (pumping.await, Some(stalled))
        }
    };
    let (ended, lanes) =
        pumped.unwrap_or_else(|error| (Err(Error::Broker(error.to_string())), Vec::new()));
    // All at once, so that none begins another batch while another is waited for.
    for lane in &lanes {
        lane.stop.cancel();
    }
    let deadline = Instant::now() + grace;
    for lane in lanes {
        let left = deadline.saturating_duration_since(Instant::now());
        // A worker that outlives the deadline is left to finish its transaction; the records it
        // still holds come again.
        let _ = tokio::time::timeout(left, lane.task).await;
    }
    // Leaving may block, so not here; the deadline bounds how long anyone waits for it.
    let leave = tokio::task::spawn_blocking(move || subscription.leave());
    let left = deadline.saturating_duration_since(Instant::now());
    let _ = tokio::time::timeout(left.max(Duration::from_secs(1)), leave).await;
    stalled.map_or(ended, Err)
}

struct Pump<H> {
    subscription: Arc<dyn Subscription>,
    worker: Worker<H>,
    membership: Membership,
    runtime: Handle,
    stop: CancellationToken,
    lanes: Vec<Lane>,
    /// Lanes of partitions taken away, finishing what is under way.
    leaving: Vec<Lane>,
}

impl<H: Handler> Pump<H> {
    fn run(mut self) -> (Result<(), Error>, Vec<Lane>) {
        let mut ended = Ok(());
        while !self.stop.is_cancelled() && ended.is_ok() {
            ended = self.step();
        }
        self.leaving.extend(self.lanes);
        (ended, self.leaving)
    }

    fn step(&mut self) -> Result<(), Error> {
        let paused = self.lanes.iter().any(Lane::is_paused);
        let polled = self
            .subscription
            .poll(if paused { POLL_PAUSED } else { POLL });
        if self.subscription.has_joined() {
            self.membership.joined();
        }
        self.membership.refused(self.subscription.refused());
        self.leaving.retain(|lane| !lane.task.is_finished());
        for (topic, partition) in self.subscription.take_revoked() {
            let Some(at) = self.find(&topic, partition) else {
                continue;
            };
            // Its next owner reads the rest. The client remembers a pause for when the partition
            // comes back.
            let lane = self.lanes.swap_remove(at);
            if lane.is_paused() {
                self.subscription.set_paused(&topic, partition, false);
            }
            lane.stop.cancel();
            self.leaving.push(lane);
        }
        // Before their first record, so that a partition whose topic was made anew is noticed even
        // where nothing comes.
        for (topic, partition) in self.subscription.take_assigned() {
            self.lane(topic, partition);
        }
        for lane in &mut self.lanes {
            if lane.is_dead() {
                return Err(died(lane));
            }
            if lane.drain() {
                self.subscription
                    .set_paused(&lane.topic, lane.partition, false);
            }
        }
        match polled? {
            None => Ok(()),
            Some(record) => self.push(record),
        }
    }

    fn push(&mut self, record: Record) -> Result<(), Error> {
        let Some(at) = self.lane(record.topic.clone(), record.partition) else {
            // Taken away while it was on its way here: another's.
            return Ok(());
        };
        let lane = &mut self.lanes[at];
        match lane.push(record) {
            Pushed::Queued => Ok(()),
            Pushed::Full => {
                self.subscription
                    .set_paused(&lane.topic, lane.partition, true);
                Ok(())
            }
            Pushed::Dead => Err(died(lane)),
        }
    }

    /// Where the lane of a partition is, which is made if need be; `None` when it is not assigned.
    fn lane(&mut self, topic: String, partition: i32) -> Option<usize> {
        if let Some(at) = self.find(&topic, partition) {
            return Some(at);
        }
        let assignment = self.subscription.assignment(&topic, partition)?;
        let lane = self.start(Place {
            topic,
            partition,
            assignment,
        });
        self.lanes.push(lane);
        Some(self.lanes.len() - 1)
    }

    fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.lanes
            .iter()
            .position(|lane| lane.partition == partition && lane.topic == topic)
    }

    fn start(&self, place: Place) -> Lane {
        let (worker, subscription) = (self.worker.clone(), Arc::clone(&self.subscription));
        let key = (place.topic.clone(), place.partition);
        // When the future that all this is done for is dropped, the workers end too.
        let stop = self.stop.child_token();
        let config = &self.worker.handling.config;
        Lane::new(key, config, stop, |queue, stop| {
            self.runtime
                .spawn(async move { worker.run(queue, &place, &subscription, &stop).await })
        })
    }
}

fn died(lane: &Lane) -> Error {
    Error::Broker(format!(
        "the worker of {}/{} died",
        lane.topic, lane.partition
    ))
}
