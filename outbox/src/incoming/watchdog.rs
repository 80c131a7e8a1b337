//! Notices a client that has stopped delivering.
//!
//! Clients of this sort have been seen to stop fetching a partition for ever while everything looks
//! well: they heartbeat, they are polled, they report no error. So now and then the broker is asked
//! where its partitions end. One that has more, is not paused and has not moved for too long means
//! that the client must go; a new one joins in its place. Nothing is lost by it: what is not
//! committed comes again.
//!
//! Not noticed: a client that is stuck while the broker does not answer; that heals with the broker, or
//! is noticed then. A partition whose last offsets hold no records (the end marks of a foreign producer's
//! transactions) looks like a stalled one; it costs one reset for each such end, never a second.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    Error,
    broker::{Backlog, Subscription},
    telemetry,
};

/// How often it looks at most, which is how old the metric of what is not handled yet can be.
const LOOK: Duration = Duration::from_secs(15);

/// What it knows of the partitions. Outlives the clients.
pub(super) struct Watchdog {
    consumer: Arc<str>,
    patience: Duration,
    /// Where the client stood, and since when.
    standing: HashMap<(String, i32), (i64, Instant)>,
    /// Ends for which a client was given up already.
    blamed: HashMap<(String, i32), i64>,
}

impl Watchdog {
    pub(super) fn new(consumer: Arc<str>, patience: Duration) -> Self {
        Self {
            consumer,
            patience,
            standing: HashMap::new(),
            blamed: HashMap::new(),
        }
    }

    /// Returns when the client has stalled, with what is to be said of it.
    pub(super) async fn watch(&mut self, subscription: &Arc<dyn Subscription>) -> Error {
        self.standing.clear();
        loop {
            sleep(LOOK.min(self.patience / 4)).await;
            let asked = Arc::clone(subscription);
            // Asks the broker, so not on the thread that polls, and not on one that must not block.
            let backlog = tokio::task::spawn_blocking(move || asked.backlog()).await;
            match backlog {
                Ok(Ok(backlog)) => {
                    self.tell_lag(&backlog);
                    if let Some(stalled) = self.look(&backlog, Instant::now()) {
                        return self.report(&stalled);
                    }
                }
                // The broker is away: nobody can say who stalls.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot ask for the ends of partitions");
                    self.standing.clear();
                }
                Err(error) => tracing::debug!(%error, "watchdog"),
            }
        }
    }

    /// What is not handled yet of the partitions that this member has.
    fn tell_lag(&self, backlog: &[Backlog]) {
        let behind = |partition: &Backlog| (partition.end - partition.handled).max(0);
        let lag = backlog.iter().map(behind).sum();
        telemetry::consumer_lag(Arc::clone(&self.consumer), lag);
    }

    fn report(&self, stalled: &Backlog) -> Error {
        let consumer = Arc::clone(&self.consumer);
        telemetry::client_reset(consumer);
        Error::Broker(format!(
            "the client delivers nothing from {}/{}: it has stood at {} for {:?}, and there is more up to {}",
            stalled.topic, stalled.partition, stalled.position, self.patience, stalled.end
        ))
    }

    /// Compares with the last look.
    fn look(&mut self, backlog: &[Backlog], now: Instant) -> Option<Backlog> {
        let mut standing = HashMap::with_capacity(backlog.len());
        let mut stalled = None;
        // A paused one has its own reasons to stand still.
        for partition in backlog.iter().filter(|partition| !partition.paused) {
            if partition.position >= partition.end {
                continue;
            }
            let place = (partition.topic.clone(), partition.partition);
            let since = match self.standing.get(&place) {
                Some((position, since)) if *position == partition.position => *since,
                _ => now,
            };
            if now.duration_since(since) >= self.patience
                && self.blamed.get(&place) != Some(&partition.end)
            {
                self.blamed.insert(place.clone(), partition.end);
                stalled = Some(partition.clone());
            }
            standing.insert(place, (partition.position, since));
        }
        self.standing = standing;
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: i64, end: i64) -> Vec<Backlog> {
        vec![Backlog {
            topic: "t".into(),
            partition: 0,
            position,
            handled: position,
            paused: false,
            end,
        }]
    }

    #[test]
    fn only_who_stands_still_before_more_for_too_long_has_stalled() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new("c".into(), Duration::from_secs(60));
        let mut stalled =
            |seconds, backlog: Vec<Backlog>| watchdog.look(&backlog, after(seconds)).is_some();
        // An idle topic.
        assert!(!stalled(0, at(5, 5)));
        assert!(!stalled(500, at(5, 5)));
        // It moves.
        assert!(!stalled(510, at(5, 90)));
        assert!(!stalled(569, at(6, 90)));
        assert!(!stalled(600, at(6, 95)));
        // Paused for a while: counted anew.
        assert!(!stalled(620, vec![]));
        assert!(!stalled(640, at(6, 95)));
        assert!(!stalled(699, at(6, 95)));
        assert!(stalled(700, at(6, 95)));
        // The same end is no reason twice; another is.
        assert!(!stalled(800, at(6, 95)));
        assert!(stalled(801, at(6, 96)));
    }
}
