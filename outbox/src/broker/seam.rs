//! What the pipe needs of a broker.

use std::{future::ready, str::FromStr, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::Error;

/// A broker that messages go to and come from.
pub trait Broker: Send + Sync + 'static {
    /// Makes sure the topics exist and have leaders. An existing topic is left as it is.
    ///
    /// Fails with [`Error::Broker`] when the broker is away or refuses.
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>>;

    /// The largest record that each of these topics takes, in bytes, as a batch of its own and with
    /// everything that is sent. `None` where the broker does not say: the topic is unknown to it, or
    /// the question not permitted. A broker that is not asked for anything says nothing.
    ///
    /// Fails with [`Error::Broker`] when the broker is away.
    fn limits<'a>(&'a self, topics: &'a [String]) -> BoxFuture<'a, Result<Limits, Error>> {
        let silent = topics.iter().map(|topic| (topic.clone(), None)).collect();
        Box::pin(async { Ok(silent) })
    }

    /// What the cluster calls itself: another name is another cluster, with none of its messages. `None`
    /// where the broker does not say, or does not answer.
    fn identity(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(ready(None))
    }

    /// Asks whether the broker answers, for readiness. Fails with [`Error::Broker`].
    fn ping(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// A new producer, which reports each record's fate to `deliveries`.
    ///
    /// Fails with [`Error::Broker`] only when its settings are wrong: it connects by itself.
    fn producer(&self, tuning: &Tuning, deliveries: Deliveries)
    -> Result<Box<dyn Producer>, Error>;

    /// Joins the consumer group and takes part in sharing out the topics' partitions.
    ///
    /// Fails with [`Error::Broker`] only when its settings are wrong.
    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error>;

    /// How long each of the topics is kept, in the order given. A broker that does not know says so
    /// for all of them.
    ///
    /// Fails with [`Error::Broker`] when it does not answer.
    fn retention<'a>(
        &'a self,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Retention>, Error>> {
        Box::pin(ready(Ok(vec![Retention::Unknown; topics.len()])))
    }

    /// What the broker says of each of the topics, in their order, for whoever looks it over.
    ///
    /// Fails with [`Error::Broker`] when it is away, or is of a kind that does not tell.
    fn describe<'a>(
        &'a self,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Described>, Error>> {
        let _ = topics;
        Box::pin(async {
            Err(Error::Broker(
                "this broker does not describe topics".to_owned(),
            ))
        })
    }

    /// How far a consumer group has come in each partition of these topics, whoever its members are.
    /// `None` where the broker does not tell.
    ///
    /// Fails with [`Error::Broker`] when it is away, or a topic is unknown.
    fn progress<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Vec<Progress>>, Error>> {
        let _ = (group, topics);
        Box::pin(ready(Ok(None)))
    }

    /// The newest records of a topic, at most `each` of every partition, in no group.
    ///
    /// Fails with [`Error::Broker`] when it is away, or is of a kind that does not tell.
    fn newest<'a>(
        &'a self,
        topic: &'a str,
        each: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        let _ = (topic, each);
        Box::pin(async { Err(Error::Broker("this broker shows no records".to_owned())) })
    }
}

/// How far a consumer group has come in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The topic's name.
    pub topic: String,
    /// The topic's partition.
    pub partition: i32,
    /// The next record it has to handle, by what it has committed.
    pub next: i64,
    /// Where the broker will append the next record.
    pub end: i64,
}

/// A topic as it is at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// How many partitions it has; `None` when it does not exist.
    pub partitions: Option<usize>,
    /// How many of them have no leader, so that nobody can write to them.
    pub leaderless: usize,
    /// The largest batch of records it takes, in bytes; `None` when the broker does not say.
    pub max_bytes: Option<i64>,
    /// How long it keeps records, in milliseconds, -1 for ever; `None` when the broker does not say.
    pub retention_ms: Option<i64>,
}

/// How long a topic's records can be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Nobody can say: a broker without topic settings, a topic that is not there yet, no permission.
    Unknown,
    /// At least so long; the broker removes whole segments, so some records stay longer.
    For(Duration),
    /// Never removed by age.
    Forever,
}

/// The largest record of a topic whose limit is not known, in bytes: what Kafka takes by default, but
/// for a dozen bytes.
pub const DEFAULT_MAX_BYTES: usize = 1 << 20;

