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

/// How long after it was last met a refusal counts: they come again with each try.
const REFUSED_FOR: Duration = Duration::from_secs(15);

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
        .set("queued.max.messages.kbytes", "16384")
        // The client says which id a topic has nowhere else: see `Ledger::log`.
        .set("debug", "metadata")
        .set_log_level(RDKafkaLogLevel::Debug);
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
    new: Vec<(String, i32)>,
    revoked: Vec<(String, i32)>,
    /// By name.
    topic_ids: HashMap<String, String>,
    refused: Option<(String, Instant)>,
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
            let shares = state.assigned.iter();
            shares
                .map(|(place, share)| (place.clone(), share.paused, share.handled))
                .collect()
        };
        let positions = self.consumer.position()?;
        let mut backlog = Vec::with_capacity(places.len());
        for ((topic, partition), paused, handled) in places {
            let (low, end) =
                self.consumer
                    .fetch_watermarks(&topic, partition, WATERMARK_TIMEOUT)?;
            let begun = match handled {
                Some(handled) => handled,
                None => self.committed(&topic, partition)?.unwrap_or(low),
            };
            let position = self.position(&positions, &topic, partition);
            backlog.push(Backlog {
                topic,
                partition,
                position: position.unwrap_or(begun),
                handled: begun,
                paused,
                end,
            });
        }
        Ok(backlog)
    }

    /// Notes what the broker refuses. Everything heals by itself; what is only away is not refused.
    fn failed(&self, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition) => tracing::warn!(%error, "a topic is missing"),
            Some(
                Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::RebalanceInProgress
                | Code::UnknownMemberId
                | Code::PollExceeded
                | Code::PartitionEOF,
            )
            | None => tracing::debug!(%error, "poll"),
            Some(Code::NotImplemented) => self.refused(format!(
                "{error}: a batch is packed in a way that this client cannot read"
            )),
            Some(_) => self.refused(error.to_string()),
        }
    }

    fn refused(&self, reason: String) {
        self.consumer.context().state().refused = Some((reason, Instant::now()));
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
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                Err(match self.consumer.client().fatal_error() {
                    Some((RDKafkaErrorCode::FencedInstanceId, _)) => Error::MemberFenced,
                    Some((_, reason)) => Error::Broker(reason),
                    None => Error::Broker(error.to_string()),
                })
            }
            Some(Err(error)) => {
                self.failed(&error);
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

    fn refused(&self) -> Option<String> {
        let state = self.consumer.context().state();
        let refused = state.refused.as_ref();
        let lately = refused.filter(|(_, at)| at.elapsed() < REFUSED_FOR);
        lately.map(|(reason, _)| reason.clone())
    }

    fn take_assigned(&self) -> Vec<(String, i32)> {
        std::mem::take(&mut self.consumer.context().state().new)
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

    fn topic_id(&self, topic: &str) -> Option<String> {
        self.consumer
            .context()
            .state()
            .topic_ids
            .get(topic)
            .cloned()
    }

    fn rewind(&self, topic: &str, partition: i32) -> Result<(), Error> {
        let mut state = self.consumer.context().state();
        state.assignments += 1;
        let assignment = state.assignments;
        if let Some(share) = state.assigned.get_mut(&(topic.to_owned(), partition)) {
            share.assignment = assignment;
            share.handled = None;
            share.uncommitted = false;
        }
        drop(state);
        // Where the topic begins later, this is out of its range, and that means its earliest.
        let mut start = TopicPartitionList::new();
        add(&mut start, topic, partition, 0);
        self.consumer
            .commit(&start, CommitMode::Sync)
            .map_err(|error| Error::Broker(error.to_string()))
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
    /// The client knows which id a topic has and when that changes, and tells so here alone.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility != "METADATA" {
            kafka::log(level, facility, message);
        } else if let Some((topic, id)) = topic_id(message) {
            let mut state = self.state();
            state.topic_ids.insert(topic.to_owned(), id.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::report(&error, reason);
    }
}

/// Of `[thrd:main]: Topic orders.events changed id from AAA to BBB`.
fn topic_id(message: &str) -> Option<(&str, &str)> {
    let (_, said) = message.split_once("Topic ")?;
    let (topic, ids) = said.split_once(" changed id from ")?;
    let (_, id) = ids.split_once(" to ")?;
    Some((topic, id))
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
        state.refused = None;
        for element in partitions.elements() {
            state.assignments += 1;
            let share = Share {
                assignment: state.assignments,
                paused: false,
                handled: None,
                uncommitted: false,
            };
            let place = (element.topic().to_owned(), element.partition());
            state.new.push(place.clone());
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
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers(message),
    }
}

/// rdkafka panics at a header whose name is not UTF-8. None of ours has such a name: it is left out.
fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, Option<Vec<u8>>)> {
    let Some(headers) = message.headers() else {
        return Vec::new();
    };
    let header = |at| catch_unwind(AssertUnwindSafe(|| headers.try_get(at))).ok()?;
    (0..headers.count())
        .filter_map(header)
        .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_id_is_read_from_what_the_client_says() {
        let said = "[thrd:main]: Topic orders.events changed id from AAAAAAAAAAAAAAAAAAAAAA to hM9k_L-qQk2lxSgDAVNVKw";
        let id = "hM9k_L-qQk2lxSgDAVNVKw";
        assert_eq!(topic_id(said), Some(("orders.events", id)));
        assert_eq!(
            topic_id("[thrd:main]: Topic orders.events: 4 partitions"),
            None
        );
    }
}
