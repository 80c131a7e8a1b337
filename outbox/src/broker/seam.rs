//! What the pipe needs of a broker.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::Error;

/// A broker that messages go to and come from.
pub trait Broker: Send + Sync + 'static {
    /// Makes sure the topics exist and have leaders. An existing topic is left as it is.
    ///
    /// Fails with [`Error::Broker`] when the broker is away or refuses.
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>>;

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

/// A topic as it is at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// How many partitions it has; `None` when it does not exist.
    pub partitions: Option<usize>,
    /// The largest batch of records it takes, in bytes; `None` when the broker does not say.
    pub max_bytes: Option<i64>,
    /// How long it keeps records, in milliseconds, -1 for ever; `None` when the broker does not say.
    pub retention_ms: Option<i64>,
}

/// A topic as it should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Used when it is created; the upper bound of its consumers' parallelism.
    pub partitions: u16,
}

impl Topic {
    /// A topic by name with that many partitions.
    pub fn new(name: impl Into<String>, partitions: u16) -> Self {
        Self {
            name: name.into(),
            partitions,
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
    /// The topic's: unknown, not permitted.
    Topic,
    /// Nobody's: the cluster is away, or the producer has broken. Send again with a new producer.
    Outage,
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

/// A partition, and a place in it or none.
pub(super) type Positions = BTreeMap<(String, i32), i64>;

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

    /// Partitions taken away since the last call.
    fn take_revoked(&self) -> Vec<(String, i32)>;

    /// Notes that everything below `next_offset` is handled; committed now and then, when the
    /// partition is taken away, and by [`Subscription::leave`].
    fn handled(&self, topic: &str, partition: i32, next_offset: i64);

    /// Commits what is noted and leaves the group. Blocks, with a deadline.
    fn leave(&self);
}