/// Topics with the largest record that each takes, in bytes; `None` where nobody says.
pub type Limits = Vec<(String, Option<usize>)>;

/// A topic as it should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Used when it is created; the upper bound of its consumers' parallelism.
    pub partitions: u16,
    /// What happens to later messages of a key whose message was refused for good.
    pub on_poison: OnPoison,
}

impl Topic {
    /// A topic by name with that many partitions.
    pub fn new(name: impl Into<String>, partitions: u16) -> Self {
        Self {
            name: name.into(),
            partitions,
            on_poison: OnPoison::default(),
        }
    }

    /// With this policy for the keys of refused messages, instead of [`OnPoison::BlockKey`].
    #[must_use]
    pub fn on_poison(mut self, on_poison: OnPoison) -> Self {
        self.on_poison = on_poison;
        self
    }
}

/// What happens to later messages of a key whose message was refused for good: by the broker on the
/// way out ([`Topic`]), by the handler on the way in
/// ([`incoming::Config`](crate::incoming::Config)). A message without a key has no followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnPoison {
    /// They are parked behind it until an operator has decided: for events, whose order matters.
    #[default]
    BlockKey,
    /// They flow on: for commands and replies, which do not depend on order. A blocked key would park
    /// the compensation that is needed.
    SkipMessage,
}

impl OnPoison {
    /// As in `outbox.topic.on_poison`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlockKey => "block-key",
            Self::SkipMessage => "skip-message",
        }
    }
}

impl FromStr for OnPoison {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "block-key" => Ok(Self::BlockKey),
            "skip-message" => Ok(Self::SkipMessage),
            // The table's constraint allows no other.
            other => Err(Error::permanent(format!(
                "{other} is not a policy: block-key or skip-message"
            ))),
        }
    }
}

/// What may be traded between latency and throughput in a producer.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning {
    /// How long a record may wait for company, in milliseconds. Batches also form while earlier
    /// ones are under way, so 0 costs little under load.
    pub linger_ms: f64,
    /// Memory for records not yet acknowledged, in KiB.
    pub queue_kib: usize,
    /// The largest record that is given to the broker at all, in bytes: at least what the topic with
    /// the highest limit takes.
    pub max_record_bytes: usize,
    /// The largest batch of several records, in bytes: at most what the topic with the lowest limit
    /// takes, because a batch that is too large is refused as a whole.
    pub batch_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            linger_ms: 0.5,
            queue_kib: 64 << 10,
            max_record_bytes: DEFAULT_MAX_BYTES,
            batch_bytes: 1_000_000,
        }
    }
}

impl Tuning {
    /// The largest record that the client can be told to let through, in bytes. A topic's own limit may
    /// be twice that.
    pub const MAX_RECORD_BYTES: usize = 1_000_000_000;

    /// For topics whose limits are these, see
    /// [`largest_and_smallest_limit`](crate::outgoing::largest_and_smallest_limit).
    #[must_use]
    pub fn for_limits(self, (largest, smallest): (usize, usize)) -> Self {
        let max_record_bytes = self.max_record_bytes.max(largest);
        Self {
            max_record_bytes: max_record_bytes.min(Self::MAX_RECORD_BYTES),
            batch_bytes: self.batch_bytes.min(smallest),
            ..self
        }
    }
}

/// Where a producer reports.
pub type Deliveries = mpsc::UnboundedSender<Delivery>;

/// The fate of one record.
#[derive(Debug)]
pub struct Delivery {
    /// The sender's name for the record.
    pub token: usize,
    /// Acknowledged, or not.
    pub result: Result<(), Failure>,
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose fault it is.
    pub class: FailureClass,
    /// What the broker or its client said.
    pub reason: String,
}

/// Whose fault a failed delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// The record's, or that of another record in its batch.
    Record,
    /// The topic's: unknown, not permitted, with a setting that refuses everything.
    Topic,
    /// The broker's: the cluster is away, or the producer has broken. Send again with a new producer.
    Outage,
    /// Ours: a log-in, a permission or a setting of the whole client. As an outage, until somebody
    /// mends it.
    Ours,
    /// Nobody has said yet whose. As an outage, while the broker is not well; the topic's, if it is and
    /// the topic goes on failing.
    Unlisted,
}

