//! One transaction in which messages are handled: what the worker and the replayer have in common.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use sqlx::{PgPool, PgTransaction};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    Error,
    incoming::{Config, Handler, OnPoison, table},
    message::Received,
    telemetry,
};

/// A consumer's name, settings, database and handler.
pub(super) struct Handling<H> {
    pub(super) name: Arc<str>,
    pub(super) config: Arc<Config>,
    pub(super) pool: PgPool,
    handler: Arc<H>,
}

impl<H> Clone for Handling<H> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            config: Arc::clone(&self.config),
            pool: self.pool.clone(),
            handler: Arc::clone(&self.handler),
        }
    }
}

impl<H: Handler> Handling<H> {
    pub(super) fn new(name: &str, pool: PgPool, handler: H) -> Self {
        Self {
            name: name.into(),
            config: Arc::default(),
            pool,
            handler: Arc::new(handler),
        }
    }

    /// Hands messages to the handler, in order.
    pub(super) async fn handle(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        survive(async { self.handler.prepare(tx, batch).await }).await?;
        for message in batch {
            let span = span(message);
            survive(async { self.handler.handle(tx, message).await })
                .instrument(span)
                .await?;
        }
        Ok(())
    }

    /// Ends a transaction in which a handler has been.
    pub(super) async fn commit(&self, mut tx: PgTransaction<'_>) -> Result<(), Error> {
        table::must_be_alive(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// The key that a parked message blocks; none where keys are not blocked.
    pub(super) fn blocks<'a>(&self, key: Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self.config.on_poison {
            OnPoison::BlockKey => key.filter(|key| !key.is_empty()),
            OnPoison::SkipMessage => None,
        }
    }

    pub(super) fn count(&self, outcome: &'static str, messages: usize) {
        if messages > 0 {
            metrics::counter!(telemetry::INBOX_MESSAGES, "consumer" => self.label(), "outcome" => outcome)
                .increment(messages as u64);
        }
    }

    pub(super) fn label(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }
}

fn span(message: &Received) -> tracing::Span {
    let span = tracing::info_span!(
        "process",
        otel.kind = "consumer",
        messaging.system = "kafka",
        messaging.destination.name = message.topic,
        messaging.message.id = %message.id,
        kind = message.kind,
    );
    if !span.is_disabled()
        && let Some(parent) = message
            .header(telemetry::TRACEPARENT)
            .and_then(remote_parent)
    {
        // Fails only where nobody exports traces.
        let _ = span.set_parent(parent);
    }
    span
}

/// A handler that panics must not take its partition with it: the message is parked instead.
async fn survive(handler: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    AssertUnwindSafe(handler)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Error::permanent("the handler panicked")))
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
