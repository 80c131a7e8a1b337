//! What there is at the broker, for whoever looks it over.

use std::time::Instant;

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::Client,
    config::FromClientConfig,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

use crate::{
    Error,
    broker::{
        kafka::{Quiet, REQUEST_TIMEOUT},
        kafka_consumer,
        seam::{Described, Progress, Record},
    },
};

/// The topics with their partitions. Blocks.
pub(super) fn partitions(
    client: &Client<Quiet>,
    topics: &[String],
) -> Result<Vec<Described>, Error> {
    let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(away)?;
    let partitions = |name: &String| {
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        topic.map_or(&[][..], |topic| topic.partitions())
    };
    let described = topics.iter().map(|name| Described {
        name: name.clone(),
        partitions: Some(partitions(name).len()).filter(|partitions| *partitions > 0),
        leaderless: partitions(name)
            .iter()
            .filter(|partition| partition.leader() < 0)
            .count(),
        max_bytes: None,
        retention_ms: None,
    });
    Ok(described.collect())
}

/// Adds their settings, where the broker tells: not every kind does, and not everyone may ask.
pub(super) async fn settings(admin: &AdminClient<Quiet>, topics: &mut [Described]) {
    let there: Vec<_> = topics
        .iter_mut()
        .filter(|topic| topic.partitions.is_some())
        .collect();
    if there.is_empty() {
        return;
    }
    let names: Vec<_> = there.iter().map(|topic| topic.name.clone()).collect();
    let asked = names.iter().map(|name| ResourceSpecifier::Topic(name));
    let asked: Vec<_> = asked.collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    match admin.describe_configs(&asked, &options).await {
        Ok(answers) => {
            for (topic, answer) in there.into_iter().zip(answers) {
                let Ok(settings) = answer else { continue };
                let number = |name| settings.get(name)?.value.as_ref()?.parse().ok();
                topic.max_bytes = number("max.message.bytes");
                topic.retention_ms = number("retention.ms");
            }
        }
        Err(error) => tracing::debug!(%error, "topics' settings"),
    }
}

/// The newest records of each partition. Blocks.
pub(super) fn newest(
    mut config: ClientConfig,
    topic: &str,
    each: usize,
) -> Result<Vec<Record>, Error> {
    config
        // Named because the client wants a name; nothing is ever committed to it.
        .set("group.id", "recompense-doctor")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    let consumer = BaseConsumer::from_config(&config).map_err(away)?;
    let metadata = consumer
        .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
        .map_err(away)?;
    let partitions = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions());
    let mut places = TopicPartitionList::new();
    for partition in partitions {
        let tail = Offset::OffsetTail(i64::try_from(each).unwrap_or(i64::MAX));
        places
            .add_partition_offset(topic, partition.id(), tail)
            .map_err(away)?;
    }
    consumer.assign(&places).map_err(away)?;
    let (mut open, mut records) = (places.count(), Vec::new());
    let end = Instant::now() + REQUEST_TIMEOUT;
    // A topic that is written to all the time has no end.
    let enough = each.saturating_mul(places.count());
    while open > 0 && records.len() < enough && Instant::now() < end {
        match consumer.poll(REQUEST_TIMEOUT / 10) {
            Some(Ok(message)) => records.push(kafka_consumer::record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) =>
            {
                return Err(away(error));
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(records)
}

/// How far a group has come, without being one of its members. Blocks.
pub(super) fn progress(
    mut config: ClientConfig,
    group: &str,
    topics: &[String],
) -> Result<Vec<Progress>, Error> {
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false");
    let consumer = BaseConsumer::from_config(&config).map_err(away)?;
    let mut places = TopicPartitionList::new();
    for topic in topics {
        let metadata = consumer
            .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
            .map_err(away)?;
        let partitions = metadata
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions());
        let known = places.count();
        partitions.for_each(|partition| {
            places.add_partition(topic, partition.id());
        });
        if places.count() == known {
            return Err(Error::Broker(format!("topic {topic} has no partitions")));
        }
    }
    let committed = consumer
        .committed_offsets(places, REQUEST_TIMEOUT)
        .map_err(away)?;
    let of = |place: &TopicPartitionListElem<'_>| {
        let (topic, partition) = (place.topic(), place.partition());
        let ends = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT);
        let (first, end) = ends.map_err(away)?;
        let next = match place.offset() {
            Offset::Offset(next) => next.max(first),
            _ => first,
        };
        let topic = topic.to_owned();
        Ok(Progress {
            topic,
            partition,
            next,
            end,
        })
    };
    committed.elements().iter().map(of).collect()
}

fn away(error: KafkaError) -> Error {
    Error::Broker(error.to_string())
}