/// A record to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// Chooses the partition.
    pub key: &'a str,
    /// The value; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// In this order.
    pub headers: &'a [(&'a str, &'a str)],
}

/// A record was not even queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The queue is full: wait for deliveries, then try again.
    Full,
    /// It will not be sent.
    Failed(Failure),
}

/// Sends records and reports what became of them. Dropping it gives up what is not yet sent.
pub trait Producer: Send + Sync {
    /// Queues a record without waiting. Its delivery is reported under `token`, exactly once,
    /// if and only if this returns `Ok`.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    fn send(&self, token: usize, record: Outgoing<'_>) -> Result<(), SendError>;

    /// Drops what is queued and under way and frees the connections. Blocks.
    fn abandon(self: Box<Self>);
}

/// A record as it came, before anyone has looked at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it was read.
    pub topic: String,
    /// The topic's partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// The broker's time of the record, milliseconds since 1970, 0 when unknown.
    pub timestamp_ms: i64,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes.
    pub payload: Option<Vec<u8>>,
    /// Names and raw values in the order received.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// What it takes in memory, roughly, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| 64 + name.len() + bytes(value))
            .sum();
        size_of::<Self>() + self.topic.len() + bytes(&self.key) + bytes(&self.payload) + headers
    }
}

/// Where a client stands in a partition that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The topic's name.
    pub topic: String,
    /// The topic's partition.
    pub partition: i32,
    /// The next record it will deliver.
    pub position: i64,
    /// The next record to be handled, or delivered where none was since the partition was assigned.
    pub handled: i64,
    /// Whether it is kept from fetching more.
    pub paused: bool,
    /// Where the broker will append the next record.
    pub end: i64,
}

/// A member of a consumer group. One thread polls; anyone may call the rest.
pub trait Subscription: Send + Sync {
    /// Waits for the next record. `Ok(None)` when there was none within `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] when the member is beyond help and a new one must be made.
    fn poll(&self, timeout: Duration) -> Result<Option<Record>, Error>;

    /// Stops and restarts fetching from a partition.
    fn set_paused(&self, topic: &str, partition: i32, paused: bool);

    /// Whether the group has shared out its partitions with this member in it; it may have got none.
    fn has_joined(&self) -> bool;

    /// What the broker refuses this member, in its words, if it did so lately: to join the group, to
    /// read a topic, or a batch that cannot be unpacked.
    fn refused(&self) -> Option<String> {
        None
    }

    /// Partitions assigned since the last call.
    fn take_assigned(&self) -> Vec<(String, i32)> {
        Vec::new()
    }

    /// Partitions taken away since the last call.
    fn take_revoked(&self) -> Vec<(String, i32)>;

    /// Names the partition's present assignment to this member; `None` when it is not assigned. A
    /// partition that was taken away and came back has another. Called by the thread that polls.
    fn assignment(&self, topic: &str, partition: i32) -> Option<u64>;

    /// Notes that everything below `next_offset` is handled; committed now and then, when the
    /// partition is taken away, and by [`Subscription::leave`]. Ignored when `assignment` is over: the
    /// partition's offset is another's business then, or that of a later assignment.
    fn handled(&self, topic: &str, partition: i32, assignment: u64, next_offset: i64);

    /// What the broker calls this topic: another id where it was deleted and made again under its name.
    /// `None` while that is not known, and where a broker has no such ids.
    fn topic_id(&self, topic: &str) -> Option<String> {
        let _ = topic;
        None
    }

    /// Commits the partition's start as the group's offset and ends its assignment, in that nothing
    /// noted for it counts any more. Blocks for as long as the broker takes, a few seconds at most.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] when the offset was not committed.
    fn rewind(&self, topic: &str, partition: i32) -> Result<(), Error> {
        let _ = (topic, partition);
        Ok(())
    }

    /// Where the client stands in the partitions that are assigned. Asks the broker
    /// and blocks for as long as that takes, a few seconds at most.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] when the broker does not answer.
    fn backlog(&self) -> Result<Vec<Backlog>, Error>;

    /// Commits what is noted and leaves the group. Blocks, with a deadline.
    fn leave(&self);
}
