//! A broker inside the process: librdkafka's mock cluster, reached by the same client over TCP.
//!
//! It has consumer groups and idempotent produce, but no disk, and keeps 5 MiB a partition: right
//! for a demonstration and quick tests, never where durability or speed is the subject. It ends with
//! its process, and with it what was published to it: the relay's cursor counts those messages as
//! sent. A relay that meets another broker than the one its cursor was acknowledged by says so.

use std::future::ready;

use futures::future::BoxFuture;
use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext,
    producer::{BaseProducer, DefaultProducerContext, Producer as _},
};
use uuid::Uuid;

use crate::{
    Error,
    broker::{
        kafka::Kafka,
        seam::{
            Broker, DEFAULT_MAX_BYTES, Deliveries, Described, Limits, Producer, Progress, Record,
            Subscription, Topic, Tuning,
        },
    },
};

/// A broker that lives as long as this value.
pub struct Embedded {
    /// Owns the mock cluster. Nothing is ever produced through it.
    keeper: BaseProducer<DefaultProducerContext>,
    kafka: Kafka,
    /// Of this one: the next has none of its messages.
    identity: String,
}

impl Embedded {
    /// Starts it on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] when librdkafka cannot start its mock cluster.
    pub fn start() -> Result<Self, Error> {
        let failed = |error: rdkafka::error::KafkaError| Error::Broker(error.to_string());
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1");
        let keeper = BaseProducer::from_config_and_context(&config, DefaultProducerContext)
            .map_err(failed)?;
        let bootstrap = keeper
            .client()
            .mock_cluster()
            .ok_or_else(|| Error::Broker("the embedded broker did not start".to_owned()))?
            .bootstrap_servers();
        Ok(Self {
            keeper,
            kafka: Kafka::new(bootstrap)?,
            identity: format!("embedded-{}", Uuid::now_v7().simple()),
        })
    }

    /// Its address.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        self.kafka.bootstrap()
    }
}

impl Broker for Embedded {
    /// By the mock cluster's own call: it does not speak the admin protocol.
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let Some(cluster) = self.keeper.client().mock_cluster() else {
                return Err(Error::Broker("the embedded broker is gone".to_owned()));
            };
            for topic in topics {
                let created = cluster.create_topic(&topic.name, i32::from(topic.partitions), 1);
                // The only refusal is that it exists.
                if let Err(error) = created {
                    tracing::debug!(topic = topic.name, %error, "topic not created");
                }
            }
            Ok(())
        })
    }

    /// It has no limits, but its partitions are small.
    fn limits<'a>(&'a self, topics: &'a [String]) -> BoxFuture<'a, Result<Limits, Error>> {
        let limit = |topic: &String| (topic.clone(), Some(DEFAULT_MAX_BYTES));
        Box::pin(async move { Ok(topics.iter().map(limit).collect()) })
    }

    fn identity(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(ready(Some(self.identity.clone())))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.kafka.ping()
    }

    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: Deliveries,
    ) -> Result<Box<dyn Producer>, Error> {
        self.kafka.producer(tuning, deliveries)
    }

    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        self.kafka.subscribe(group, topics)
    }

    fn describe<'a>(
        &'a self,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Described>, Error>> {
        self.kafka.describe(topics)
    }

    fn progress<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Vec<Progress>>, Error>> {
        self.kafka.progress(group, topics)
    }

    fn newest<'a>(
        &'a self,
        topic: &'a str,
        each: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        self.kafka.newest(topic, each)
    }
}
