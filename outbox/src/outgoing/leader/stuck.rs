//! A topic that answers nothing while the cluster does: a partition has no leader, or too few
//! replicas. The client sends such records again for ever, so nobody is told of a failure; without
//! this room they would hold the cursor back and, once as much is on its way as may be, everything
//! behind them.
//!
//! Not mistaken for it: a cluster that is away, or that acknowledges nothing to anyone. Then there
//! is nothing to flow past.

use std::time::{Duration, Instant};

use futures::{FutureExt, future::BoxFuture};

use crate::{
    Error,
    broker::Broker,
    outgoing::{leader::Leader, ring::Oldest, table},
};

/// After so long without an answer a message's topic is asked about: longer than Kafka takes to
/// choose another leader. Sooner when there is no room for other messages.
const OVERDUE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));
/// An acknowledged message that was sent so much later shows that others are served. Much longer
/// than acknowledgements of one moment are apart, or a cluster that fails would look like it.
const OVERTAKEN: Duration = Duration::from_millis(250);

/// What the broker is being asked, and about whom.
pub(super) struct Question<'a> {
    /// The message that holds the cursor back.
    seq: i64,
    topic: String,
    /// Whether a partition of the topic has no leader. An error: the broker does not answer.
    answer: BoxFuture<'a, Result<bool, Error>>,
}

impl Leader<'_> {
    /// Holds the topic of the message that has held the cursor back for too long, if the broker
    /// answers and either says that the topic has no leader or serves others.
    pub(super) async fn look_for_stuck(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.ring.oldest().filter(|oldest| self.is_overdue(oldest)) else {
            self.question = None;
            return Ok(());
        };
        let Some(question) = self
            .question
            .as_mut()
            .filter(|asked| asked.seq == oldest.seq)
        else {
            return self.ask(oldest.seq).await;
        };
        let Some(answer) = (&mut question.answer).now_or_never() else {
            return Ok(());
        };
        let topic = std::mem::take(&mut question.topic);
        self.question = None;
        let reason = match (answer, oldest.overtaken_by) {
            (Ok(true), _) => "a partition of the topic has no leader",
            (Ok(false), Some(lead)) if lead >= OVERTAKEN => {
                "the topic acknowledges nothing while others do: are there enough replicas?"
            }
            _ => return Ok(()),
        };
        self.hold_all_of(&topic, reason).await
    }

    fn is_overdue(&self, oldest: &Oldest) -> bool {
        let overdue = match self.has_room() {
            true => OVERDUE.0,
            false => OVERDUE.1,
        };
        Instant::now().saturating_duration_since(oldest.sent_at) >= overdue
    }

    async fn ask(&mut self, seq: i64) -> Result<(), Error> {
        let topics = table::topics_of(self.connection, &[seq]).await?;
        let Some((_, topic)) = topics.into_iter().next() else {
            return Ok(());
        };
        let answer = Box::pin(has_no_leader(self.broker, topic.clone()));
        self.question = Some(Question { seq, topic, answer });
        Ok(())
    }

    /// Parks what is on its way to a topic, and starts over: the client would keep these records,
    /// and the memory they take, until the topic heals.
    async fn hold_all_of(&mut self, topic: &str, reason: &str) -> Result<(), Error> {
        let outstanding: Vec<_> = self.ring.outstanding().collect();
        let seqs: Vec<_> = outstanding.iter().map(|(_, seq)| *seq).collect();
        let topics = table::topics_of(self.connection, &seqs).await?;
        for (token, seq) in outstanding {
            if topics.get(&seq).is_some_and(|of| of == topic) {
                self.parked.hold(token, seq, reason.to_owned());
            }
        }
        tracing::warn!(topic, reason, "holding a topic that answers nothing");
        self.withhold().await?;
        self.start_over()
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
