//! The seam to the broker: [`Kafka`], and [`Embedded`], a broker inside the process.
//!
//! Only this folder knows rdkafka; the relay and the consumer know the traits.

mod embedded;
mod kafka;
mod kafka_consumer;
mod kafka_describe;
mod kafka_producer;
mod refusal;
mod seam;

pub use embedded::Embedded;
pub use kafka::Kafka;
pub(crate) use refusal::{is_too_large, refusal, refusal_in};
pub use seam::{
    Backlog, Broker, DEFAULT_MAX_BYTES, Deliveries, Delivery, Described, Failure, FailureClass,
    Limits, OnPoison, Outgoing, Producer, Progress, Record, Retention, SendError, Subscription,
    Topic, Tuning,
};
