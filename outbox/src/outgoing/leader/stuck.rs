//! A topic that answers nothing while the cluster does: a partition has no leader, or too few
//! replicas. The client sends such records again for ever, so nobody is told of a failure; without
//! this file they would hold the cursor back and, once as much is in flight as may be, everything
//! behind them.
//!
//! Not mistaken for it: a cluster that is away, or that acknowledges nothing to anyone. Then there
//! is nothing to flow past. But if the broker answers questions, the topic has its leaders, and for
//! long nothing at all is acknowledged, the producer may have stopped by itself: another takes its
//! place.

use std::time::{Duration, Instant};

use futures::{FutureExt, future::BoxFuture};

use crate::{
    Error,
    broker::{Broker, Failure, FailureClass},
    outgoing::{leader::Leader, ring::Oldest},
};

/// After so long without an answer a message's topic is asked about: longer than Kafka takes to
/// choose another leader. Sooner when there is no room for other messages.
const OVERDUE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));
/// An acknowledged message that was sent so much later shows that others are served. Much longer
/// than acknowledgements of one moment are apart, or a cluster that fails would look like it.
const OVERTAKEN: Duration = Duration::from_millis(250);

/// What the broker is being asked, and about whom.
pub(super) struct Suspicion<'a> {
    /// The message that holds the cursor back.
    seq: i64,
    /// Whether a partition of its topic has no leader. An error: the broker does not answer.
    answer: BoxFuture<'a, Result<bool, Error>>,
}

impl Leader<'_> {
    /// Holds the topic of the message that has held the cursor back for too long, if the broker
    /// answers and either says that the topic has no leader or serves others.
    pub(super) async fn look_for_stuck(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.flow.oldest().filter(|oldest| self.is_overdue(oldest)) else {
            self.suspicion = None;
            return Ok(());
        };
        let Some(suspicion) = self
            .suspicion
            .as_mut()
            .filter(|asked| asked.seq == oldest.seq)
        else {
            let answer = Box::pin(has_no_leader(self.broker, oldest.topic.to_string()));
            let seq = oldest.seq;
            self.suspicion = Some(Suspicion { seq, answer });
            return Ok(());
        };
        let Some(answer) = (&mut suspicion.answer).now_or_never() else {
            return Ok(());
        };
        self.suspicion = None;
        let reason = match (answer, oldest.overtaken_by) {
            (Ok(true), _) => "a partition of the topic has no leader",
            (Ok(false), Some(lead)) if lead >= OVERTAKEN => {
                "the topic acknowledges nothing while others do: are there enough replicas?"
            }
            (Ok(false), _) if self.acknowledged_at.elapsed() >= self.config.silence => {
                let reason = "the producer answers nothing while the broker does";
                let failure = Failure {
                    class: FailureClass::Outage,
                    reason: reason.to_owned(),
                };
                return self.reset(&failure, None);
            }
            _ => return Ok(()),
        };
        // The client would keep these records, and the memory they take, until the topic heals.
        self.flow.hold_all_of(&oldest.topic, reason);
        self.withhold().await?;
        self.start_over(None)
    }

    fn is_overdue(&self, oldest: &Oldest) -> bool {
        let overdue = match self.flow.has_room() {
            true => OVERDUE.0,
            false => OVERDUE.1,
        };
        Instant::now().saturating_duration_since(oldest.sent_at) >= overdue
    }
}

async fn has_no_leader(broker: &dyn Broker, topic: String) -> Result<bool, Error> {
    let topics = [topic];
    match broker.describe(&topics).await {
        Ok(described) => Ok(described.iter().any(|topic| topic.leaderless > 0)),
        // A kind of broker that does not tell, or one that is away.
        Err(_) => broker.ping().await.map(|()| false),
    }
}
