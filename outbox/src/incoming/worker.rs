//! Applies the records of one partition, batch by batch.
//!
//! A batch is one transaction: inbox rows, messages behind a parked one parked too, what cannot be read
//! parked, handlers in order, commit. Kinds that nobody asked for are left out before. If a message may be
//! to blame for a failure, the batch is rolled back and halved until that message is alone: so one sick
//! message costs some twenty transactions, not one for each of its neighbours. If the database is to
//! blame, or the session, the same batch is done again.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use sqlx::PgPool;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Error,
    broker::{Record, Subscription},
    incoming::{
        Handler,
        budget::{Budget, Failed, Verdict},
        handling::{Concern, Handling},
        lane::Queue,
        parking::{Sickness, parked::Class, table as parking},
        parse::parse,
        table::{Session, accept, is_other_topic, note_topic},
    },
    message::{Headers, Received},
};

/// How often a worker without work looks whether its topic is still the same.
const LOOK: Duration = Duration::from_secs(2);

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

/// Records of which `messages[i]` was read from `records[i]`.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    messages: Vec<Received>,
    /// What is wrong with some of them, by place.
    sick: HashMap<usize, Sickness>,
}

/// What a transaction did.
#[derive(Default)]
struct Done {
    handled: usize,
    duplicates: usize,
    /// Places of messages parked, with the class.
    parked: Vec<(usize, Class)>,
}

impl<H: Handler> Worker<H> {
    pub(super) fn new(name: &str, pool: PgPool, handler: H) -> Self {
        Self {
            handling: Handling::new(name, pool, handler),
        }
    }

