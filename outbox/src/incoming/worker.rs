//! Applies the records of one partition, batch by batch.
//!
//! A batch is one transaction: inbox rows, handlers in order, commit. If anything in it fails, it
//! is rolled back and redone one message at a time, so a sick message is found without savepoints.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use sqlx::{PgPool, PgTransaction};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use crate::{
    Error,
    broker::{Record, Subscription},
    incoming::{
        Handler,
        consumer::Config,
        parse::{Unreadable, parse},
        table::{self, Sickness},
    },
    message::Received,
    telemetry,
};

/// READ COMMITTED whatever the database's default: the inbox relies on seeing a concurrent
/// inserter's row in the next statement.
const BEGIN: &str = "begin isolation level read committed";

pub(super) struct Worker<H> {
    pub(super) name: Arc<str>,
    pub(super) config: Arc<Config>,
    pool: PgPool,
    handler: Arc<H>,
}

impl<H> Clone for Worker<H> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            config: Arc::clone(&self.config),
            pool: self.pool.clone(),
            handler: Arc::clone(&self.handler),
        }
    }
}

/// What became of one message.
enum Fate {
    Handled,
    Duplicate,
}

/// Where an attempt failed.
enum Failed {
    /// Before the message was looked at: never its fault, whatever the database says (a server that
    /// is read-only after a failover, a password that was changed).
    Before(Error),
    /// While it was handled: its fault, unless the database was away.
    Within(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Within(error)
    }
}

impl<H: Handler> Worker<H> {
    pub(super) fn new(name: &str, pool: PgPool, handler: H) -> Self {
        Self {
            name: name.into(),
            config: Arc::default(),
            pool,
            handler: Arc::new(handler),
        }
    }

    /// Works through `queue` until it is closed or `stop`; a batch begun is finished, unless it
    /// is waiting for something to heal.
    pub(super) async fn run(
        &self,
        mut queue: mpsc::Receiver<Record>,
        subscription: &dyn Subscription,
        stop: &CancellationToken,
    ) {
        let mut batch = Vec::new();
        while !stop.is_cancelled() {
            let got = tokio::select! {
                got = queue.recv_many(&mut batch, self.config.batch) => got,
                () = stop.cancelled() => 0,
            };
            if got == 0 {
                return;
            }
            let records = std::mem::take(&mut batch);
            if let Some((topic, partition, next)) = self.apply(records, stop).await {
                subscription.handled(&topic, partition, next);
            }
        }
    }

    /// Applies a batch. Returns the place up to which it is done: short of the end only when
    /// stopped on the way.
    async fn apply(
        &self,
        records: Vec<Record>,
        stop: &CancellationToken,
    ) -> Option<(String, i32, i64)> {
        let place = |record: &Record| (record.topic.clone(), record.partition, record.offset + 1);
        let parsed: Vec<_> = records.iter().map(parse).collect();
        let messages: Option<Vec<_>> = parsed.iter().map(|p| p.as_ref().ok().cloned()).collect();
        if let Some(messages) = messages
            && self.batch(&messages).await.is_ok()
        {
            return records.last().map(place);
        }
        let mut done = None;
        for (record, parsed) in records.iter().zip(parsed) {
            if !self.one(record, parsed, stop).await {
                break;
            }
            done = Some(place(record));
        }
        done
    }

