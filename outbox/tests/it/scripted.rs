//! The embedded broker behind a script of refusals.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use outbox::{
    Error,
    broker::{
        Broker, Deliveries, Delivery, Embedded, Failure, FailureClass, Outgoing, Producer,
        SendError, Subscription, Topic, Tuning,
    },
};

use crate::world::World;

/// As Kafka does, it refuses a whole batch for one sick record: here, the sick one and the two
/// sent before it.
struct Scripted {
    embedded: Embedded,
    script: Arc<Script>,
}

#[derive(Default)]
pub(crate) struct Script {
    /// Payloads that are refused.
    sick: Mutex<HashSet<Vec<u8>>>,
    /// Whether every delivery fails because of an outage.
    pub(crate) outage: AtomicBool,
    /// Whether those from this number on do.
    pub(crate) outage_from: Mutex<Option<i64>>,
    /// Whether every delivery fails because of its topic.
    topic: AtomicBool,
    /// Topics that begin with this refuse.
    refusing: Mutex<Option<String>>,
    /// Topics that begin with this answer nothing.
    silent: Mutex<Option<String>>,
    /// A topic of which so many records more are answered; those after them are counted and answer nothing.
    mute: Mutex<HashMap<String, (usize, usize)>>,
    /// How often somebody asked whether the broker is there.
    pub(crate) pings: AtomicUsize,
    pub(crate) producers: AtomicUsize,
    pub(crate) refusals: AtomicUsize,
}

impl Script {
    fn payload(n: i64) -> Vec<u8> {
        format!(r#"{{"n":{n}}}"#).into_bytes()
    }

    /// From now on the message with this number is refused.
    pub(crate) fn sicken(&self, n: i64) {
        self.sick.lock().unwrap().insert(Self::payload(n));
    }

    /// Whether the topic takes nothing.
    pub(crate) fn refuse_topic(&self, refuse: bool) {
        self.topic.store(refuse, Ordering::SeqCst);
    }

    /// From now on topics that begin with this refuse.
    pub(crate) fn refuse_topics(&self, topics: Option<&str>) {
        *self.refusing.lock().unwrap() = topics.map(str::to_owned);
    }

    /// From now on topics that begin with this answer nothing, as when there are too few replicas.
    pub(crate) fn silence(&self, topic: Option<&str>) {
        *self.silent.lock().unwrap() = topic.map(str::to_owned);
    }

    /// Of this topic so many records more are answered.
    pub(crate) fn mute_after(&self, topic: &str, answers: usize) {
        let mut mute = self.mute.lock().unwrap();
        mute.insert(topic.to_owned(), (answers, 0));
    }

    /// How many of its records have got no answer.
    pub(crate) fn unanswered(&self, topic: &str) -> usize {
        self.mute.lock().unwrap().get(topic).map_or(0, |(_, n)| *n)
    }

    /// From now on it is taken.
    pub(crate) fn heal(&self, n: i64) {
        self.sick.lock().unwrap().remove(&Self::payload(n));
    }
}

struct ScriptedProducer {
    inner: Box<dyn Producer>,
    deliveries: Deliveries,
    script: Arc<Script>,
    recent: Mutex<Vec<usize>>,
    /// As librdkafka's with the gapless guarantee: after a refusal it sends nothing more.
    broken: AtomicBool,
}

impl Producer for ScriptedProducer {
    fn send(&self, token: usize, record: Outgoing<'_>) -> Result<(), SendError> {
        let refuse = |token, class| {
            self.script.refusals.fetch_add(1, Ordering::SeqCst);
            let failure = Failure {
                class,
                reason: "scripted".to_owned(),
            };
            let _ = self.deliveries.send(Delivery {
                token,
                result: Err(failure),
            });
        };
        let is_away =
            |from: i64| (from..from + 1_000).any(|n| record.payload == Some(&Script::payload(n)));
        let outage_from = *self.script.outage_from.lock().unwrap();
        if self.script.outage.load(Ordering::SeqCst) || outage_from.is_some_and(is_away) {
            refuse(token, FailureClass::Outage);
            return Ok(());
        }
        let refusing = self.script.refusing.lock().unwrap().clone();
        let refuses = refusing.is_some_and(|refusing| record.topic.starts_with(&refusing));
        if refuses || self.script.topic.load(Ordering::SeqCst) {
            refuse(token, FailureClass::Topic);
            return Ok(());
        }
        if let Some((answers, unanswered)) = self.script.mute.lock().unwrap().get_mut(record.topic)
        {
            if *answers == 0 {
                *unanswered += 1;
                return Ok(());
            }
            *answers -= 1;
        }
        let silent = self.script.silent.lock().unwrap().clone();
        if silent.is_some_and(|silent| record.topic.starts_with(&silent)) {
            return Ok(());
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(SendError::Failed(Failure {
                class: FailureClass::Outage,
                reason: "broken".to_owned(),
            }));
        }
        let mut recent = self.recent.lock().unwrap();
        if self
            .script
            .sick
            .lock()
            .unwrap()
            .contains(record.payload.unwrap_or_default())
        {
            self.broken.store(true, Ordering::SeqCst);
            for token in recent.drain(..) {
                refuse(token, FailureClass::Record);
            }
            refuse(token, FailureClass::Record);
            return Ok(());
        }
        // Held back until two more have come or the queue is looked at again: a batch.
        recent.push(token);
        if recent.len() > 2 {
            recent.remove(0);
        }
        self.inner.send(token, record)
    }

    fn abandon(self: Box<Self>) {
        self.inner.abandon();
    }
}

impl Broker for Scripted {
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        self.embedded.ensure_topics(topics)
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.script.pings.fetch_add(1, Ordering::SeqCst);
        self.embedded.ping()
    }
    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: Deliveries,
    ) -> Result<Box<dyn Producer>, Error> {
        self.script.producers.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(ScriptedProducer {
            inner: self.embedded.producer(tuning, deliveries.clone())?,
            deliveries,
            script: Arc::clone(&self.script),
            recent: Mutex::default(),
            broken: AtomicBool::default(),
        }))
    }
    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        self.embedded.subscribe(group, topics)
    }
}

pub(crate) async fn scripted(name: &str) -> (World, Arc<Script>) {
    let script = Arc::new(Script::default());
    let broker = Scripted {
        embedded: Embedded::start().unwrap(),
        script: Arc::clone(&script),
    };
    (World::with(name, Arc::new(broker)).await, script)
}
