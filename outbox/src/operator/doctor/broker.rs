//! The broker's side: that the topics are there, take what is enqueued, and get each key in one place.

use std::collections::BTreeMap;

use crate::{
    broker::{Broker, DEFAULT_MAX_BYTES, Described, Record},
    operator::doctor::{
        Limits,
        report::{Finding, Report, literal, or_ok, span},
        table::Topic,
    },
};

/// Topics whose records are looked at.
const SAMPLED: usize = 20;

pub(super) async fn examine(
    report: &mut Report,
    broker: &dyn Broker,
    topics: &[Topic],
    limits: &Limits,
) {
    let names: Vec<_> = topics.iter().map(|topic| topic.name.clone()).collect();
    let described = match broker.describe(&names).await {
        Ok(described) => described,
        Err(error) => {
            let explanation = format!("the broker does not answer: {error}");
            return report.push(Finding::problem("broker", explanation));
        }
    };
    report.push(Finding::ok("broker", "it answers"));
    let found = missing(&described).into_iter();
    let found = found
        .chain(max_bytes(topics, &described))
        .chain(kept(&described));
    found.for_each(|finding| report.push(finding));
    for topic in described
        .iter()
        .filter(|topic| topic.partitions.is_some())
        .take(SAMPLED)
    {
        report.push(match broker.newest(&topic.name, limits.sample).await {
            Ok(records) => partitioner(topic, &records),
            Err(error) => Finding::unknown("partitioner", format!("{}: {error}", topic.name)),
        });
    }
}

fn missing(described: &[Described]) -> Vec<Finding> {
    const CHECK: &str = "topics";
    let missing = described.iter().filter(|topic| topic.partitions.is_none());
    let found = missing.map(|topic| {
        let explanation = format!(
            "the topic {} does not exist: its messages are held. Its service declares it when it starts; or",
            topic.name
        );
        Finding::problem(CHECK, explanation).fix(format!(
            "kafka-topics.sh --bootstrap-server … --create --topic {} --partitions …",
            topic.name
        ))
    });
    let leaderless = described.iter().filter(|topic| topic.leaderless > 0);
    let leaderless = leaderless.map(|topic| {
        let explanation = format!(
            "{} of the partitions of {} have no leader: what comes for the topic is held, and sent when they have. \
             Which brokers are down?",
            topic.leaderless, topic.name
        );
        Finding::problem(CHECK, explanation)
    });
    let found = found.chain(leaderless);
    let all = described.iter().map(|topic| {
        let partitions = topic.partitions.unwrap_or_default();
        format!("{} ({partitions})", topic.name)
    });
    let all = all.collect::<Vec<_>>().join(", ");
    or_ok(
        found.collect(),
        CHECK,
        &format!("all exist, with partitions: {all}"),
    )
}

/// What enqueue lets pass must be taken by the client and the broker.
fn max_bytes(topics: &[Topic], described: &[Described]) -> Vec<Finding> {
    const CHECK: &str = "topic_limits";
    let mut found = Vec::new();
    for (topic, there) in topics.iter().zip(described) {
        if there.partitions.is_none() {
            continue;
        }
        let Some(takes) = there.max_bytes else {
            let explanation = format!("the broker does not say what {} takes", topic.name);
            found.push(Finding::unknown(CHECK, explanation));
            continue;
        };
        let passes = topic.max_bytes.map_or(DEFAULT_MAX_BYTES as i64, i64::from);
        let explanation = if passes > takes {
            format!(
                "enqueue lets records of up to {passes} bytes pass for {}, which takes {takes}: a larger one is \
                 refused when its transaction is long committed, and parked",
                topic.name
            )
        } else if topic.max_bytes.is_some() && passes < takes {
            format!(
                "enqueue refuses records of more than {passes} bytes for {}, which takes {takes} by now",
                topic.name
            )
        } else {
            continue;
        };
        let finding = Finding::warning(CHECK, explanation);
        found.push(match topic.declared {
            true => finding.fix("recompense outbox topics --refresh --kafka-brokers …"),
            false => finding.fix(format!(
                "insert into outbox.topic (name, max_bytes) values ({}, {takes}) \
                 on conflict (name) do update set max_bytes = excluded.max_bytes",
                literal(&topic.name)
            )),
        });
    }
    or_ok(found, CHECK, "enqueue keeps to what the topics take")
}

