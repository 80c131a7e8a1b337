//! A producer with the channel it reports to, and a few made before they are needed.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::{
    Error,
    broker::{Broker, Delivery, Producer, Tuning},
};

/// One is for the batch with a sick record in it, the next for that record when it was alone.
const SPARES: usize = 2;

pub(super) struct Lane {
    pub(super) producer: Box<dyn Producer>,
    pub(super) deliveries: mpsc::UnboundedReceiver<Delivery>,
}

impl Lane {
    pub(super) fn open(broker: &dyn Broker, tuning: &Tuning) -> Result<Self, Error> {
        let (sender, deliveries) = mpsc::unbounded_channel();
        Ok(Self {
            producer: broker.producer(tuning, sender)?,
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

/// Producers that have sent nothing yet. A new one of librdkafka's asks for its producer id only
/// half a second after it was made, so one that is made when it is needed holds up everything for
/// so long; whoever waits to lead, or leads, has some ready.
#[derive(Default)]
pub(super) struct Spares {
    /// What they were made with.
    tuning: Tuning,
    ready: VecDeque<Lane>,
}

impl Spares {
    /// A producer with these settings: the one that has been ready longest, else a new one.
    pub(super) fn take(&mut self, broker: &dyn Broker, tuning: &Tuning) -> Result<Lane, Error> {
        self.suit(tuning);
        match self.ready.pop_front() {
            Some(lane) => Ok(lane),
            None => Lane::open(broker, tuning),
        }
    }

    /// Makes one more, if there are too few.
    pub(super) fn refill(&mut self, broker: &dyn Broker, tuning: &Tuning) -> Result<(), Error> {
        self.suit(tuning);
        if self.ready.len() < SPARES {
            self.ready.push_back(Lane::open(broker, tuning)?);
        }
        Ok(())
    }

    /// Gives up those with other settings.
    fn suit(&mut self, tuning: &Tuning) {
        if self.tuning != *tuning {
            self.tuning = tuning.clone();
            self.ready.drain(..).for_each(Lane::abandon);
        }
    }

    pub(super) fn abandon(self) {
        self.ready.into_iter().for_each(Lane::abandon);
    }
}
