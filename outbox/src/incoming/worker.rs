//! Applies the records of one partition, batch by batch.
//!
//! A batch is one transaction: inbox rows, what is behind a parked message parked too, handlers in
//! order, commit. If anything in it fails, it is rolled back and redone one message at a time, so a
//! sick message is found without savepoints.

use std::{borrow::Cow, collections::HashSet};

use sqlx::PgPool;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error,
    broker::{Record, Subscription},
    incoming::{
        Handler,
        budget::{Budget, Failed},
        handling::Handling,
        lane::Queue,
        parking::{Sickness, parked::Class, table as parking},
        parse::{Unreadable, parse},
        table::{accept, begin},
    },
    message::Received,
};

pub(super) struct Worker<H> {
    pub(super) handling: Handling<H>,
}

impl<H> Clone for Worker<H> {
    fn clone(&self) -> Self {
        Self {
            handling: self.handling.clone(),
        }
    }
}

/// The partition a worker works for, while it is assigned.
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) assignment: u64,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Handled,
    Duplicate,
    Parked,
}

impl Fate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Duplicate => "duplicate",
            Self::Parked => "parked",
        }
    }
}

/// A record whose payload has moved into the message, if it is one.
struct Item<'a> {
    record: &'a Record,
    message: Result<&'a Received, &'a Unreadable>,
}

impl Item<'_> {
    fn id(&self) -> Uuid {
        self.message
            .map_or_else(|sick| sick.id, |message| message.id)
    }

    fn payload(&self) -> Option<&[u8]> {
        let payload = match self.message {
            Ok(message) => &message.payload,
            Err(_) => &self.record.payload,
        };
        payload.as_deref()
    }
}

impl<H: Handler> Worker<H> {
    pub(super) fn new(name: &str, pool: PgPool, handler: H) -> Self {
        Self {
            handling: Handling::new(name, pool, handler),
        }
    }

