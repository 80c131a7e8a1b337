//! The topics themselves, read and written past the shop.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

/// How long the broker may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Commands to payment-service.
pub(crate) const PAYMENT_COMMANDS: &str = "payments.commands";
/// Commands to delivery-service.
pub(crate) const DELIVERY_COMMANDS: &str = "deliveries.commands";
/// Replies to order-service's sagas.
pub(crate) const ORDER_REPLIES: &str = "orders.replies";
/// What happened to orders.
pub(crate) const ORDER_EVENTS: &str = "orders.events";
/// The shop's four topics, by their names on the broker: the shop is seen from outside here.
pub(crate) const ALL: [&str; 4] = [
    PAYMENT_COMMANDS,
    DELIVERY_COMMANDS,
    ORDER_REPLIES,
    ORDER_EVENTS,
];

/// A record, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) topic: String,
    /// Where it was read, and is to be written; `None` leaves the choice to its key.
    pub(crate) partition: Option<i32>,
    /// Where it was read; nothing is written by it.
    pub(crate) offset: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The sender's message id, if it has one.
    pub(crate) fn id(&self) -> Option<Uuid> {
        self.header("ce_id")?.parse().ok()
    }

    /// The text of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// Everything that is on a topic now, in order within each partition.
pub(crate) async fn read(bootstrap: &str, topic: &str) -> Vec<Record> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || read_all(&bootstrap, &topic)).await
}

/// Writes records; all are acknowledged when this returns.
pub(crate) async fn write(bootstrap: &str, records: Vec<Record>) {
    let bootstrap = bootstrap.to_owned();
    blocking(move || write_all(&bootstrap, &records)).await;
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("the work with the broker")
}

fn read_all(bootstrap: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        // Required, and never used: partitions are assigned by hand and nothing is committed.
        .set("group.id", "e2e-onlooker")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let metadata = consumer
        .fetch_metadata(Some(topic), ANSWER)
        .expect("the topic's partitions");
    let mut missing = BTreeMap::new();
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition.id(), ANSWER)
            .expect("its bounds");
        if low < high {
            missing.insert(partition.id(), high);
            all.add_partition_offset(topic, partition.id(), Offset::Beginning)
                .expect("a partition");
        }
    }
    consumer.assign(&all).expect("its partitions");
    let mut records = Vec::new();
    while !missing.is_empty() {
        let message = consumer
            .poll(ANSWER)
            .expect("a record in time")
            .expect("a record");
        if missing
            .get(&message.partition())
            .is_some_and(|high| message.offset() + 1 >= *high)
        {
            missing.remove(&message.partition());
        }
        records.push(record(&message));
    }
    records
}

fn record(message: &impl Message) -> Record {
    let headers = message.headers().map(|headers| {
        let header =
            |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
        headers.iter().map(header).collect()
    });
    Record {
        topic: message.topic().to_owned(),
        partition: Some(message.partition()),
        offset: Some(message.offset()),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}

fn write_all(bootstrap: &str, records: &[Record]) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .create()
        .expect("a producer");
    for record in records {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header {
                key,
                value: value.as_ref(),
            });
        }
        let mut outgoing: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&record.topic).headers(headers);
        outgoing.partition = record.partition;
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.payload.as_deref();
        producer
            .send(outgoing)
            .map_err(|(error, _)| error)
            .expect("room in the producer's queue");
    }
    producer.flush(ANSWER).expect("the broker acknowledges all");
}