    /// All of a batch in one transaction.
    async fn batch(&self, messages: &[Received]) -> Result<(), Error> {
        let started = Instant::now();
        let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let mut new: HashSet<Uuid> = table::accept(&mut tx, &self.name, &ids)
            .await?
            .into_iter()
            .collect();
        // Of two copies in one batch the first counts.
        let fresh: Vec<_> = messages
            .iter()
            .filter(|m| new.remove(&m.id))
            .cloned()
            .collect();
        if !fresh.is_empty() {
            survive(async { self.handler.prepare(&mut tx, &fresh).await }).await?;
        }
        for message in &fresh {
            self.handle(&mut tx, message).await?;
        }
        table::must_be_alive(&mut tx).await?;
        tx.commit().await?;
        self.count("handled", fresh.len());
        self.count("duplicate", messages.len() - fresh.len());
        metrics::histogram!(telemetry::INBOX_HANDLER, "consumer" => self.label())
            .record(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// One record, until it is handled or parked. Returns whether it is; not when stopped first.
    async fn one(
        &self,
        record: &Record,
        parsed: Result<Received, Unreadable>,
        stop: &CancellationToken,
    ) -> bool {
        let mut failures = 0;
        let mut pause = self.config.backoff;
        let (id, mut sickness) = match &parsed {
            Ok(message) => (message.id, None),
            Err(unreadable) => (
                unreadable.id,
                Some(Sickness {
                    class: "unreadable",
                    reason: unreadable.reason.clone(),
                    attempts: 0,
                }),
            ),
        };
        loop {
            let result = match (&sickness, &parsed) {
                (None, Ok(message)) => self.single(message).await,
                (Some(sickness), _) => self.park(id, record, sickness).await,
                // Unreadable records are born with a sickness.
                (None, Err(_)) => return true,
            };
            let error = match result {
                Ok(Fate::Handled) if sickness.is_some() => {
                    self.count("parked", 1);
                    return true;
                }
                Ok(Fate::Handled) => {
                    self.count("handled", 1);
                    return true;
                }
                Ok(Fate::Duplicate) => {
                    self.count("duplicate", 1);
                    return true;
                }
                Err(failed) => failed,
            };
            let (error, blamed) = match error {
                Failed::Before(error) => (error, false),
                Failed::Within(error) => {
                    let blamed = !error.is_database_outage();
                    (error, blamed)
                }
            };
            // Otherwise it is nobody's fault: wait for as long as it takes.
            if blamed && sickness.is_none() {
                failures += 1;
                let class = if error.is_transient() {
                    "exhausted"
                } else {
                    "refused"
                };
                if class == "refused" || failures >= self.config.attempts {
                    sickness = Some(Sickness {
                        class,
                        reason: error.to_string(),
                        attempts: i32::try_from(failures).unwrap_or(i32::MAX),
                    });
                    continue;
                }
            }
            metrics::counter!(telemetry::INBOX_RETRIES, "consumer" => self.label()).increment(1);
            tracing::warn!(%error, message_id = %id, consumer = &*self.name, "will try again");
            tokio::select! {
                () = sleep(jittered(pause, id)) => {}
                () = stop.cancelled() => return false,
            }
            pause = (pause * 2).min(self.config.backoff_max);
        }
    }

    /// One message in a transaction of its own.
    async fn single(&self, message: &Received) -> Result<Fate, Failed> {
        let Some(mut tx) = self.accept(message.id).await? else {
            return Ok(Fate::Duplicate);
        };
        let batch = std::slice::from_ref(message);
        survive(async { self.handler.prepare(&mut tx, batch).await }).await?;
        self.handle(&mut tx, message).await?;
        table::must_be_alive(&mut tx).await?;
        tx.commit().await.map_err(Error::from)?;
        Ok(Fate::Handled)
    }

    /// Begins a transaction with the message's inbox row; `None` when it is a duplicate. Whatever
    /// fails here, the message has not been looked at.
    async fn accept(&self, id: Uuid) -> Result<Option<PgTransaction<'static>>, Failed> {
        let accepting = async {
            let mut tx = self.pool.begin_with(BEGIN).await?;
            if table::accept(&mut tx, &self.name, &[id]).await?.is_empty() {
                tx.rollback().await?;
                return Ok(None);
            }
            Ok(Some(tx))
        };
        accepting.await.map_err(Failed::Before)
    }

    /// Keeps a message that cannot be handled. It counts as handled from then on.
    async fn park(&self, id: Uuid, record: &Record, sickness: &Sickness) -> Result<Fate, Failed> {
        let Some(mut tx) = self.accept(id).await? else {
            return Ok(Fate::Duplicate);
        };
        table::park(&mut tx, &self.name, id, record, sickness).await?;
        tx.commit().await.map_err(Error::from)?;
        tracing::warn!(
            consumer = &*self.name,
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            class = sickness.class,
            reason = sickness.reason,
            "parked a message in outbox.inbox_parked"
        );
        Ok(Fate::Handled)
    }

    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let span = tracing::info_span!(
            "process",
            otel.kind = "consumer",
            messaging.system = "kafka",
            messaging.destination.name = message.topic,
            messaging.message.id = %message.id,
            kind = message.kind,
        );
        if let Some(parent) = message
            .header(telemetry::TRACEPARENT)
            .and_then(remote_parent)
        {
            // Fails only where the span is disabled by a filter.
            let _ = span.set_parent(parent);
        }
        survive(async { self.handler.handle(tx, message).await })
            .instrument(span)
            .await
    }

    fn count(&self, outcome: &'static str, messages: usize) {
        metrics::counter!(telemetry::INBOX_MESSAGES, "consumer" => self.label(), "outcome" => outcome)
            .increment(messages as u64);
    }

    fn label(&self) -> String {
        self.name.to_string()
    }
}

/// A handler that panics must not take its partition with it: the message is parked instead.
async fn survive(handler: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    AssertUnwindSafe(handler)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Error::permanent("the handler panicked")))
}

/// A pause between half and all of `pause`. The message's id is random enough to keep a crowd of
/// failed messages apart.
fn jittered(pause: Duration, id: Uuid) -> Duration {
    let share = f64::from(id.as_bytes()[15]) / 255.0;
    pause.mul_f64(0.5 + share / 2.0)
}

/// Reads a `traceparent` header; `None` when it is not one.
fn remote_parent(header: &str) -> Option<Context> {
    let mut parts = header.split('-');
    let (_version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let parent = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    parent
        .is_valid()
        .then(|| Context::new().with_remote_span_context(parent))
}
