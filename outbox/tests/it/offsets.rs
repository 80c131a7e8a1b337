//! Offsets belong to an assignment: what is taken away is not committed, what came back not moved back.

use std::time::{Duration, Instant};

use outbox::broker::{Broker, Kafka, Subscription, Topic};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use uuid::Uuid;

use crate::world::SOON;

struct Group {
    kafka: Kafka,
    topic: String,
    name: String,
}

impl Group {
    async fn new() -> Self {
        let kafka = Kafka::new(testbed::kafka().await.bootstrap()).unwrap();
        let topic = format!("offsets.{}", Uuid::now_v7().simple());
        kafka
            .ensure_topics(&[Topic::new(topic.clone(), 2)])
            .await
            .unwrap();
        let name = format!("offsets-{}", Uuid::now_v7().simple());
        Self { kafka, topic, name }
    }

    fn join(&self) -> Box<dyn Subscription> {
        let topics = [self.topic.clone()];
        self.kafka.subscribe(&self.name, &topics).unwrap()
    }

    /// What the broker has, asked by a client of its own.
    fn committed(&self, partition: i32) -> Option<i64> {
        let asking: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap())
            .set("group.id", &self.name)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        let committed = asking.committed_offsets(list, SOON).unwrap();
        match committed.elements()[0].offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        }
    }

    fn owned(&self, member: &dyn Subscription) -> Vec<i32> {
        let mine = |partition: &i32| member.assignment(&self.topic, *partition).is_some();
        (0..2).filter(mine).collect()
    }
}

/// Polls these members until the condition holds.
fn poll_until(members: &[&dyn Subscription], what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        for member in members {
            member.poll(Duration::from_millis(10)).unwrap();
        }
    }
}

/// Polls for longer than it takes to commit.
fn poll_on(members: &[&dyn Subscription]) {
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        for member in members {
            member.poll(Duration::from_millis(10)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_taken_away_is_not_committed_nor_moved_back_when_it_returns() {
    let group = Group::new().await;
    tokio::task::spawn_blocking(move || run(&group))
        .await
        .unwrap();
}

fn run(group: &Group) {
    let topic = &group.topic;
    let first = group.join();
    let first = &*first;
    poll_until(&[first], "both partitions", || group.owned(first) == [0, 1]);
    let before = [0, 1].map(|p| first.assignment(topic, p).unwrap());
    for partition in [0, 1] {
        first.handled(topic, partition, before[partition as usize], 10);
    }
    poll_until(&[first], "a commit", || {
        group.committed(0) == Some(10) && group.committed(1) == Some(10)
    });

    let second = group.join();
    let second = &*second;
    poll_until(&[first, second], "one each", || {
        group.owned(first).len() == 1 && group.owned(second).len() == 1
    });
    let lost = group.owned(second)[0];
    let theirs = second.assignment(topic, lost).unwrap();
    second.handled(topic, lost, theirs, 20);
    poll_until(&[first, second], "their commit", || {
        group.committed(lost) == Some(20)
    });
    // A worker that finishes its batch late.
    first.handled(topic, lost, before[lost as usize], 15);
    poll_on(&[first, second]);
    assert_eq!(group.committed(lost), Some(20), "not ours any more");

    second.leave();
    poll_until(&[first], "both again", || group.owned(first) == [0, 1]);
    let again = first.assignment(topic, lost).unwrap();
    assert_ne!(again, before[lost as usize]);
    first.handled(topic, lost, again, 30);
    first.handled(topic, lost, before[lost as usize], 15);
    poll_until(&[first], "our commit", || group.committed(lost) != Some(20));
    assert_eq!(group.committed(lost), Some(30));
    first.handled(topic, lost, before[lost as usize], 15);
    poll_on(&[first]);
    assert_eq!(group.committed(lost), Some(30));
    first.leave();
    assert_eq!(group.committed(lost), Some(30));
}
