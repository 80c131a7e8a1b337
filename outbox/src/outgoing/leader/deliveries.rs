//! What became of the records sent, and what follows from it.

use std::time::Instant;

use chrono::Utc;

use crate::{
    Error,
    broker::{Delivery, Failure},
    crash,
    outgoing::{
        flow::{Question, Verdict},
        leader::{Leader, patiently},
    },
};

impl Leader<'_> {
    pub(super) async fn take_deliveries(&mut self) -> Result<(), Error> {
        while let Ok(delivery) = self.lane.deliveries.try_recv() {
            self.arrived.push(delivery);
        }
        for Delivery { token, result } in std::mem::take(&mut self.arrived) {
            match result {
                Ok(()) => {
                    crash::point("before_ack");
                    self.flow.acknowledged(token);
                    crash::point("after_ack");
                }
                Err(failure) if self.flow.knows(token) => {
                    self.sends.refused(token, &failure);
                    self.flow.refused(token, failure);
                }
                // A report from before everything started over.
                Err(_) => {}
            }
        }
        self.advance();
        match self.flow.verdict() {
            Verdict::GoOn => Ok(()),
            Verdict::Park(fault) => patiently(self.park(fault)).await,
            Verdict::StartOver(failure, question) => {
                patiently(self.withhold()).await?;
                self.reset(&failure, question)
            }
        }
    }

    /// Moves the cursor over what is acknowledged without a gap.
    pub(super) fn advance(&mut self) {
        let (now, mut published) = (Utc::now(), 0);
        let metrics = &self.metrics;
        self.moved |= self.flow.advance(|sent| {
            published += 1;
            metrics.acknowledged(sent.created_at, now);
        });
        self.metrics.in_flight(self.flow.in_flight());
        let flow = &self.flow;
        self.sends.settle(|token| flow.is_past(token));
        if published > 0 {
            self.acknowledged_at = Instant::now();
        }
    }

    /// Gives up the producer and everything in flight; it is read and sent again.
    pub(super) fn reset(
        &mut self,
        failure: &Failure,
        question: Option<Question>,
    ) -> Result<(), Error> {
        tracing::warn!(
            reason = failure.reason,
            whose = ?failure.class,
            in_flight = self.flow.in_flight(),
            suspects = self.flow.suspects(),
            "a delivery failed, starting a new producer at the cursor"
        );
        self.sends.give_up(failure);
        self.start_over(Some(failure))?;
        question.into_iter().for_each(|question| self.ask(question));
        Ok(())
    }

    /// With a new producer, at the cursor.
    pub(super) fn start_over(&mut self, failure: Option<&Failure>) -> Result<(), Error> {
        self.renew_producer()?;
        let class = failure.map(|failure| failure.class);
        self.flow.start_over(class, Instant::now());
        self.rewind();
        Ok(())
    }

    pub(super) fn renew_producer(&mut self) -> Result<(), Error> {
        self.metrics.producer_reset();
        let fresh = self.spares.take(self.broker, &self.tuning)?;
        std::mem::replace(&mut self.lane, fresh).abandon();
        self.outdated = false;
        self.spares.refill(self.broker, &self.tuning)
    }
}
