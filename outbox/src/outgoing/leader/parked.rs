//! To `outbox.parked` and back, each in one transaction that only the leader can commit.

use std::{collections::HashSet, future::pending};

use crate::{
    Error,
    broker::{Delivery, Failure, FailureClass, SendError, refusal, refusal_in},
    crash,
    outgoing::{
        lane::Lane,
        leader::{Leader, lease_keeping::begin},
        parking::{self, BlockedKey, BlockedKeys, Queue, Queues, Tried},
        table::Logged,
        wire,
    },
    trace::Sends,
};

/// What the leader knows of what is parked.
#[derive(Default)]
pub(super) struct Parked {
    blocked: BlockedKeys,
    queues: Queues,
    /// A producer for what is parked; only while there is something to try.
    lane: Option<Lane>,
    pub(super) arrived: Vec<Delivery>,
    sends: Sends,
    /// Read, not sent, and about to be parked.
    pub(super) withheld: Vec<Withheld>,
    /// What the broker said last of a topic that refuses.
    refusal: String,
}

/// A message about to be parked, by its token in the ring.
pub(super) struct Withheld {
    token: usize,
    seq: i64,
    why: Why,
    /// Missing where the broker has refused it.
    row: Option<Logged>,
}

pub(super) enum Why {
    /// An earlier message of its key is parked.
    Blocked,
    /// Its topic refuses.
    Held,
}

/// A record the broker refused when it was alone.
pub(super) struct Fault {
    pub(super) token: usize,
    pub(super) seq: i64,
    pub(super) failure: Failure,
}

impl Parked {
    /// Whether a message must be parked instead of sent.
    pub(super) fn why_not(&self, row: &Logged) -> Option<Why> {
        if self.blocked.contains(&row.topic, &row.key) {
            return Some(Why::Blocked);
        }
        let held = !self.queues.is_empty() && self.queues.hold(&row.topic);
        held.then_some(Why::Held)
    }

    pub(super) fn withhold(&mut self, token: usize, row: Logged, why: Why) {
        let (seq, row) = (row.seq, Some(row));
        self.withheld.push(Withheld {
            token,
            seq,
            why,
            row,
        });
    }

    /// Withholds a message that was sent, because its topic refused it.
    pub(super) fn hold(&mut self, token: usize, seq: i64, reason: String) {
        self.refusal = reason;
        self.withheld.push(Withheld {
            token,
            seq,
            why: Why::Held,
            row: None,
        });
    }

    /// The next report of a parked message's fate.
    pub(super) async fn delivery(&mut self) -> Delivery {
        match &mut self.lane {
            Some(lane) => match lane.deliveries.recv().await {
                Some(delivery) => delivery,
                None => pending().await,
            },
            None => pending().await,
        }
    }

    pub(super) fn abandon(self) {
        self.lane.into_iter().for_each(Lane::abandon);
    }
}

