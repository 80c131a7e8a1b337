//! The seam to the broker: [`Kafka`], and [`Embedded`], a broker inside the process.
//!
//! Only this folder knows rdkafka; the relay and the consumer know the traits.

mod embedded;
mod kafka;
mod kafka_consumer;
mod kafka_describe;
mod kafka_producer;
mod seam;

pub use embedded::Embedded;
pub use kafka::Kafka;
pub(crate) use kafka_producer::MAX_RECORD_BYTES;
pub use seam::{
    Broker, Deliveries, Delivery, Described, Failure, FailureClass, Outgoing, Producer, Record,
    SendError, Subscription, Topic, Tuning,
};
