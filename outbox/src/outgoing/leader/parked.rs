//! To `outbox.parked` and back, each in one transaction that only the leader can commit.

use std::{
    collections::{BTreeMap, HashSet},
    future::pending,
    time::Instant,
};

use sqlx::PgTransaction;

use crate::{
    Error,
    broker::{Delivery, SendError, refusal, refusal_in},
    crash,
    outgoing::{
        flow::{Fault, Sorted, Why, Withheld},
        lane::Lane,
        leader::{Leader, lease_keeping::begin, patiently},
        parking::{self, Answered, BlockedKey, Due, Queue, Tried},
        wire,
    },
    trace::Sends,
};

/// The producer for what is parked.
#[derive(Default)]
pub(super) struct Parked {
    /// Only while there is something to try.
    lane: Option<Lane>,
    pub(super) arrived: Vec<Delivery>,
    sends: Sends,
}

impl Parked {
    /// The next report of what became of a parked message.
    pub(super) async fn delivery(&mut self) -> Delivery {
        match &mut self.lane {
            Some(lane) => match lane.deliveries.recv().await {
                Some(delivery) => delivery,
                None => pending().await,
            },
            None => pending().await,
        }
    }

    fn give_up_lane(&mut self) {
        self.lane.take().into_iter().for_each(Lane::abandon);
    }

    pub(super) fn abandon(mut self) {
        self.give_up_lane();
    }
}

