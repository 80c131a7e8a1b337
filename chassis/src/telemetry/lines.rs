//! Log lines: text for eyes, JSON for programs. Within a trace each names it.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as tracing_fmt};

use crate::config::LogFormat;

/// The layer that writes lines to `writer`, which is a terminal or is not.
pub(super) fn lines<S, W>(
    format: LogFormat,
    terminal: bool,
    writer: W,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_fmt::layer().with_writer(writer);
    // The format is told too: it writes into a buffer that knows of no terminal.
    let text = |ansi| move |format: tracing_fmt::format::Format| Text(format.with_ansi(ansi));
    match format {
        LogFormat::Text => lines
            .with_ansi(terminal)
            .map_event_format(text(terminal))
            .boxed(),
        LogFormat::Auto if terminal => lines.with_ansi(true).map_event_format(text(true)).boxed(),
        LogFormat::Auto | LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .map_event_format(Json)
            .boxed(),
    }
}

/// A line of text, with the trace at its end.
struct Text<F>(F);

/// A line of JSON, with the trace as its last fields.
struct Json<F>(F);

impl<S, N, F> FormatEvent<S, N> for Text<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = trace() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{} trace_id={}", line.trim_end(), trace.trace_id())
    }
}

impl<S, N, F> FormatEvent<S, N> for Json<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = trace() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        let (trace_id, span_id) = (trace.trace_id(), trace.span_id());
        writeln!(
            writer,
            r#"{},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#,
            line.strip_suffix('}').unwrap_or(line)
        )
    }
}

/// The span that we are in. The OpenTelemetry layer makes it OpenTelemetry's current one, whatever
/// the log's filter thinks of it.
fn trace() -> Option<SpanContext> {
    let context = Context::current();
    let span = context.span();
    let trace = span.span_context();
    trace.is_valid().then(|| trace.clone())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use serde_json::Value;
    use tracing::Instrument;
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::continue_trace;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A line outside of any trace, one in a request's, one after an await in it.
    async fn written(format: LogFormat, terminal: bool, filter: LevelFilter) -> Vec<String> {
        let page = Page::default();
        let writer = page.clone();
        let provider = SdkTracerProvider::builder().build();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let lines = lines(format, terminal, move || writer.clone()).with_filter(filter);
        let subscriber = tracing_subscriber::registry().with(lines).with(spans);
        // Of this thread, which is the test's only one.
        let _ours = tracing::subscriber::set_default(subscriber);
        tracing::warn!(n = 0, "outside");
        let span = tracing::info_span!("http.request", route = "/v1/orders");
        let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        continue_trace(&span, Some(&traceparent), None);
        async {
            tracing::warn!(n = 1, "inside, \"quoted\"}}");
            tokio::task::yield_now().await;
            let inner = tracing::info_span!("saga.start");
            async { tracing::warn!(n = 2, "deeper") }
                .instrument(inner)
                .await;
        }
        .instrument(span)
        .await;
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_line_of_json_names_its_trace_and_span() {
        // Also where the log does not care for the span itself.
        for filter in [LevelFilter::INFO, LevelFilter::WARN] {
            let lines = written(LogFormat::Json, false, filter).await;
            let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
            let lines: Vec<Value> = lines.collect();
            assert_eq!(lines.len(), 3);
            assert_eq!(
                (&lines[0]["n"], lines[0].get("trace_id")),
                (&0.into(), None)
            );
            assert_eq!(lines[1]["message"], "inside, \"quoted\"}");
            let ids =
                |name: &str| [&lines[1][name], &lines[2][name]].map(|id| id.as_str().unwrap());
            assert_eq!(ids("trace_id"), [TRACE, TRACE]);
            let [outer, inner] = ids("span_id");
            assert!(outer != inner && outer.len() == 16, "{outer} {inner}");
        }
    }

    #[tokio::test]
    async fn a_line_of_text_names_its_trace() {
        for terminal in [false, true] {
            let lines = written(LogFormat::Text, terminal, LevelFilter::INFO).await;
            let ends = format!(" trace_id={TRACE}");
            let named: Vec<_> = lines.iter().map(|line| line.ends_with(&ends)).collect();
            assert_eq!(named, [false, true, true], "{lines:#?}");
            assert!(lines[1].contains("inside, \"quoted\"}"));
            let coloured = lines.iter().all(|line| line.contains('\u{1b}'));
            assert_eq!(coloured, terminal, "{lines:#?}");
        }
    }
}
