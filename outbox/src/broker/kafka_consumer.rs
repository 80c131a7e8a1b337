//! The consuming half of the Kafka client.

use std::{
    collections::HashMap,
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
        seam::{Backlog, Record, Subscription},
    },
};

/// How often handled offsets are committed. A crash repeats at most so much; the inbox absorbs it.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);
/// How long the broker has to say where a partition ends.
const WATERMARK_TIMEOUT: Duration = Duration::from_secs(2);

/// Joins the group.
pub(super) fn open(
    mut config: ClientConfig,
    group: &str,
    member: Option<&str>,
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
    if let Some(member) = member {
        config.set("group.instance.id", member);
    }
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

/// What is assigned, how far it is handled and committed, and what was taken away.
#[derive(Default)]
struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    joined: bool,
    /// Assignments so far; names the next one.
    assignments: u64,
    assigned: HashMap<(String, i32), Share>,
    revoked: Vec<(String, i32)>,
    committed_at: Option<Instant>,
}

/// A partition while it is assigned.
struct Share {
    assignment: u64,
    paused: bool,
    /// Everything below is handled.
    handled: Option<i64>,
    /// Handled and not yet sent to the broker, or sent in vain.
    uncommitted: bool,
}

impl State {
    /// What is to be committed now. It counts as committed until the broker says otherwise.
    fn take_uncommitted(&mut self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), share) in &mut self.assigned {
            if let Some(next) = share.handled.filter(|_| share.uncommitted) {
                share.uncommitted = false;
                add(&mut list, topic, *partition, next);
            }
        }
        list
    }
}

fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, next: i64) {
    if let Err(error) = list.add_partition_offset(topic, partition, Offset::Offset(next)) {
        tracing::debug!(%error, topic, partition, next, "an offset cannot be committed");
    }
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement; a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn commit(&self, mode: CommitMode) {
        let handled = self.consumer.context().state().take_uncommitted();
        commit(&self.consumer, &handled, mode);
    }

    /// The next record the client will deliver from the partition, if it knows.
    fn position(&self, positions: &TopicPartitionList, topic: &str, partition: i32) -> Option<i64> {
        match positions.find_partition(topic, partition)?.offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        }
    }

    /// Where it began, when it has not delivered anything yet.
    fn committed(&self, topic: &str, partition: i32) -> KafkaResult<Option<i64>> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = self.consumer.committed_offsets(list, WATERMARK_TIMEOUT)?;
        Ok(self.position(&committed, topic, partition))
    }

    fn ends(&self) -> KafkaResult<Vec<Backlog>> {
        let places: Vec<_> = {
            let state = self.consumer.context().state();
            let unpaused = state.assigned.iter().filter(|(_, share)| !share.paused);
            unpaused.map(|(place, _)| place.clone()).collect()
        };
        let positions = self.consumer.position()?;
        let mut backlog = Vec::with_capacity(places.len());
        for (topic, partition) in places {
            let (low, end) =
                self.consumer
                    .fetch_watermarks(&topic, partition, WATERMARK_TIMEOUT)?;
            let position = match self.position(&positions, &topic, partition) {
                Some(position) => position,
                None => self.committed(&topic, partition)?.unwrap_or(low),
            };
            backlog.push(Backlog {
                topic,
                partition,
                position,
                end,
            });
        }
        Ok(backlog)
    }
}

/// An offset that is not committed is not lost: the records come again and the inbox knows them.
fn commit(consumer: &BaseConsumer<Ledger>, handled: &TopicPartitionList, mode: CommitMode) {
    if handled.count() == 0 {
        return;
    }
    if let Err(error) = consumer.commit(handled, mode) {
        tracing::debug!(%error, "offsets were not committed");
    }
}

impl Subscription for Member {
    fn poll(&self, timeout: Duration) -> Result<Option<Record>, Error> {
        let due = {
            let state = self.consumer.context().state();
            state
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
        let mut state = self.consumer.context().state();
        if let Some(share) = state.assigned.get_mut(&(topic.to_owned(), partition)) {
            share.paused = paused;
        }
    }

    fn has_joined(&self) -> bool {
        self.consumer.context().state().joined
    }

    fn take_revoked(&self) -> Vec<(String, i32)> {
        std::mem::take(&mut self.consumer.context().state().revoked)
    }

    fn assignment(&self, topic: &str, partition: i32) -> Option<u64> {
        let state = self.consumer.context().state();
        let share = state.assigned.get(&(topic.to_owned(), partition))?;
        Some(share.assignment)
    }

    fn handled(&self, topic: &str, partition: i32, assignment: u64, next_offset: i64) {
        let mut state = self.consumer.context().state();
        let share = state.assigned.get_mut(&(topic.to_owned(), partition));
        if let Some(share) = share.filter(|share| share.assignment == assignment) {
            share.handled = Some(next_offset);
            share.uncommitted = true;
        }
    }

    fn backlog(&self) -> Result<Vec<Backlog>, Error> {
        self.ends()
            .map_err(|error| Error::Broker(error.to_string()))
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
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => self.assigned(partitions),
            Rebalance::Revoke(partitions) => self.revoked(consumer, partitions),
            Rebalance::Error(_) => {}
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let mut state = self.state();
        for element in offsets.elements() {
            if result.is_ok() && element.error().is_ok() {
                continue;
            }
            let place = (element.topic().to_owned(), element.partition());
            if let Some(share) = state.assigned.get_mut(&place) {
                share.uncommitted = true;
            }
        }
    }
}

impl Ledger {
    /// Before the first record of the assignment can come.
    fn assigned(&self, partitions: &TopicPartitionList) {
        let mut state = self.state();
        state.joined = true;
        for element in partitions.elements() {
            state.assignments += 1;
            let share = Share {
                assignment: state.assignments,
                paused: false,
                handled: None,
                uncommitted: false,
            };
            let place = (element.topic().to_owned(), element.partition());
            state.assigned.insert(place, share);
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut handled = TopicPartitionList::new();
        let mut state = self.state();
        for element in partitions.elements() {
            let place = (element.topic().to_owned(), element.partition());
            if let Some(share) = state.assigned.remove(&place)
                && let Some(next) = share.handled.filter(|_| share.uncommitted)
            {
                add(&mut handled, &place.0, place.1, next);
            }
            state.revoked.push(place);
        }
        drop(state);
        // In time for the next owner, so that it does not begin with duplicates. Where the group has
        // given them away already it is too late, and would only hold up this thread.
        if !consumer.assignment_lost() {
            commit(consumer, &handled, CommitMode::Sync);
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
