//! The producing half of the Kafka client.

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{
        BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
    },
};

use crate::{
    Error,
    broker::{
        kafka,
        refusal::class_of,
        seam::{Deliveries, Delivery, Failure, Outgoing, Producer, SendError, Tuning},
    },
};

/// Opens an idempotent producer.
pub(super) fn open(
    mut config: ClientConfig,
    tuning: &Tuning,
    deliveries: Deliveries,
) -> Result<Box<dyn Producer>, Error> {
    // A record larger than the queue would find it full for ever.
    let queue_kib = tuning.queue_kib.max(tuning.max_record_bytes / 1024 + 1);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // When a batch is refused, what was sent after it to the same partition must not arrive
        // before it is sent again: the producer stops, and a new one begins at the cursor.
        .set("enable.gapless.guarantee", "true")
        // With a timeout, librdkafka delivers a younger message of a key before an expired older
        // one. The relay watches ages itself.
        .set("message.timeout.ms", "0")
        // What Java's clients do, so that a key has one partition whoever writes it.
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", tuning.linger_ms.to_string())
        .set("queue.buffering.max.kbytes", queue_kib.to_string())
        // The client's own limit for a record, which counts key and headers too.
        .set("message.max.bytes", tuning.max_record_bytes.to_string())
        .set("batch.size", tuning.batch_bytes.to_string())
        // A topic that appears is noticed within ten seconds, not five minutes.
        .set("topic.metadata.refresh.interval.ms", "10000")
        // An unknown topic is said to be unknown after half a second, not 30: what waits for it takes up
        // the room of others. One that was just made, and that not every broker knows, is held for a
        // second then.
        .set("topic.metadata.propagation.max.ms", "500");
    ThreadedProducer::from_config_and_context(&config, Reports { deliveries })
        .map(|producer| Box::new(Kafka { producer }) as Box<dyn Producer>)
        .map_err(|error| Error::Broker(error.to_string()))
}

struct Kafka {
    producer: ThreadedProducer<Reports>,
}

impl Producer for Kafka {
    fn send(&self, token: usize, record: Outgoing<'_>) -> Result<(), SendError> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header {
                key,
                value: Some(*value),
            });
        }
        let mut outgoing = BaseRecord::with_opaque_to(record.topic, token)
            .key(record.key)
            .headers(headers);
        if let Some(payload) = record.payload {
            outgoing = outgoing.payload(payload);
        }
        self.producer
            .send(outgoing)
            .map_err(|(error, _)| match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => SendError::Full,
                _ => SendError::Failed(failure(&error)),
            })
    }

    fn abandon(self: Box<Self>) {
        self.producer
            .purge(PurgeConfig::default().queue().inflight());
    }
}

/// Carries librdkafka's delivery reports to the relay.
struct Reports {
    deliveries: Deliveries,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::report(&error, reason);
    }
}

impl ProducerContext for Reports {
    /// An integer costs nothing; a pointer would be an allocation for each message.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(failure(error)),
        };
        // Nobody listens any more when the relay has given this producer up.
        let _ = self.deliveries.send(Delivery { token, result });
    }
}

fn failure(error: &KafkaError) -> Failure {
    Failure {
        class: class_of(error.rdkafka_error_code()),
        reason: error.to_string(),
    }
}
