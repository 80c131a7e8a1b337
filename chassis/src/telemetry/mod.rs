//! Telemetry: log lines, trace contexts and metrics.
//!
//! **What passes here**: what the process says about itself. Log lines go to stderr. Spans get
//! W3C trace ids, whatever is logged, so that messages can carry a `traceparent`; where an
//! endpoint is configured they are exported to it by OTLP (docs/telemetry.md). Log lines name the
//! trace they belong to, and are never part of a span. Metrics are kept until somebody reads `/metrics`.
//!
//! **Promised**: [`init`] may be called by every service of a process; the first call decides,
//! the others get the same [`Telemetry`]. A collector that is away, slow or refuses costs spans and
//! a warning now and then, nothing else. Without an endpoint no trace begins here: a span is only
//! recorded where a caller records its own. **Not promised**: a service's metrics cannot be told
//! from its neighbour's in the same process.
//!
//! **What if**: another library has installed a log or a recorder of its own: that is an error,
//! because half a telemetry is found out on the worst day.

mod export;
mod lines;
mod post;
mod settings;

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFilter, LogFormat};
use crate::names;
use crate::telemetry::export::Exporter;
use crate::telemetry::lines::lines;
use crate::telemetry::settings::Traces;

/// Upper bounds for every `*_seconds` histogram: from a poll of half a millisecond to a saga of minutes.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
    300.0,
];

/// Upper bounds for every `*_messages` histogram: from a message alone to a full page.
const MESSAGES: [f64; 12] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
];

/// How often samples are moved from the hot path's buffers into histograms when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the process got when telemetry was installed.
static INSTALLED: Mutex<Option<Telemetry>> = Mutex::new(None);

/// The process's telemetry. Clones are the same telemetry.
#[derive(Debug, Clone)]
pub struct Telemetry {
    metrics: PrometheusHandle,
    traces: SdkTracerProvider,
}

/// Why telemetry could not be installed. Met once, at start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something else has installed a log subscriber in this process.
    #[error("cannot install the log: {0}")]
    Log(#[from] tracing_subscriber::util::TryInitError),
    /// Something else has installed a metrics recorder in this process.
    #[error("cannot install the metrics recorder: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The operating system gave no thread, or no socket to wait with.
    #[error("cannot start telemetry's threads: {0}")]
    Thread(#[from] std::io::Error),
    /// A variable of the environment says something about traces that cannot be followed. Its
    /// value is not repeated: it may hold a secret.
    #[error("wrong setting {variable}: {reason}")]
    Setting {
        /// The variable's name.
        variable: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl Telemetry {
    /// What renders `/metrics`. The same for every service of the process.
    #[must_use]
    pub fn metrics(&self) -> PrometheusHandle {
        self.metrics.clone()
    }

    /// Hands on what is still buffered. Blocks, for five seconds at most: call it off the async
    /// threads, at the end.
    pub fn flush(&self) {
        if let Err(error) = self.traces.force_flush() {
            tracing::warn!(%error, "could not flush traces");
        }
    }
}

/// Installs log, traces and metrics for the process; a second call returns what the first
/// installed and changes nothing.
///
/// `service_name` names the process in traces, unless `OTEL_SERVICE_NAME` does.
///
/// # Errors
/// [`Error::Setting`] when the `OTEL_*` variables cannot be followed; otherwise when something
/// other than this function has installed a log or a recorder before.
pub fn init(service_name: &str, format: LogFormat, filter: &LogFilter) -> Result<Telemetry, Error> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(telemetry) = &*installed {
        return Ok(telemetry.clone());
    }
    let traces = install_log_and_traces(service_name, format, filter)?;
    let metrics = install_metrics()?;
    let telemetry = Telemetry { metrics, traces };
    *installed = Some(telemetry.clone());
    Ok(telemetry)
}

/// The filter is the log's alone: with `RUST_LOG=warn` spans must still have trace ids.
fn install_log_and_traces(
    service_name: &str,
    format: LogFormat,
    filter: &LogFilter,
) -> Result<SdkTracerProvider, Error> {
    let settings = Traces::read(service_name, |name| std::env::var(name).ok())?;
    let exported = settings.target.is_some();
    let mut traces = SdkTracerProvider::builder()
        .with_resource(settings.resource)
        .with_sampler(settings.sampler);
    if let Some(target) = settings.target {
        traces = traces.with_batch_exporter(Exporter::new(target)?);
    }
    let traces = traces.build();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(traces.tracer(service_name.to_owned()))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        // Spans alone: a log line may quote what a handler read.
        .with_filter(
            FilterFn::new(|metadata| metadata.is_span() && *metadata.level() <= Level::INFO)
                .with_max_level_hint(LevelFilter::INFO),
        );
    let terminal = std::io::stderr().is_terminal();
    let lines = lines(format, terminal, std::io::stderr);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter.filter()))
        .with(spans)
        .try_init()?;
    if exported {
        // For those who make spans without `tracing`: they find a provider only where it is of use.
        opentelemetry::global::set_tracer_provider(traces.clone());
    }
    Ok(traces)
}

/// The recorder keeps raw samples until somebody drains them; a thread of its own does so
/// whatever runtimes come and go.
fn install_metrics() -> Result<PrometheusHandle, Error> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_messages".to_owned()), &MESSAGES)?
        .install_recorder()?;
    names::describe();
    let drained = metrics.clone();
    std::thread::Builder::new()
        .name("metrics-upkeep".to_owned())
        .spawn(move || {
            loop {
                std::thread::sleep(UPKEEP);
                drained.run_upkeep();
            }
        })?;
    Ok(metrics)
}

/// Makes `span` a child of the trace that `traceparent` and `tracestate` describe. Anything but a
/// valid W3C `traceparent` leaves the span a root. Call it before the span is entered.
pub fn continue_trace(span: &tracing::Span, traceparent: Option<&str>, tracestate: Option<&str>) {
    let Some(traceparent) = traceparent else {
        return;
    };
    let mut carrier =
        std::collections::HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    if let Some(tracestate) = tracestate {
        carrier.insert("tracestate".to_owned(), tracestate.to_owned());
    }
    let context = TraceContextPropagator::new().extract(&carrier);
    // Refused only where there is no OpenTelemetry layer, in which case there is nothing to continue.
    let _ = span.set_parent(context);
}
