//! Brokers for measuring: one that is not there, and one that looks at the clock.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use outbox::{
    Error,
    broker::{
        Broker, Deliveries, Delivery, Outgoing, Producer, SendError, Subscription, Topic, Tuning,
    },
};
use tokio::sync::mpsc;

use crate::open_loop::Stamps;

/// Takes everything at once and keeps nothing: what is left is the relay.
pub(crate) struct Nothing;

impl Broker for Nothing {
    fn ensure_topics<'a>(&'a self, _: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn producer(&self, _: &Tuning, deliveries: Deliveries) -> Result<Box<dyn Producer>, Error> {
        Ok(Box::new(Taker { deliveries }))
    }

    fn subscribe(&self, _: &str, _: &[String]) -> Result<Box<dyn Subscription>, Error> {
        Err(Error::Broker("nothing can be read from nothing".to_owned()))
    }
}

struct Taker {
    deliveries: Deliveries,
}

impl Producer for Taker {
    fn send(&self, token: usize, record: Outgoing<'_>) -> Result<(), SendError> {
        std::hint::black_box(record);
        let result = Ok(());
        // Nobody listens any more when the relay has given this producer up.
        let _ = self.deliveries.send(Delivery { token, result });
        Ok(())
    }

    fn abandon(self: Box<Self>) {}
}

/// A broker, with the times of sending and acknowledgement noted. The records' keys are numbers.
pub(crate) struct Watched {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) stamps: Arc<Stamps>,
}

impl Broker for Watched {
    fn ensure_topics<'a>(&'a self, topics: &'a [Topic]) -> BoxFuture<'a, Result<(), Error>> {
        self.broker.ensure_topics(topics)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.broker.ping()
    }

    fn producer(
        &self,
        tuning: &Tuning,
        deliveries: Deliveries,
    ) -> Result<Box<dyn Producer>, Error> {
        let (sender, mut reports) = mpsc::unbounded_channel::<Delivery>();
        let producer = self.broker.producer(tuning, sender)?;
        let numbers = Arc::new(Mutex::new(HashMap::new()));
        let (stamps, known) = (Arc::clone(&self.stamps), Arc::clone(&numbers));
        tokio::spawn(async move {
            while let Some(delivery) = reports.recv().await {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(n) = known.remove(&delivery.token) {
                    stamps.acknowledged.note(n);
                }
                drop(known);
                if deliveries.send(delivery).is_err() {
                    break;
                }
            }
        });
        Ok(Box::new(Noting {
            producer,
            stamps: Arc::clone(&self.stamps),
            numbers,
        }))
    }

    fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>, Error> {
        self.broker.subscribe(group, topics)
    }
}

struct Noting {
    producer: Box<dyn Producer>,
    stamps: Arc<Stamps>,
    /// Of the messages on their way, by token.
    numbers: Arc<Mutex<HashMap<usize, usize>>>,
}

impl Producer for Noting {
    fn send(&self, token: usize, record: Outgoing<'_>) -> Result<(), SendError> {
        if let Ok(n) = record.key.parse() {
            self.stamps.sent.note(n);
            let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
            numbers.insert(token, n);
        }
        self.producer.send(token, record)
    }

    fn abandon(self: Box<Self>) {
        self.producer.abandon();
    }
}
