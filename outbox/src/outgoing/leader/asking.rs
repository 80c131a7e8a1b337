//! What the broker is asked before anything more is sent: after a batch that was too large, how much its
//! topic takes; after a failure that is not listed, whether the broker is well.
//!
//! The loop goes on meanwhile and keeps the lease; only sending waits, for as long as the broker has to
//! answer a request.

use std::{sync::Arc, time::Instant};

use futures::{FutureExt, future::BoxFuture};

use crate::{
    Error,
    broker::{Broker, Tuning},
    outgoing::{
        flow::{Answer, Question},
        leader::{LIMITS, Leader},
        table, topics,
    },
};

/// A question on its way.
pub(super) struct Asked<'a> {
    question: Question,
    answer: BoxFuture<'a, Answer>,
}

impl<'a> Leader<'a> {
    pub(super) fn ask(&mut self, question: Question) {
        let broker = self.broker;
        let answer: BoxFuture<'a, Answer> = match question.clone() {
            Question::Well(..) => Box::pin(async { Answer::Well(broker.ping().await.is_ok()) }),
            Question::Limit(topic) => Box::pin(limit(broker, topic)),
        };
        self.asked = Some(Asked { question, answer });
    }

    /// Takes the answer, when it is there.
    pub(super) async fn take_answer(&mut self) -> Result<(), Error> {
        let Some(asked) = &mut self.asked else {
            return Ok(());
        };
        let Some(answer) = (&mut asked.answer).now_or_never() else {
            return Ok(());
        };
        let asked = self.asked.take();
        self.flow.answered(answer);
        if let (Some(asked), Answer::Limit(limit)) = (asked, answer)
            && let Question::Limit(topic) = asked.question
        {
            let noted = [(topic.to_string(), limit)];
            topics::note_limits(self.connection, &noted).await?;
            self.adopt_limits().await?;
        }
        Ok(())
    }

    /// Looks now and then whether a topic takes more or less than it did.
    pub(super) async fn look_for_limits(&mut self) -> Result<(), Error> {
        match self.limits_at.elapsed() < LIMITS {
            true => Ok(()),
            false => self.adopt_limits().await,
        }
    }

    /// Makes producers for the limits as they are noted now. The one in use is changed as soon as
    /// nothing is in flight in it, which is waited for; batches grow with the next leadership only.
    async fn adopt_limits(&mut self) -> Result<(), Error> {
        self.limits_at = Instant::now();
        let limits = topics::largest_and_smallest_limit(self.connection).await?;
        let wanted = self.config.tuning.clone().for_limits(limits);
        self.flow.shrink_batches(wanted.batch_bytes);
        let wanted = Tuning {
            batch_bytes: self.flow.batch_bytes(),
            ..wanted
        };
        if wanted != self.tuning {
            let (batch_bytes, max_record_bytes) = (wanted.batch_bytes, wanted.max_record_bytes);
            tracing::info!(
                batch_bytes,
                max_record_bytes,
                "a topic's limit has changed, changing the producer"
            );
            self.tuning = wanted;
            self.outdated = true;
        }
        Ok(())
    }

    /// Changes the producer for other limits, if it is to be and can be; says whether nothing may be
    /// sent before.
    pub(super) fn awaits_producer(&mut self) -> Result<bool, Error> {
        if self.outdated && self.flow.in_flight() == 0 {
            self.renew_producer()?;
        }
        Ok(self.outdated)
    }
}

// ---- which broker it is ----

/// The broker's name for itself, on its way.
pub(super) type Identity<'a> = BoxFuture<'a, Option<String>>;

impl Leader<'_> {
    /// Notes once which broker acknowledges now, and says so loudly if it is another than before: it has
    /// none of the messages that the cursor has passed.
    pub(super) async fn look_at_broker(&mut self) -> Result<(), Error> {
        let Some(identity) = &mut self.identity else {
            return Ok(());
        };
        let Some(answer) = identity.now_or_never() else {
            return Ok(());
        };
        let Some(broker) = answer else {
            // Away, or of a kind that does not say; it is asked again.
            self.identity = Some(self.broker.identity());
            return Ok(());
        };
        self.identity = None;
        let noted = table::broker(self.connection).await?;
        if let Some(before) = noted.as_ref().filter(|before| **before != broker) {
            tracing::error!(
                before,
                broker,
                "this is another broker than the one that acknowledged the messages so far, and has none \
                 of them; `recompense outbox replay` sends again what the log still holds"
            );
        }
        if noted.as_deref() != Some(&broker) {
            table::note_broker(self.connection, &self.lease, &broker).await?;
        }
        Ok(())
    }
}

async fn limit(broker: &dyn Broker, topic: Arc<str>) -> Answer {
    let said = broker.limits(&[topic.to_string()]).await;
    let said = said.ok().and_then(|limits| limits.into_iter().next());
    Answer::Limit(said.and_then(|(_, limit)| limit))
}
