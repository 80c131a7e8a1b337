//! Reads topics from their beginning with the client itself, in no group: what arrived, in the order it arrived.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};
use uuid::Uuid;

use super::room::HEALED;
use crate::world::{Counted, SOON};

/// First occurrence of a message.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) id: Uuid,
    pub(crate) key: String,
    pub(crate) n: i64,
    pub(crate) partition: i32,
    /// When the broker took it, in milliseconds since 1970.
    pub(crate) time: i64,
}

/// Everything that was ever in the topics, as far as it was read.
pub(crate) struct Tape {
    bootstrap: String,
    topics: Vec<String>,
    consumer: Arc<BaseConsumer>,
    partitions: usize,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) duplicates: usize,
    /// By id, where the first occurrence is.
    seen: HashMap<Uuid, usize>,
    /// When the broker took each record, copies included, in milliseconds since 1970.
    times: Vec<i64>,
}

impl Tape {
    pub(crate) async fn of(bootstrap: &str, topics: &[String]) -> Self {
        let mut tape = Self {
            bootstrap: bootstrap.to_owned(),
            topics: topics.to_vec(),
            consumer: Arc::new(consumer(bootstrap)),
            partitions: 0,
            arrivals: Vec::new(),
            duplicates: 0,
            seen: HashMap::new(),
            times: Vec::new(),
        };
        tape.look_for_partitions().await;
        tape
    }

    /// Takes in topics and partitions that are new, from their beginning.
    pub(crate) async fn look_for_partitions(&mut self) {
        let (consumer, topics) = (Arc::clone(&self.consumer), self.topics.clone());
        let wanted = self.partitions;
        let looked = tokio::task::spawn_blocking(move || {
            let mut assigned = consumer.assignment().unwrap();
            let position = consumer.position().unwrap();
            for place in position.elements() {
                if let Some(mut known) = assigned.find_partition(place.topic(), place.partition()) {
                    let next = match place.offset() {
                        Offset::Offset(next) => Offset::Offset(next),
                        _ => Offset::Beginning,
                    };
                    known.set_offset(next).unwrap();
                }
            }
            for topic in &topics {
                let metadata = consumer.fetch_metadata(Some(topic), SOON).unwrap();
                for partition in metadata.topics()[0].partitions() {
                    if assigned.find_partition(topic, partition.id()).is_none() {
                        assigned
                            .add_partition_offset(topic, partition.id(), Offset::Beginning)
                            .unwrap();
                    }
                }
            }
            consumer.assign(&assigned).unwrap();
            assigned.count()
        });
        self.partitions = looked.await.unwrap().max(wanted);
    }

    /// Forgets where it stood: the topic is another one of the same name.
    pub(crate) async fn rewind(&mut self) {
        self.consumer = Arc::new(consumer(&self.bootstrap));
        self.partitions = 0;
        self.look_for_partitions().await;
    }

    /// Reads what is there.
    pub(crate) async fn catch_up(&mut self) {
        let consumer = Arc::clone(&self.consumer);
        let read = tokio::task::spawn_blocking(move || {
            let mut records = Vec::new();
            let mut patience = Duration::from_millis(100);
            // An outage is an error here, and the client's own matter to get over.
            while let Some(polled) = consumer.poll(patience) {
                let Ok(record) = polled else { continue };
                let headers = record.headers().into_iter();
                let id = headers
                    .flat_map(|headers| headers.iter())
                    .find_map(|header| {
                        let value = header.value.filter(|_| header.key == "ce_id")?;
                        std::str::from_utf8(value).ok()?.parse().ok()
                    });
                let id: Uuid = id.expect("every record has an id");
                let counted: Counted = serde_json::from_slice(record.payload().unwrap()).unwrap();
                let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
                let time = record.timestamp().to_millis().unwrap_or(0);
                let (n, partition) = (counted.n, record.partition());
                records.push(Arrival {
                    id,
                    key,
                    n,
                    partition,
                    time,
                });
                patience = Duration::from_millis(10);
                if records.len() > 20_000 {
                    break;
                }
            }
            records
        });
        for arrival in read.await.unwrap() {
            self.times.push(arrival.time);
            if self.seen.contains_key(&arrival.id) {
                self.duplicates += 1;
                continue;
            }
            self.seen.insert(arrival.id, self.arrivals.len());
            self.arrivals.push(arrival);
        }
    }

    /// How many records some partitions of a topic hold now. Blocks.
    pub(crate) fn records_in(bootstrap: &str, topic: &str, partitions: Range<i32>) -> i64 {
        let consumer = consumer(bootstrap);
        let high = |partition| consumer.fetch_watermarks(topic, partition, SOON);
        partitions
            .map(|partition| high(partition).map_or(0, |(_, high)| high))
            .sum()
    }

    pub(crate) fn has(&self, id: &Uuid) -> bool {
        self.seen.contains_key(id)
    }

    /// Waits until `more` further messages have arrived for the first time.
    pub(crate) async fn wait_for_more(&mut self, more: usize) {
        let wanted = self.arrivals.len() + more;
        let deadline = tokio::time::Instant::now() + HEALED;
        while self.arrivals.len() < wanted {
            let arrived = self.arrivals.len();
            assert!(
                tokio::time::Instant::now() < deadline,
                "{arrived} messages arrived, waited in vain for {wanted}"
            );
            self.catch_up().await;
        }
    }

    /// How long after `moment` the broker took the first record. I10
    pub(crate) async fn healed_after(&mut self, moment: SystemTime) -> Duration {
        let deadline = tokio::time::Instant::now() + HEALED;
        loop {
            if let Some(pause) = self.first_after(moment) {
                return pause;
            }
            let waits = tokio::time::Instant::now() < deadline;
            assert!(waits, "I10: nothing was published in {HEALED:?}");
            self.catch_up().await;
        }
    }

    fn first_after(&self, moment: SystemTime) -> Option<Duration> {
        let moment = i64::try_from(moment.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let after = self.times.iter().filter(|time| **time >= moment).min()?;
        Some(Duration::from_millis(
            u64::try_from(after - moment).unwrap(),
        ))
    }
}

fn consumer(bootstrap: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "tape")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("reconnect.backoff.max.ms", "500")
        .set("topic.metadata.refresh.interval.ms", "2000")
        .create()
        .unwrap();
    consumer.assign(&TopicPartitionList::new()).unwrap();
    consumer
}
