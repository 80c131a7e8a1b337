//! Apache Kafka, and anything that speaks its protocol, through librdkafka.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier,
        ResourceSpecifier, TopicReplication,
    },
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::{Instant, sleep};

use crate::{
    Error,
    broker::{
        kafka_consumer, kafka_describe, kafka_producer,
        seam::{
            Broker, Deliveries, Described, Limits, Producer, Progress, Record, Retention,
            Subscription, Topic, Tuning,
        },
    },
};

/// How long the broker has to answer a request of ours.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a probe waits.
const PING_TIMEOUT: Duration = Duration::from_millis(900);
/// What a probe asks about: a name that no topic may have, so that the answer is short however many topics the
/// cluster has, and none is made.
const NO_TOPIC: &str = ".";
/// How long a topic just created may take to get its leaders.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// A topic's limit, as Kafka calls it: of a batch, as it comes.
const MAX_BYTES: &str = "max.message.bytes";

/// A Kafka cluster, by its bootstrap servers.
#[derive(Clone)]
pub struct Kafka {
    bootstrap: String,
    /// See [`Kafka::member`].
    member: Option<String>,
    admin: Arc<AdminClient<Quiet>>,
}

impl Kafka {
    /// A cluster reached through `bootstrap`: `host:port[,host:port…]`. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] when librdkafka does not accept the address.
    pub fn new(bootstrap: impl Into<String>) -> Result<Self, Error> {
        let bootstrap = bootstrap.into();
        let admin = AdminClient::from_config_and_context(&config(&bootstrap), Quiet)
            .map_err(|error| Error::Broker(error.to_string()))?;
        Ok(Self {
            bootstrap,
            member: None,
            admin: Arc::new(admin),
        })
    }

    /// A name for this process that it keeps when it is started anew, and no other has: its
    /// consumers become static members of their groups (KIP-345). One that was killed and comes
    /// back gets its partitions at once instead of waiting until its former self is missed, which
    /// takes six seconds; in return, one that stops for good is missed only then.
    #[must_use]
    pub fn member(mut self, name: Option<String>) -> Self {
        self.member = name;
        self
    }

    /// The bootstrap servers.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    async fn create(&self, topics: &[NewTopic<'_>]) -> Result<(), Error> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let results = self.admin.create_topics(topics, &options).await;
        let results = results.map_err(|error| {
            Error::Broker(format!("{} does not answer: {error}", self.bootstrap))
        })?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    return Err(Error::Broker(format!(
                        "topic {name} does not exist, or may not be seen, and cannot be created: {code}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Waits until every partition of `topic` has a leader, so that the first record sent to it
    /// does not fail.
    async fn leaders_of(&self, topic: &Topic) -> Result<(), Error> {
        let deadline = Instant::now() + LEADERS_TIMEOUT;
        loop {
            let (admin, name) = (Arc::clone(&self.admin), topic.name.clone());
            let ready = blocking(move || {
                let metadata = admin
                    .inner()
                    .fetch_metadata(Some(&name), REQUEST_TIMEOUT)
                    .map_err(|error| Error::Broker(error.to_string()))?;
                Ok(metadata.topics().iter().any(|topic| {
                    topic.error().is_none()
                        && !topic.partitions().is_empty()
                        && topic.partitions().iter().all(|p| p.leader() >= 0)
                }))
            })
            .await?;
            if ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                let name = &topic.name;
                return Err(Error::Broker(format!("topic {name} has no leader")));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Broker for Kafka {
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            // Looked at first: who may not create topics may still use those that are there.
            let (admin, names) = (
                Arc::clone(&self.admin),
                topics.iter().map(|topic| topic.name.clone()),
            );
            let names: Vec<_> = names.collect();
            let there = blocking(move || kafka_describe::partitions(admin.inner(), &names)).await?;
            let missing = topics.iter().zip(there);
            let missing = missing.filter(|(_, there)| there.partitions.is_none());
            // -1 leaves the replication factor to the broker's own default.
            let wanted: Vec<_> = missing
                .map(|(topic, _)| {
                    let partitions = i32::from(topic.partitions);
                    NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(-1))
                })
                .collect();
            if !wanted.is_empty() {
                self.create(&wanted).await?;
            }
            for topic in topics {
                self.leaders_of(topic).await?;
            }
            Ok(())
        })
    }

    fn limits<'a>(&'a self, topics: &'a [String]) -> BoxFuture<'a, Result<Limits, Error>> {
        Box::pin(async move {
            if topics.is_empty() {
                return Ok(Limits::new());
            }
            let asked: Vec<_> = topics
                .iter()
                .map(|topic| ResourceSpecifier::Topic(topic))
                .collect();
            let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
            let described = self.admin.describe_configs(&asked, &options).await;
            let described = described.map_err(|error| {
                Error::Broker(format!("{} does not answer: {error}", self.bootstrap))
            })?;
            // A topic that is unknown, or may not be asked about, is described by nothing.
            let of = |described: ConfigResource| match described.specifier {
                OwnedResourceSpecifier::Topic(topic) => {
                    let entry = described.entries.into_iter().find(|e| e.name == MAX_BYTES);
                    Some((topic, entry?.value?.parse().ok()?))
                }
                _ => None,
            };
            let said: HashMap<String, usize> =
                described.into_iter().flatten().filter_map(of).collect();
            Ok(topics
                .iter()
                .map(|topic| (topic.clone(), said.get(topic).copied()))
                .collect())
        })
    }

    fn identity(&self) -> BoxFuture<'_, Option<String>> {
        let admin = Arc::clone(&self.admin);
        Box::pin(async move {
            let asked = blocking(move || Ok(admin.inner().fetch_cluster_id(PING_TIMEOUT)));
            asked.await.ok().flatten()
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        let admin = Arc::clone(&self.admin);
        Box::pin(blocking(move || {
            admin
                .inner()
                .fetch_metadata(Some(NO_TOPIC), PING_TIMEOUT)
                .map(drop)
                .map_err(|error| Error::Broker(error.to_string()))
        }))
    }

    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: Deliveries,
    ) -> Result<Box<dyn Producer>, Error> {
        kafka_producer::open(config(&self.bootstrap), tuning, deliveries)
    }

    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        let member = self.member.as_deref();
        kafka_consumer::open(config(&self.bootstrap), group, member, topics)
    }

    fn retention<'a>(
        &'a self,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Retention>, Error>> {
        Box::pin(async move {
            let asked: Vec<_> = topics
                .iter()
                .map(|name| ResourceSpecifier::Topic(name))
                .collect();
            let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
            let answers = self.admin.describe_configs(&asked, &options).await;
            let answers = answers.map_err(|error| Error::Broker(error.to_string()))?;
            let told: Vec<ConfigResource> = answers.into_iter().flatten().collect();
            let of = |name: &String| {
                let mine = OwnedResourceSpecifier::Topic(name.clone());
                told.iter()
                    .find(|told| told.specifier == mine)
                    .map_or(Retention::Unknown, retention)
            };
            Ok(topics.iter().map(of).collect())
        })
    }