    /// Works through `queue` until it is closed or `stop`; a batch begun is finished, unless it
    /// is waiting for something to heal.
    pub(super) async fn run(
        &self,
        mut queue: Queue,
        place: &Place,
        subscription: &dyn Subscription,
        stop: &CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let records = tokio::select! {
                records = queue.take(self.handling.config.batch) => records,
                () = stop.cancelled() => return,
            };
            if records.is_empty() {
                return;
            }
            let bytes = records.iter().map(Record::size).sum();
            if let Some(next) = self.apply(records, stop).await {
                subscription.handled(&place.topic, place.partition, place.assignment, next);
            }
            queue.done(bytes);
        }
    }

    /// Applies a batch. Returns the offset up to which it is done: short of the end only when
    /// stopped on the way.
    async fn apply(&self, mut records: Vec<Record>, stop: &CancellationToken) -> Option<i64> {
        let mut parsed: Vec<_> = records.iter_mut().map(parse).collect();
        if parsed.iter().all(Result::is_ok) {
            let messages: Vec<Received> = parsed.into_iter().flatten().collect();
            if self.batch(&records, &messages).await.is_ok() {
                return records.last().map(|record| record.offset + 1);
            }
            parsed = messages.into_iter().map(Ok).collect();
        }
        let mut done = None;
        for (record, parsed) in records.iter().zip(&parsed) {
            let message = parsed.as_ref();
            if !self.one(&Item { record, message }, stop).await {
                break;
            }
            done = Some(record.offset + 1);
        }
        done
    }

    /// All of a batch in one transaction.
    async fn batch(&self, records: &[Record], messages: &[Received]) -> Result<(), Error> {
        let handling = &self.handling;
        let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
        let mut tx = begin(&handling.pool).await?;
        let mut new: HashSet<Uuid> = accept(&mut tx, &handling.name, &ids)
            .await?
            .into_iter()
            .collect();
        // Of two copies in one batch the first counts.
        let is_new: Vec<bool> = ids.iter().map(|id| new.remove(id)).collect();
        // A statement of its own, after the one that may have waited for another consumer of this
        // partition: what that one has parked is seen here.
        let blocked = self.lock_blocked(&mut tx, records, &is_new).await?;
        let is_blocked = |record: &Record| {
            let key = handling.blocks(record.key.as_deref());
            key.is_some_and(|key| blocked.contains(key))
        };
        let mut fresh = Cow::Borrowed(messages);
        let mut parked = 0;
        if !blocked.is_empty() || is_new.contains(&false) {
            let mut rest = Vec::with_capacity(messages.len());
            for ((record, message), is_new) in records.iter().zip(messages).zip(&is_new) {
                if *is_new && is_blocked(record) {
                    let (id, payload) = (message.id, message.payload.as_deref());
                    let sickness = Sickness::blocked();
                    parking::park(&mut tx, &handling.name, id, record, payload, &sickness).await?;
                    parked += 1;
                } else if *is_new {
                    rest.push(message.clone());
                }
            }
            fresh = Cow::Owned(rest);
        }
        handling.handle(&mut tx, &fresh).await?;
        handling.commit(tx).await?;
        let metrics = &handling.metrics;
        metrics.outcome("handled", fresh.len());
        metrics.outcome("parked", parked);
        metrics.parked(Class::Blocked.as_str(), parked);
        metrics.outcome("duplicate", messages.len() - fresh.len() - parked);
        Ok(())
    }

    /// Which keys of the new records are blocked; they stay so until the transaction ends.
    async fn lock_blocked(
        &self,
        tx: &mut sqlx::PgTransaction<'_>,
        records: &[Record],
        is_new: &[bool],
    ) -> Result<HashSet<Vec<u8>>, Error> {
        let new = records.iter().zip(is_new).filter(|(_, is_new)| **is_new);
        let mut keys: Vec<&[u8]> = new
            .filter_map(|(record, _)| self.handling.blocks(record.key.as_deref()))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let Some(first) = records.first().filter(|_| !keys.is_empty()) else {
            return Ok(HashSet::new());
        };
        let blocked = parking::lock_blocked(tx, &self.handling.name, &first.topic, &keys).await?;
        Ok(blocked.into_iter().collect())
    }

    /// One record, until it is handled or parked. Returns whether it is; not when stopped first.
    async fn one(&self, item: &Item<'_>, stop: &CancellationToken) -> bool {
        let config = &self.handling.config;
        let mut budget = Budget::new(config, item.id());
        // Unreadable records are born with a sickness.
        let mut sickness = item
            .message
            .err()
            .map(|sick| Sickness::unreadable(&sick.reason));
        loop {
            let result = match (&sickness, item.message) {
                (None, Ok(message)) => self.single(item, message).await,
                (Some(sickness), _) => self.park(item, sickness).await,
                (None, Err(_)) => return true,
            };
            let failed = match result {
                Ok(fate) => {
                    self.handling.metrics.outcome(fate.as_str(), 1);
                    return true;
                }
                Err(failed) => failed,
            };
            if sickness.is_none() {
                sickness = budget.spend(&failed, config);
                if sickness.is_some() {
                    if self.is_kept(item, failed.error()).await {
                        self.handling.metrics.outcome(Fate::Handled.as_str(), 1);
                        return true;
                    }
                    continue;
                }
            }
            let (error, consumer) = (failed.error(), self.handling.label());
            tracing::warn!(%error, message_id = %item.id(), %consumer, "will try again");
            self.handling.metrics.retry();
            tokio::select! {
                () = sleep(budget.pause(config)) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    /// One message in a transaction of its own.
    async fn single(&self, item: &Item<'_>, message: &Received) -> Result<Fate, Failed> {
        let Some(mut tx) = self.accept(message.id).await? else {
            return Ok(Fate::Duplicate);
        };
        let blocked = self
            .lock_blocked(&mut tx, std::slice::from_ref(item.record), &[true])
            .await
            .map_err(Failed::Before)?;
        let handling = &self.handling;
        if !blocked.is_empty() {
            return self.keep(tx, item, &Sickness::blocked()).await;
        }
        let batch = std::slice::from_ref(message);
        handling
            .handle(&mut tx, batch)
            .await
            .map_err(Failed::Within)?;
        handling.commit(tx).await.map_err(Failed::Within)?;
        Ok(Fate::Handled)
    }

    /// Begins a transaction with the message's inbox row; `None` when it is a duplicate. Whatever
    /// fails here, the message has not been looked at.
    async fn accept(&self, id: Uuid) -> Result<Option<sqlx::PgTransaction<'static>>, Failed> {
        let accepting = async {
            let mut tx = begin(&self.handling.pool).await?;
            if accept(&mut tx, &self.handling.name, &[id])
                .await?
                .is_empty()
            {
                tx.rollback().await?;
                return Ok(None);
            }
            Ok(Some(tx))
        };
        accepting.await.map_err(Failed::Before)
    }

    /// Whether the handler has kept a message that failed for good, so that it needs not be parked.
    async fn is_kept(&self, item: &Item<'_>, error: &Error) -> bool {
        let keeping = async {
            let (Ok(message), Ok(Some(mut tx))) = (item.message, self.accept(item.id()).await)
            else {
                return Ok(false);
            };
            let kept = self.handling.keep_refused(&mut tx, message, error).await?;
            match kept {
                true => self.handling.commit(tx).await?,
                false => tx.rollback().await?,
            }
            Ok::<_, Error>(kept)
        };
        keeping.await.unwrap_or_else(|error| {
            let consumer = self.handling.label();
            tracing::warn!(%error, message_id = %item.id(), %consumer, "could not be kept");
            false
        })
    }

    /// Parks a message that cannot be handled and blocks its key. It counts as handled from then
    /// on; where another consumer handled it first, nothing is parked.
    async fn park(&self, item: &Item<'_>, sickness: &Sickness) -> Result<Fate, Failed> {
        let Some(mut tx) = self.accept(item.id()).await? else {
            return Ok(Fate::Duplicate);
        };
        let handling = &self.handling;
        let (name, topic) = (&handling.name, &item.record.topic);
        if let Some(key) = handling.blocks(item.record.key.as_deref())
            && !parking::block(&mut tx, name, topic, key)
                .await
                .map_err(Failed::Before)?
        {
            // There is a head already: what is wrong with this one shows when its turn comes.
            return self.keep(tx, item, &Sickness::blocked()).await;
        }
        self.keep(tx, item, sickness).await
    }

    async fn keep(
        &self,
        mut tx: sqlx::PgTransaction<'_>,
        item: &Item<'_>,
        sickness: &Sickness,
    ) -> Result<Fate, Failed> {
        let (name, record) = (&self.handling.name, item.record);
        let keeping = async {
            parking::park(&mut tx, name, item.id(), record, item.payload(), sickness).await?;
            Ok(tx.commit().await?)
        };
        keeping.await.map_err(Failed::Before)?;
        self.handling.metrics.parked(sickness.class.as_str(), 1);
        tracing::warn!(
            consumer = &**name,
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            class = %sickness.class,
            reason = sickness.reason,
            "parked a message in outbox.inbox_parked"
        );
        Ok(Fate::Parked)
    }
}