    /// Works through `queue` until it is closed or `stop`; a batch begun is finished, unless it
    /// is waiting for something to heal. Ends by itself where the topic was made anew: the partition
    /// then begins at its start, with whoever gets it next.
    pub(super) async fn run(
        &self,
        mut queue: Queue,
        place: &Place,
        subscription: &Arc<dyn Subscription>,
        stop: &CancellationToken,
    ) {
        let mut topic_id = None;
        while !stop.is_cancelled() {
            if self.is_made_anew(place, subscription, &mut topic_id).await {
                return;
            }
            let records = tokio::select! {
                records = queue.take(self.handling.config.batch) => records,
                () = sleep(LOOK) => continue,
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

    /// Whether the topic is another than the one this partition was read from before. If so the
    /// group's offset is at the start of the new one, and it is noted that this one is known.
    async fn is_made_anew(
        &self,
        place: &Place,
        subscription: &Arc<dyn Subscription>,
        known: &mut Option<String>,
    ) -> bool {
        let id = subscription.topic_id(&place.topic);
        let Some(id) = id.filter(|id| known.as_ref() != Some(id)) else {
            return false;
        };
        let handling = &self.handling;
        let (pool, name) = (&handling.pool, &*handling.name);
        let (topic, partition) = (place.topic.as_str(), place.partition);
        let looking = async {
            let is_other = is_other_topic(pool, name, (topic, partition), &id).await?;
            if is_other {
                // First, because only what is noted is not looked at again.
                let (subscription, topic) = (Arc::clone(subscription), topic.to_owned());
                let rewinding =
                    spawn_blocking(move || subscription.rewind(&topic, partition)).await;
                rewinding.map_err(Error::transient)??;
            }
            note_topic(pool, name, (topic, partition), &id).await?;
            Ok::<_, Error>(is_other)
        };
        match looking.await {
            Ok(true) => {
                tracing::warn!(
                    consumer = name,
                    topic,
                    partition,
                    "the topic was made anew: reading it from its start"
                );
                true
            }
            Ok(false) => {
                *known = Some(id);
                false
            }
            Err(error) => {
                tracing::warn!(%error, consumer = name, topic, partition,
                    "cannot look whether the topic was made anew");
                false
            }
        }
    }

    /// Applies a batch. Returns the offset up to which it is done: short of the end only when
    /// stopped on the way.
    async fn apply(&self, records: Vec<Record>, stop: &CancellationToken) -> Option<i64> {
        let end = records.last()?.offset + 1;
        let mut batch = self.read(records);
        // In the order of the partition: the last is what is next.
        let mut ranges: Vec<Range<usize>> = std::iter::once(0..batch.records.len()).collect();
        while let Some(range) = ranges.pop() {
            if range.is_empty() {
                continue;
            }
            match self.settle(&batch, range.clone(), stop).await {
                Some(Verdict::Settled) => {}
                Some(Verdict::Halve) => {
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
                Some(Verdict::Sick(sickness)) => {
                    batch.sick.insert(range.start, sickness);
                    ranges.push(range);
                }
                None => return Some(batch.records[range.start].offset),
            }
        }
        Some(end)
    }

    /// Reads what there is to read, without what nobody asked for.
    fn read(&self, records: Vec<Record>) -> Batch {
        let mut batch = Batch::default();
        let mut skipped = 0;
        for mut record in records {
            let (message, sickness) = match self.handling.concern(&record) {
                Concern::Nobodys => {
                    skipped += 1;
                    continue;
                }
                Concern::OtherVersion(reason) => (parse(&mut record), Some(reason)),
                Concern::Ours => (parse(&mut record), None),
            };
            let place = batch.records.len();
            let sickness = sickness.map(Error::permanent).or_else(|| {
                let checked = message
                    .as_ref()
                    .ok()
                    .map(|message| self.handling.check(message));
                checked.and_then(Result::err)
            });
            let message = message.unwrap_or_else(|unreadable| {
                let sickness = Sickness::unreadable(&unreadable.reason);
                batch.sick.insert(place, sickness);
                unread(&mut record, unreadable.id)
            });
            if let Some(error) = sickness {
                let refused = || Sickness::refused(&error, 0);
                batch.sick.entry(place).or_insert_with(refused);
            }
            batch.records.push(record);
            batch.messages.push(message);
        }
        self.handling.metrics.outcome("skipped", skipped);
        batch
    }

    /// A part of a batch, until it is done or it is known what to do about it; `None` when stopped
    /// first.
    async fn settle(
        &self,
        batch: &Batch,
        part: Range<usize>,
        stop: &CancellationToken,
    ) -> Option<Verdict> {
        let handling = &self.handling;
        let first = batch.messages[part.start].id;
        let mut budget = Budget::new(&handling.config, first, part.len());
        loop {
            let failed = match self.transaction(batch, part.clone()).await {
                Ok(done) => {
                    self.report(batch, &done);
                    return Some(Verdict::Settled);
                }
                Err(failed) => failed,
            };
            let verdict = handling.judge(&mut budget, &failed).await;
            if matches!(verdict, Some(Verdict::Sick(_)))
                && self
                    .is_kept(&batch.messages[part.start], failed.error())
                    .await
            {
                handling.metrics.outcome("handled", 1);
                return Some(Verdict::Settled);
            }
            if verdict.is_some() {
                return verdict;
            }
            let (error, consumer) = (failed.error(), &*handling.name);
            let messages = part.len();
            tracing::warn!(%error, message_id = %first, messages, consumer, "will try again");
            handling.metrics.retry();
            tokio::select! {
                () = sleep(budget.pause(&handling.config)) => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    /// Whether the handler has kept a message that failed for good, so that it needs not be parked.
    async fn is_kept(&self, message: &Received, error: &Error) -> bool {
        let handling = &self.handling;
        let keeping = async {
            let mut session = Session::open(&handling.pool).await?;
            let mut tx = session.begin().await?;
            if accept(&mut tx, &handling.name, &[message.id])
                .await?
                .is_empty()
            {
                return Ok(false);
            }
            let kept = handling.keep_refused(&mut tx, message, error).await?;
            match kept {
                true => handling.commit(tx).await?,
                false => tx.rollback().await?,
            }
            Ok::<_, Error>(kept)
        };
        keeping.await.unwrap_or_else(|error| {
            let consumer = &*handling.name;
            tracing::warn!(%error, message_id = %message.id, consumer, "could not be kept");
            false
        })
    }

    /// A part of a batch in one transaction.
    async fn transaction(&self, batch: &Batch, part: Range<usize>) -> Result<Done, Failed> {
        let mut session = Session::open(&self.handling.pool)
            .await
            .map_err(Failed::Before)?;
        let done = self.transact(&mut session, batch, part).await;
        done.inspect_err(|failed| {
            session.failed(failed.error());
        })
    }

    async fn transact(
        &self,
        session: &mut Session,
        batch: &Batch,
        part: Range<usize>,
    ) -> Result<Done, Failed> {
        let handling = &self.handling;
        let (records, messages) = (&batch.records[part.clone()], &batch.messages[part.clone()]);
        let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
        let mut tx = session.begin().await.map_err(Failed::Before)?;
        let mut new: HashSet<Uuid> = accept(&mut tx, &handling.name, &ids)
            .await
            .map_err(Failed::Before)?
            .into_iter()
            .collect();
        // Of two copies in one batch the first counts.
        let is_new: Vec<bool> = ids.iter().map(|id| new.remove(id)).collect();
        let mut done = Done::default();
        let mut fresh = Vec::with_capacity(ids.len());
        let parking = async {
            // A statement of its own, after the one that may have waited for another consumer of
            // this partition: what that one has parked is seen here.
            let mut blocked = self.lock_blocked(&mut tx, records, &is_new).await?;
            for (at, record) in records.iter().enumerate() {
                if !is_new[at] {
                    done.duplicates += 1;
                    continue;
                }
                let key = handling.blocks(record.key.as_deref());
                let is_blocked = key.is_some_and(|key| blocked.contains(key));
                let sickness = batch.sick.get(&(part.start + at));
                let sickness = match (is_blocked, sickness) {
                    (true, _) => Cow::Owned(Sickness::blocked()),
                    (false, None) => {
                        fresh.push(at);
                        continue;
                    }
                    (false, Some(sickness)) => {
                        let is_head = match key {
                            Some(key) => {
                                blocked.insert(key.to_vec());
                                parking::block(&mut tx, &handling.name, &record.topic, key).await?
                            }
                            None => true,
                        };
                        // Behind a head what is wrong with this one shows when its turn comes.
                        match is_head {
                            true => Cow::Borrowed(sickness),
                            false => Cow::Owned(Sickness::blocked()),
                        }
                    }
                };
                let (id, payload) = (ids[at], messages[at].payload.as_deref());
                parking::park(&mut tx, &handling.name, id, record, payload, &sickness).await?;
                done.parked.push((part.start + at, sickness.class));
            }
            Ok(())
        };
        parking.await.map_err(Failed::Before)?;
        let fresh = match fresh.len() == messages.len() {
            true => Cow::Borrowed(messages),
            false => Cow::Owned(fresh.iter().map(|at| messages[*at].clone()).collect()),
        };
        handling
            .handle(&mut tx, &fresh)
            .await
            .map_err(Failed::Within)?;
        handling.commit(tx).await.map_err(Failed::Within)?;
        done.handled = fresh.len();
        Ok(done)
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

    /// Says what a transaction did.
    fn report(&self, batch: &Batch, done: &Done) {
        let metrics = &self.handling.metrics;
        metrics.outcome("handled", done.handled);
        metrics.outcome("duplicate", done.duplicates);
        metrics.outcome("parked", done.parked.len());
        for (at, class) in &done.parked {
            metrics.parked(class.as_str(), 1);
            let (record, sick) = (&batch.records[*at], batch.sick.get(at));
            tracing::warn!(
                consumer = &*self.handling.name,
                topic = record.topic,
                partition = record.partition,
                offset = record.offset,
                %class,
                reason = sick.map(|sickness| sickness.reason.as_str()),
                "parked a message in outbox.inbox_parked"
            );
        }
    }
}

/// Stands for a record that cannot be read, so that it is parked with its payload.
fn unread(record: &mut Record, id: Uuid) -> Received {
    Received {
        id,
        topic: record.topic.clone(),
        partition: record.partition,
        offset: record.offset,
        key: String::new(),
        kind: String::new(),
        source: String::new(),
        time: None,
        payload: record.payload.take(),
        headers: Headers::new(),
    }
}