    fn describe<'a>(
        &'a self,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Described>, Error>> {
        Box::pin(async move {
            let (admin, names) = (Arc::clone(&self.admin), topics.to_vec());
            let mut described =
                blocking(move || kafka_describe::partitions(admin.inner(), &names)).await?;
            kafka_describe::settings(&self.admin, &mut described).await;
            Ok(described)
        })
    }

    fn progress<'a>(
        &'a self,
        group: &'a str,
        topics: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Vec<Progress>>, Error>> {
        let (config, group, topics) = (config(&self.bootstrap), group.to_owned(), topics.to_vec());
        Box::pin(blocking(move || {
            kafka_describe::progress(config, &group, &topics).map(Some)
        }))
    }

    fn newest<'a>(
        &'a self,
        topic: &'a str,
        each: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        let (config, topic) = (config(&self.bootstrap), topic.to_owned());
        Box::pin(blocking(move || {
            kafka_describe::newest(config, &topic, each)
        }))
    }
}

/// Compacted topics keep the last record of a key for ever, unless they are cut by age too.
fn retention(topic: &ConfigResource) -> Retention {
    let setting = |name| topic.get(name).and_then(|entry| entry.value.as_deref());
    if !setting("cleanup.policy").is_none_or(|policy| policy.contains("delete")) {
        return Retention::Forever;
    }
    match setting("retention.ms").and_then(|value| value.parse::<i64>().ok()) {
        None => Retention::Unknown,
        Some(ms) => u64::try_from(ms).map_or(Retention::Forever, |ms| {
            Retention::For(Duration::from_millis(ms))
        }),
    }
}

/// What every client of ours has in common.
fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("client.id", "recompense")
        // A broker that comes back is used again within a second, not after the default's ten.
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false");
    config
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Broker(error.to_string())))
}

/// Sends librdkafka's own words to the log, at levels that fit a client that heals by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report(&error, reason);
    }
}

/// See [`Quiet`].
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(facility, message, "kafka client");
        }
        _ => tracing::debug!(facility, message, "kafka client"),
    }
}

/// See [`Quiet`].
pub(super) fn report(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AllBrokersDown) => away(reason),
        _ => tracing::debug!(%error, reason, "kafka client"),
    }
}

/// Every client says so several times a second, for as long as it lasts. One line in ten seconds.
fn away(reason: &str) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
        *last = Some(Instant::now());
        tracing::warn!(reason, "kafka is away");
    }
}