impl Leader<'_> {
    /// Learns what former leaders parked. The lease is kept meanwhile: there may be much.
    pub(super) async fn remember_parked(&mut self) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = parking::table::blocked_keys(self.connection, after.as_ref());
            let page = patiently(page).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            self.flow.remember(page);
            patiently(self.keep_lease()).await?;
        }
        patiently(self.look_for_queues()).await
    }

    async fn look_for_queues(&mut self) -> Result<(), Error> {
        let queues = parking::table::queues(self.connection).await?;
        self.flow.queues.add(queues, Instant::now());
        Ok(())
    }

    /// Keeps a full copy of a record refused alone, and moves the cursor past it.
    pub(super) async fn park(&mut self, fault: Fault) -> Result<(), Error> {
        // The one that was refused something sends nothing more.
        self.renew_producer()?;
        self.flow.set_aside(&fault);
        self.advance();
        let Fault {
            seq,
            topic,
            failure,
            ..
        } = fault;
        let given = self.flow.given();
        let (mut tx, written) = begin(
            self.connection,
            &self.lease,
            self.config,
            self.flow.cursor(),
            &self.written,
        )
        .await?;
        let reasons = [failure.reason.clone()];
        parking::table::park_poison(&mut tx, &[seq], given, &reasons).await?;
        let blocked = parking::table::block(&mut tx, &[seq]).await?;
        crash::point("before_park");
        tx.commit().await?;
        crash::point("after_park");
        self.written(written);
        self.metrics.parked(1, "poison", refusal(&failure));
        tracing::warn!(
            seq,
            topic = &*topic,
            reason = failure.reason,
            key_blocked = !blocked.is_empty(),
            "parked a message in outbox.parked"
        );
        self.flow.remember(blocked);
        Ok(())
    }

    /// Parks what is withheld; the cursor may pass it then. What waited for a key that an operator
    /// has opened meanwhile is sent. Returns whether there was anything.
    pub(super) async fn withhold(&mut self) -> Result<bool, Error> {
        if !self.flow.has_withheld() {
            return Ok(false);
        }
        let (keys, given) = (self.flow.keys_to_check(), self.flow.given());
        let (mut tx, written) = begin(
            self.connection,
            &self.lease,
            self.config,
            self.flow.cursor(),
            &self.written,
        )
        .await?;
        let locked: HashSet<_> = match keys.is_empty() {
            true => HashSet::new(),
            false => parking::table::lock(&mut tx, &keys)
                .await?
                .into_iter()
                .collect(),
        };
        let sorted = self.flow.sort_withheld(&locked);
        let blocked = park_all(&mut tx, &sorted, given).await?;
        crash::point("before_hold");
        tx.commit().await?;
        crash::point("after_hold");
        self.written(written);
        self.tell(&sorted);
        let opened = self.flow.parked(sorted, blocked, Instant::now());
        for (token, row) in opened {
            match wire::send(&*self.lane.producer, token, &row, &self.config.source) {
                Ok(()) => {}
                // No room for it now: all of it is read and sent again.
                Err(SendError::Full) => {
                    self.rewind();
                    break;
                }
                Err(SendError::Failed(failure)) => {
                    let result = Err(failure);
                    self.arrived.push(Delivery { token, result });
                }
            }
        }
        Ok(true)
    }

    /// Says what was parked and why: a topic once, when it begins to refuse.
    fn tell(&self, sorted: &Sorted) {
        for (topic, held) in &sorted.held {
            let messages = held.messages.len();
            self.metrics
                .parked(messages as u64, "held", refusal_in(&held.reason));
            let (topic, reason) = (&**topic, held.reason.as_str());
            if held.begins {
                tracing::warn!(
                    topic,
                    reason,
                    messages,
                    "a topic takes no messages: they are held in outbox.parked until it does"
                );
            } else {
                tracing::debug!(topic, reason, messages, "held messages in outbox.parked");
            }
        }
        for withheld in &sorted.flawed {
            let Why::Flawed(reason) = &withheld.why else {
                continue;
            };
            self.metrics.parked(1, "poison", "flawed");
            tracing::warn!(
                seq = withheld.seq,
                topic = &*withheld.topic,
                reason,
                "parked a row of which no record can be made"
            );
        }
        let mut followers: BTreeMap<&str, u64> = BTreeMap::new();
        for withheld in &sorted.blocked {
            *followers.entry(&withheld.topic).or_default() += 1;
        }
        for (topic, messages) in followers {
            self.metrics.parked(messages, "blocked", "key_blocked");
            tracing::warn!(
                topic,
                messages,
                "parked messages in outbox.parked behind earlier ones of their keys"
            );
        }
    }

    /// Looks for what is to be tried again: topics that may have healed, what operators ask for,
    /// keys whose head is gone.
    pub(super) async fn look_for_parked(&mut self) -> Result<(), Error> {
        self.look_for_queues().await?;
        if self.flow.queues.is_empty() {
            // The next one may be long in coming.
            self.parked.give_up_lane();
            return Ok(());
        }
        self.try_parked().await
    }

    async fn try_parked(&mut self) -> Result<(), Error> {
        if self.written.paused {
            return Ok(());
        }
        for due in self.flow.queues.due(Instant::now()) {
            self.try_queue(&due).await?;
        }
        Ok(())
    }

    async fn try_queue(&mut self, due: &Due) -> Result<(), Error> {
        let rows = parking::table::next_of(self.connection, &due.queue, due.limit).await?;
        if rows.is_empty() {
            if let Queue::Topic(topic) = &due.queue {
                tracing::info!(topic, "the topic takes messages again");
            }
            self.flow.healed(&due.queue);
            return Ok(());
        }
        let lane = match &mut self.parked.lane {
            Some(lane) => lane,
            none => none.insert(self.spares.take(self.broker, &self.tuning)?),
        };
        self.parked.sends.page();
        for row in rows {
            let token = self.flow.queues.try_one(due, row.seq);
            if let Some(flaw) = &row.flaw {
                // Asked for, or held since before it was known: no record can be made of it.
                self.flow.queues.not_sent(token);
                let tried = Tried {
                    queue: due.queue.clone(),
                    seq: row.seq,
                    alone: true,
                };
                return self.refuse(&tried, flaw).await;
            }
            let sent = wire::send(&*lane.producer, token, &row, &self.config.source);
            if sent != Err(SendError::Full) {
                self.parked.sends.sent(token, &row);
            }
            let Err(refused) = sent else { continue };
            if let SendError::Failed(failure) = refused {
                // As if the broker had answered.
                let result = Err(failure);
                self.parked.arrived.push(Delivery { token, result });
            } else {
                self.flow.queues.not_sent(token);
            }
            // What would follow it must not overtake.
            break;
        }
        Ok(())
    }

    /// Takes the answers to tries of parked messages.
    pub(super) async fn take_parked(&mut self) -> Result<(), Error> {
        if let Some(lane) = &mut self.parked.lane {
            while let Ok(delivery) = lane.deliveries.try_recv() {
                self.parked.arrived.push(delivery);
            }
        }
        if self.parked.arrived.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let (mut taken, mut refused, mut failed) = (Vec::new(), Vec::new(), None);
        for Delivery { token, result } in std::mem::take(&mut self.parked.arrived) {
            let answered = self.flow.queues.answered(token, &result, now);
            match answered {
                Answered::Nothing => continue,
                Answered::Taken(seq) => taken.push(seq),
                Answered::Refused(tried, failure) => refused.push((tried, failure.reason)),
                Answered::Failed => {}
            }
            if let Err(failure) = result {
                self.parked.sends.refused(token, &failure);
                failed = Some(failure);
            }
        }
        let queues = &self.flow.queues;
        self.parked.sends.page();
        self.parked.sends.settle(|token| !queues.is_trying(token));
        if !taken.is_empty() {
            self.forget(&taken).await?;
        }
        for (tried, reason) in &refused {
            self.refuse(tried, reason).await?;
        }
        if self.flow.queues.needs_a_producer() {
            if let Some(failure) = &failed {
                self.parked.sends.give_up(failure);
                let reason = &failure.reason;
                tracing::debug!(reason, "parked messages were not taken, trying again later");
            }
            self.parked.give_up_lane();
            self.flow.queues.renewed();
        }
        self.try_parked().await
    }

    /// Removes parked messages that were acknowledged, and opens the keys that hold no more.
    async fn forget(&mut self, seqs: &[i64]) -> Result<(), Error> {
        let (mut tx, written) = begin(
            self.connection,
            &self.lease,
            self.config,
            self.flow.cursor(),
            &self.written,
        )
        .await?;
        let removed = parking::table::remove(&mut tx, seqs).await?;
        crash::point("before_unpark");
        tx.commit().await?;
        crash::point("after_unpark");
        self.written(written);
        // The rest of a key whose head was just sent.
        let released = removed.released.into_iter();
        let released = released.map(|BlockedKey { topic, key }| Queue::Key { topic, key });
        self.flow.queues.add(released, Instant::now());
        removed.opened.iter().for_each(|key| self.flow.open(key));
        self.metrics.unparked(seqs.len());
        tracing::info!(
            messages = seqs.len(),
            keys_opened = removed.opened.len(),
            "sent messages from outbox.parked"
        );
        Ok(())
    }

    /// A parked message was refused for its own sake, once more or for the first time. What
    /// waits behind it goes on waiting.
    async fn refuse(&mut self, tried: &Tried, reason: &str) -> Result<(), Error> {
        let (mut tx, written) = begin(
            self.connection,
            &self.lease,
            self.config,
            self.flow.cursor(),
            &self.written,
        )
        .await?;
        parking::table::refuse(&mut tx, tried.seq, reason).await?;
        let blocked = match &tried.queue {
            // Its key is blocked already, or was left open on purpose.
            Queue::One { .. } => Vec::new(),
            Queue::Key { .. } | Queue::Topic(_) => {
                parking::table::block(&mut tx, &[tried.seq]).await?
            }
        };
        tx.commit().await?;
        self.written(written);
        self.flow.remember(blocked);
        if !matches!(tried.queue, Queue::Topic(_)) {
            self.flow.queues.remove(&tried.queue);
        }
        self.metrics.parked(1, "poison", refusal_in(reason));
        tracing::warn!(seq = tried.seq, reason, "a parked message was refused");
        Ok(())
    }
}

/// Copies of all that is withheld; returns the keys that are blocked by it.
async fn park_all(
    tx: &mut PgTransaction<'_>,
    sorted: &Sorted,
    given: i64,
) -> Result<Vec<BlockedKey>, Error> {
    let seqs = |messages: &[Withheld]| messages.iter().map(|m| m.seq).collect::<Vec<_>>();
    if !sorted.blocked.is_empty() {
        let reason = "an earlier message of its key is parked";
        parking::table::park(tx, &seqs(&sorted.blocked), "blocked", reason).await?;
    }
    for held in sorted.held.values() {
        parking::table::park(tx, &seqs(&held.messages), "held", &held.reason).await?;
    }
    if sorted.flawed.is_empty() {
        return Ok(Vec::new());
    }
    let reasons = sorted.flawed.iter().map(|withheld| match &withheld.why {
        Why::Flawed(reason) => reason.clone(),
        Why::Blocked(_) | Why::Held => String::new(),
    });
    let (flawed, reasons) = (seqs(&sorted.flawed), reasons.collect::<Vec<_>>());
    parking::table::park_poison(tx, &flawed, given, &reasons).await?;
    parking::table::block(tx, &flawed).await
}
