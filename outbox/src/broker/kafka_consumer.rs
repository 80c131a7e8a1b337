//! The consuming half of the Kafka client.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};

use crate::{
    Error,
    broker::{
        kafka,
        seam::{Positions, Record, Subscription},
    },
};

/// How often handled offsets are committed. A crash repeats at most so much; the inbox absorbs it.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);

/// Joins the group.
pub(super) fn open(
    mut config: ClientConfig,
    group: &str,
    topics: &[String],
) -> Result<Box<dyn Subscription>, Error> {
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // The default, `latest`, skips what was sent before the group first came.
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Shorter than the default 45 s, as short as brokers allow by default: a killed consumer's
        // partitions wait for it.
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1000")
        .set("fetch.wait.max.ms", "100")
        // An error while the broker or a topic is away would otherwise pause fetching for 500 ms.
        .set("fetch.error.backoff.ms", "100")
        .set("topic.metadata.refresh.interval.ms", "10000")
        // Bounds the memory of fetched and not yet handled records.
        .set("queued.max.messages.kbytes", "16384");
    let failed = |error: KafkaError| Error::Broker(error.to_string());
    let consumer =
        BaseConsumer::from_config_and_context(&config, Ledger::default()).map_err(failed)?;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&names).map_err(failed)?;
    Ok(Box::new(Member { consumer }))
}

struct Member {
    consumer: BaseConsumer<Ledger>,
}

/// What is handled and not yet committed, and what was taken away.
#[derive(Default)]
struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    joined: bool,
    handled: Positions,
    revoked: Vec<(String, i32)>,
    committed_at: Option<Instant>,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement; a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn commit(&self, mode: CommitMode) {
        let handled = std::mem::take(&mut self.consumer.context().state().handled);
        if let Err(error) = commit(&self.consumer, &handled, mode) {
            // Not lost: the records come again and the inbox knows them.
            tracing::debug!(%error, "offsets were not committed");
        }
    }
}

fn commit(
    consumer: &BaseConsumer<Ledger>,
    handled: &Positions,
    mode: CommitMode,
) -> KafkaResult<()> {
    if handled.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::new();
    for ((topic, partition), next) in handled {
        list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
    }
    consumer.commit(&list, mode)
}

impl Subscription for Member {
    fn poll(&self, timeout: Duration) -> Result<Option<Record>, Error> {
        let due = {
            let state = self.consumer.context().state();
            !state.handled.is_empty()
                && state
                    .committed_at
                    .is_none_or(|at| at.elapsed() > COMMIT_INTERVAL)
        };
        if due {
            self.commit(CommitMode::Async);
            self.consumer.context().state().committed_at = Some(Instant::now());
        }
        match self.consumer.poll(timeout) {
            None => Ok(None),
            Some(Ok(message)) => Ok(Some(record(&message))),
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                Err(Error::Broker(code.to_string()))
            }
            // Everything else heals by itself: a topic not there yet, a broker away, a rebalance.
            Some(Err(error)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
                    tracing::warn!(%error, "a topic is missing");
                } else {
                    tracing::debug!(%error, "poll");
                }
                Ok(None)
            }
        }
    }

    fn set_paused(&self, topic: &str, partition: i32, paused: bool) {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let result = if paused {
            self.consumer.pause(&list)
        } else {
            self.consumer.resume(&list)
        };
        if let Err(error) = result {
            // The partition was taken away meanwhile.
            tracing::debug!(%error, topic, partition, paused, "pause");
        }
    }

    fn has_joined(&self) -> bool {
        self.consumer.context().state().joined
    }

    fn take_revoked(&self) -> Vec<(String, i32)> {
        std::mem::take(&mut self.consumer.context().state().revoked)
    }

    fn handled(&self, topic: &str, partition: i32, next_offset: i64) {
        let mut state = self.consumer.context().state();
        state
            .handled
            .insert((topic.to_owned(), partition), next_offset);
    }

    fn leave(&self) {
        self.commit(CommitMode::Sync);
        self.consumer.unsubscribe();
    }
}

impl ClientContext for Ledger {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::report(&error, reason);
    }
}

impl ConsumerContext for Ledger {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(_) = rebalance {
            self.state().joined = true;
        }
    }

    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(partitions) = rebalance else {
            return;
        };
        let revoked: Vec<_> = partitions
            .elements()
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        let mut state = self.state();
        let handled: Positions = revoked
            .iter()
            .filter_map(|place| Some((place.clone(), state.handled.remove(place)?)))
            .collect();
        state.revoked.extend(revoked);
        drop(state);
        // In time for the next owner, so that it does not begin with duplicates.
        if let Err(error) = commit(consumer, &handled, CommitMode::Sync) {
            tracing::debug!(%error, "offsets were not committed before a rebalance");
        }
    }
}

pub(super) fn record(message: &BorrowedMessage<'_>) -> Record {
    // rdkafka panics at a header whose name is not UTF-8. Such a record is not ours; without its
    // headers the parser says so.
    let headers = catch_unwind(AssertUnwindSafe(|| headers(message))).unwrap_or_default();
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, Option<Vec<u8>>)> {
    message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect()
    })
}