impl Leader<'_> {
    /// Learns what former leaders parked.
    pub(super) async fn remember_parked(&mut self) -> Result<(), Error> {
        let blocked = parking::table::blocked_keys(self.connection).await?;
        self.parked.blocked = blocked.into_iter().collect();
        let queues = parking::table::queues(self.connection).await?;
        self.parked.queues.add(queues);
        Ok(())
    }

    /// Keeps a full copy of a record refused alone, and moves the cursor past it.
    pub(super) async fn park(&mut self, fault: Fault) -> Result<(), Error> {
        let Fault {
            token,
            seq,
            failure,
        } = fault;
        // The one that was refused something sends nothing more.
        self.renew_producer()?;
        self.ring.set_aside(token);
        self.advance();
        self.alone = None;
        self.suspects.remove(&seq);
        let (mut tx, written) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        parking::table::park_poison(&mut tx, seq, self.given, &failure.reason).await?;
        let blocked = parking::table::block(&mut tx, seq).await?;
        crash::point("before_park");
        tx.commit().await?;
        crash::point("after_park");
        self.written(written);
        self.metrics.parked(1, "poison", refusal(&failure));
        tracing::warn!(
            seq,
            reason = failure.reason,
            key_blocked = blocked.is_some(),
            "parked a message in outbox.parked"
        );
        if let Some(key) = blocked {
            self.parked.blocked.block(key);
        }
        Ok(())
    }

    /// Parks what is withheld; the cursor may pass it then. What waited for a key that an operator
    /// has opened meanwhile is sent.
    pub(super) async fn withhold(&mut self) -> Result<(), Error> {
        if self.parked.withheld.is_empty() {
            return Ok(());
        }
        let withheld = std::mem::take(&mut self.parked.withheld);
        let key_of = |withheld: &Withheld| match (&withheld.why, &withheld.row) {
            (Why::Blocked, Some(row)) => Some(BlockedKey {
                topic: row.topic.clone(),
                key: row.key.clone(),
            }),
            _ => None,
        };
        let keys: HashSet<_> = withheld.iter().filter_map(key_of).collect();
        let keys: Vec<_> = keys.into_iter().collect();

        let (mut tx, written) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        let locked: HashSet<_> = match keys.is_empty() {
            true => HashSet::new(),
            false => parking::table::lock(&mut tx, &keys)
                .await?
                .into_iter()
                .collect(),
        };
        let (mut blocked, mut held, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        for withheld in withheld {
            match key_of(&withheld) {
                None => held.push(withheld),
                Some(key) if locked.contains(&key) => blocked.push(withheld),
                Some(_) => opened.push(withheld),
            }
        }
        for (withheld, class, reason) in [
            (
                &blocked,
                "blocked",
                "an earlier message of its key is parked",
            ),
            (&held, "held", self.parked.refusal.as_str()),
        ] {
            if withheld.is_empty() {
                continue;
            }
            let seqs: Vec<_> = withheld.iter().map(|withheld| withheld.seq).collect();
            parking::table::park(&mut tx, &seqs, class, reason).await?;
        }
        crash::point("before_hold");
        tx.commit().await?;
        crash::point("after_hold");
        self.written(written);
        if !held.is_empty() {
            let queues = parking::table::queues(self.connection).await?;
            self.parked.queues.add(queues);
        }
        for (withheld, class) in [(&blocked, "blocked"), (&held, "held")] {
            let messages = withheld.len() as u64;
            if messages == 0 {
                continue;
            }
            let reason = match class {
                "blocked" => "key_blocked",
                _ => refusal_in(&self.parked.refusal),
            };
            self.metrics.parked(messages, class, reason);
            tracing::warn!(messages, class, "parked messages in outbox.parked");
            for withheld in withheld {
                self.ring.set_aside(withheld.token);
            }
        }
        self.send_opened(opened);
        Ok(())
    }

    /// Sends messages that were withheld for keys that are open after all.
    fn send_opened(&mut self, opened: Vec<Withheld>) {
        for withheld in &opened {
            if let Some(Logged { topic, key, .. }) = &withheld.row {
                let (topic, key) = (topic.clone(), key.clone());
                self.parked.blocked.open(&BlockedKey { topic, key });
            }
        }
        for withheld in opened {
            let (token, Some(row)) = (withheld.token, withheld.row) else {
                continue;
            };
            if let Some(why) = self.parked.why_not(&row) {
                self.parked.withhold(token, row, why);
                continue;
            }
            match wire::send(&*self.lane.producer, token, &row, &self.config.source) {
                Ok(()) => {}
                // No room for it now: all of it is read and sent again.
                Err(SendError::Full) => return self.rewind(),
                Err(SendError::Failed(failure)) => {
                    let result = Err(failure);
                    self.arrived.push(Delivery { token, result });
                }
            }
        }
    }

    /// Looks for what is to be tried again: topics that may have healed, what operators ask for,
    /// keys whose head is gone.
    pub(super) async fn look_for_parked(&mut self) -> Result<(), Error> {
        let queues = parking::table::queues(self.connection).await?;
        self.parked.queues.add(queues);
        if self.parked.queues.is_empty() {
            // The next one may be long in coming.
            self.parked.lane.take().into_iter().for_each(Lane::abandon);
            return Ok(());
        }
        self.try_parked().await
    }

    async fn try_parked(&mut self) -> Result<(), Error> {
        if self.paused {
            return Ok(());
        }
        for due in self.parked.queues.due() {
            let rows = parking::table::next_of(self.connection, &due.queue, due.limit).await?;
            if rows.is_empty() {
                if let Queue::Topic(topic) = &due.queue {
                    tracing::info!(topic, "the topic takes messages again");
                }
                self.parked.queues.remove(&due.queue);
                continue;
            }
            let lane = match &mut self.parked.lane {
                Some(lane) => lane,
                none => none.insert(self.spares.take(self.broker, &self.config.tuning)?),
            };
            self.parked.sends.page();
            for row in rows {
                let token = self.parked.queues.try_one(&due, row.seq);
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
                    self.parked.queues.tried(token, false);
                }
                // What would follow it must not overtake.
                break;
            }
        }
        Ok(())
    }

    /// Takes the fates of parked messages that were tried.
    pub(super) async fn take_parked(&mut self) -> Result<(), Error> {
        if let Some(lane) = &mut self.parked.lane {
            while let Ok(delivery) = lane.deliveries.try_recv() {
                self.parked.arrived.push(delivery);
            }
        }
        if self.parked.arrived.is_empty() {
            return Ok(());
        }
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        let (mut failed, mut refusal) = (None, false);
        for Delivery { token, result } in std::mem::take(&mut self.parked.arrived) {
            let Some(tried) = self.parked.queues.tried(token, result.is_ok()) else {
                continue;
            };
            let Err(failure) = result else {
                taken.push(tried.seq);
                continue;
            };
            self.parked.sends.refused(token, &failure);
            // In company it may be another's fault; the next try is alone.
            if failure.class == FailureClass::Record && tried.alone {
                refused.push((tried, failure.reason.clone()));
            }
            refusal |= failure.class == FailureClass::Record;
            failed = Some(failure);
        }
        let queues = &self.parked.queues;
        self.parked.sends.page();
        self.parked.sends.settle(|token| !queues.is_trying(token));
        if !taken.is_empty() {
            self.forget(&taken).await?;
        }
        for (tried, reason) in &refused {
            self.refuse(tried, reason).await?;
        }
        if let Some(failure) = failed {
            self.parked.sends.give_up(&failure);
            // By a new producer: one that was refused something sends nothing more.
            self.parked.lane.take().into_iter().for_each(Lane::abandon);
            self.parked.queues.forget();
            if !refusal {
                let reason = failure.reason;
                tracing::warn!(reason, "parked messages were not taken, trying again later");
                return Ok(());
            }
        }
        self.try_parked().await
    }

    /// Removes parked messages that were acknowledged, and opens the keys that hold no more.
    async fn forget(&mut self, seqs: &[i64]) -> Result<(), Error> {
        let (mut tx, written) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        let opened = parking::table::remove(&mut tx, seqs).await?.opened;
        crash::point("before_unpark");
        tx.commit().await?;
        crash::point("after_unpark");
        self.written(written);
        opened.iter().for_each(|key| self.parked.blocked.open(key));
        self.metrics.unparked(seqs.len());
        tracing::info!(
            messages = seqs.len(),
            keys_opened = opened.len(),
            "sent messages from outbox.parked"
        );
        // The rest of a key whose head was just sent.
        let queues = parking::table::queues(self.connection).await?;
        self.parked.queues.add(queues);
        Ok(())
    }

    /// A parked message was refused for its own sake, once more or for the first time. What
    /// waits behind it goes on waiting.
    async fn refuse(&mut self, tried: &Tried, reason: &str) -> Result<(), Error> {
        let (mut tx, written) =
            begin(self.connection, &self.lease, self.config, &self.cursor).await?;
        parking::table::refuse(&mut tx, tried.seq, reason).await?;
        let blocked = match &tried.queue {
            // Its key is blocked already, or was left open on purpose.
            Queue::One { .. } => None,
            Queue::Key { .. } | Queue::Topic(_) => {
                parking::table::block(&mut tx, tried.seq).await?
            }
        };
        tx.commit().await?;
        self.written(written);
        if let Some(key) = blocked {
            self.parked.blocked.block(key);
        }
        if !matches!(tried.queue, Queue::Topic(_)) {
            self.parked.queues.remove(&tried.queue);
        }
        self.metrics.parked(1, "poison", refusal_in(reason));
        tracing::warn!(seq = tried.seq, reason, "a parked message was refused");
        Ok(())
    }
}