/// For whoever sets the inbox's retention: it must be longer.
fn kept(described: &[Described]) -> Vec<Finding> {
    const CHECK: &str = "topic_retention";
    let told = described.iter().filter_map(|topic| {
        let ms = topic.retention_ms?;
        Some(match ms {
            -1 => format!("{} for ever", topic.name),
            ms => format!("{} {}", topic.name, span(ms as f64 / 1e3)),
        })
    });
    let told = told.collect::<Vec<_>>().join(", ");
    let there = described.iter().filter(|topic| topic.partitions.is_some());
    vec![match (told.is_empty(), there.count()) {
        (_, 0) => Finding::ok(CHECK, "no topics"),
        (true, _) => Finding::unknown(CHECK, "the broker does not say how long it keeps records"),
        (false, _) => Finding::ok(
            CHECK,
            format!(
                "kept: {told}. An inbox must remember for longer; consumers check that when they start"
            ),
        ),
    }]
}

/// Whether the records lie where Java's partitioner, which is ours too, would put them.
fn partitioner(topic: &Described, records: &[Record]) -> Finding {
    const CHECK: &str = "partitioner";
    let name = &topic.name;
    let Some(partitions) = topic.partitions.and_then(|count| u32::try_from(count).ok()) else {
        return Finding::unknown(CHECK, format!("{name} has no partitions"));
    };
    let mut places: BTreeMap<&[u8], Vec<i32>> = BTreeMap::new();
    let mut strays = 0;
    for record in records {
        let Some(key) = record.key.as_deref() else {
            continue;
        };
        let place = (murmur2(key) & 0x7fff_ffff) % partitions;
        strays += usize::from(i64::from(record.partition) != i64::from(place));
        let places = places.entry(key).or_default();
        if !places.contains(&record.partition) {
            places.push(record.partition);
        }
    }
    let torn = places.values().filter(|places| places.len() > 1).count();
    let keyed = places.len();
    if strays == 0 {
        let well = format!("{name}: murmur2, as Java's, in {keyed} keys looked at");
        return Finding::ok(CHECK, well);
    }
    Finding::warning(
        CHECK,
        format!(
            "{name}: {strays} of the newest {} records do not lie in the partition that murmur2 (ours, and \
             Java's) chooses for their key, and {torn} of {keyed} keys are in several: somebody writes with \
             another partitioner (librdkafka's default is another: set partitioner=murmur2_random), or \
             partitions were added. Order in such a key is lost",
            records.len()
        ),
    )
}

/// Kafka's hash of a key (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ (key.len() as u32);
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = word
            .iter()
            .rev()
            .fold(0, |k, byte| k << 8 | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest
            .iter()
            .rev()
            .fold(0, |k, byte| k << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::doctor::Verdict;

    #[test]
    fn the_hash_is_java_s() {
        // From Kafka's own UtilsTest.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    fn described(max_bytes: Option<i64>) -> Described {
        Described {
            leaderless: 0,
            name: "t".to_owned(),
            partitions: Some(4),
            max_bytes,
            retention_ms: None,
        }
    }

    #[test]
    fn what_enqueue_lets_pass_must_be_taken() {
        let known = |max_bytes| {
            [Topic {
                name: "t".to_owned(),
                declared: true,
                max_bytes,
            }]
        };
        let verdict = |known: [Topic; 1], max| max_bytes(&known, &[described(max)])[0].verdict;
        assert_eq!(verdict(known(None), Some(1_048_588)), Verdict::Ok);
        assert_eq!(verdict(known(None), Some(1_000)), Verdict::Warning);
        assert_eq!(verdict(known(Some(1_000)), Some(1_000)), Verdict::Ok);
        assert_eq!(verdict(known(Some(2_000)), Some(1_000)), Verdict::Warning);
        // Since it was declared, it was raised.
        assert_eq!(verdict(known(Some(2_000)), Some(3_000)), Verdict::Warning);
        assert_eq!(verdict(known(None), Some(9 << 20)), Verdict::Ok);
        assert_eq!(verdict(known(None), None), Verdict::Unknown);
    }
}
