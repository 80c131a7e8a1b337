//! A producer, with the channel it reports to.

use tokio::sync::mpsc;

use crate::{
    Error,
    broker::{Broker, Delivery, Producer},
    outgoing::relay::Config,
};

pub(super) struct Lane {
    pub(super) producer: Box<dyn Producer>,
    pub(super) deliveries: mpsc::UnboundedReceiver<Delivery>,
}

impl Lane {
    pub(super) fn open(broker: &dyn Broker, config: &Config) -> Result<Self, Error> {
        let (sender, deliveries) = mpsc::unbounded_channel();
        Ok(Self {
            producer: broker.producer(&config.tuning, sender)?,
            deliveries,
        })
    }

    /// Gives up the producer and whatever it has not sent. Its late reports go to a channel that
    /// nobody reads.
    pub(super) fn abandon(self) {
        // Freeing the producer blocks; nobody waits for it.
        tokio::task::spawn_blocking(move || self.producer.abandon());
    }
}
