//! What became of the records sent, and what follows from it.

use std::time::Instant;

use chrono::Utc;

use crate::{
    Error,
    broker::{Delivery, Failure, FailureClass},
    crash,
    outgoing::leader::{BACKOFF, Leader, parked::Fault, patiently},
};

impl Leader<'_> {
    pub(super) async fn take_deliveries(&mut self) -> Result<(), Error> {
        while let Ok(delivery) = self.lane.deliveries.try_recv() {
            self.arrived.push(delivery);
        }
        let mut broken = None;
        for Delivery { token, result } in std::mem::take(&mut self.arrived) {
            let Err(failure) = result else {
                crash::point("before_ack");
                self.ring.acknowledge(token);
                crash::point("after_ack");
                continue;
            };
            // A report from before a rewind names nothing any more.
            let Some(seq) = self.ring.seq_of(token) else {
                continue;
            };
            self.sends.refused(token, &failure);
            match failure.class {
                FailureClass::Topic => {
                    self.alone.take_if(|(alone, _)| *alone == token);
                    self.parked.hold(token, seq, failure.reason);
                    continue;
                }
                FailureClass::Record => drop(self.suspects.insert(seq)),
                // What the client gave up because of a refused record is no outage.
                FailureClass::Outage if broken.is_some() => continue,
                FailureClass::Outage => {}
            }
            broken = Some((token, failure));
        }
        self.advance();
        match (broken, self.alone) {
            (None, _) => Ok(()),
            (Some((token, failure)), Some((alone, seq)))
                if token == alone && failure.class == FailureClass::Record =>
            {
                patiently(self.park(Fault {
                    token,
                    seq,
                    failure,
                }))
                .await
            }
            (Some((_, failure)), _) => self.reset(&failure),
        }
    }

    /// Moves the cursor over what is acknowledged without a gap.
    pub(super) fn advance(&mut self) {
        let now = Utc::now();
        let (before, mut published) = (self.ring.messages(), 0);
        let moved = self.ring.advance(|created_at| {
            published += 1;
            self.metrics.acknowledged(created_at, now);
        });
        self.metrics.in_flight(self.ring.messages());
        self.sends.settle(|token| self.ring.is_past(token));
        let Some(cursor) = moved else { return };
        if let Some((_, seq)) = self.alone.take_if(|(token, _)| self.ring.is_past(*token)) {
            tracing::info!(seq, "a suspect was acknowledged when sent alone");
            self.suspects.remove(&seq);
        }
        self.cursor = cursor;
        self.moved |= self.ring.messages() < before;
        if published > 0 {
            self.acknowledged_at = Instant::now();
            self.backoff = BACKOFF.0;
        }
    }

    /// Gives up the producer and everything on its way; it is read and sent again.
    fn reset(&mut self, failure: &Failure) -> Result<(), Error> {
        tracing::warn!(
            reason = failure.reason,
            in_flight = self.ring.messages(),
            suspects = self.suspects.len(),
            "a delivery failed, starting a new producer at the cursor"
        );
        self.sends.give_up(failure);
        self.start_over()?;
        if failure.class == FailureClass::Outage {
            self.resume_at = Instant::now() + self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
        Ok(())
    }

    /// With a new producer, at the cursor.
    pub(super) fn start_over(&mut self) -> Result<(), Error> {
        self.renew_producer()?;
        self.given = self.given.max(self.ring.highest_seq());
        self.rewind();
        Ok(())
    }

    pub(super) fn renew_producer(&mut self) -> Result<(), Error> {
        self.metrics.producer_reset();
        let fresh = self.spares.take(self.broker, &self.config.tuning)?;
        std::mem::replace(&mut self.lane, fresh).abandon();
        self.spares.refill(self.broker, &self.config.tuning)
    }
}
