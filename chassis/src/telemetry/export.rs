//! Spans on their way out: OTLP as protobuf over plain HTTP.
//!
//! Promised: a collector that is away, hangs or refuses costs the spans of that time, which are
//! counted, and one warning in ten seconds. Nothing is tried twice: what matters lies in the
//! database, and spans that wait for a collector would only push out younger ones.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use tokio::runtime::{Builder, Runtime};

use crate::names;
use crate::telemetry::post::post;
use crate::telemetry::settings::Target;

/// At most one warning in so long.
const WARNING: Duration = Duration::from_secs(10);

/// Posts batches of spans. Called by the batch processor's own thread, and by no other.
#[derive(Debug)]
pub(super) struct Exporter {
    target: Target,
    resource: ResourceAttributesWithSchema,
    /// That thread belongs to no runtime, so the exporter brings one: sockets need it.
    runtime: Runtime,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    warned_at: Option<Instant>,
    /// Since the last warning.
    lost: usize,
}

impl Trouble {
    /// Adds lost spans. How many to warn of, if a warning is due.
    fn more(&mut self, spans: usize, now: Instant) -> Option<usize> {
        self.lost += spans;
        let recently = |at: Instant| now.saturating_duration_since(at) < WARNING;
        if self.warned_at.is_some_and(recently) {
            return None;
        }
        self.warned_at = Some(now);
        Some(std::mem::take(&mut self.lost))
    }
}

impl Exporter {
    /// One that has not sent anything yet.
    pub(super) fn new(target: Target) -> io::Result<Self> {
        Ok(Self {
            target,
            resource: ResourceAttributesWithSchema::default(),
            runtime: Builder::new_current_thread().enable_all().build()?,
            trouble: Mutex::default(),
        })
    }

    /// How many were refused.
    fn send(&self, spans: Vec<SpanData>) -> Result<usize, String> {
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let answer = self.runtime.block_on(async {
            let answer = tokio::time::timeout(self.target.timeout, post(&self.target, body)).await;
            answer.unwrap_or_else(|_| Err(format!("no answer in {:?}", self.target.timeout)))
        })?;
        // A collector that answers in another language has taken them all the same.
        let refused = ExportTraceServiceResponse::decode(answer)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map_or(0, |partial| partial.rejected_spans);
        Ok(usize::try_from(refused).unwrap_or(0))
    }

    fn exported(&self, spans: usize) {
        metrics::counter!(names::SPANS_EXPORTED).increment(spans as u64);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.warned_at.take().is_some() {
            tracing::info!(endpoint = ?self.target, "spans are exported again");
        }
        trouble.lost = 0;
    }

    fn lost(&self, spans: usize, reason: &str) {
        metrics::counter!(names::SPANS_LOST).increment(spans as u64);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lost) = trouble.more(spans, Instant::now()) else {
            return;
        };
        tracing::warn!(endpoint = ?self.target, reason, lost, "spans could not be exported and are lost");
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        match self.send(batch) {
            Ok(0) => self.exported(spans),
            Ok(refused) => {
                metrics::counter!(names::SPANS_EXPORTED)
                    .increment(spans.saturating_sub(refused) as u64);
                self.lost(refused, "the collector refused some of them");
            }
            Err(reason) => self.lost(spans, &reason),
        }
        // It has been said; the SDK would only say it again.
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_in_ten_seconds_tells_of_all_that_was_lost() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.more(3, start), Some(3));
        for second in 1..10 {
            assert_eq!(trouble.more(3, start + Duration::from_secs(second)), None);
        }
        assert_eq!(trouble.more(3, start + WARNING), Some(30));
        assert_eq!(trouble.more(1, start + WARNING), None);
    }
}
