//! A span's context in the W3C form, <https://www.w3.org/TR/trace-context/>. Pure.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Reads the two headers; `None` when the first is not valid.
pub(super) fn read(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let mut part = |length| {
        let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let part = parts.next()?;
        (part.len() == length && part.bytes().all(digit)).then_some(part)
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Only a later version may say more.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1),
        true,
        tracestate
            .and_then(|text| text.parse::<TraceState>().ok())
            .unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

/// Whether a `traceparent` says that its trace is recorded: one byte, looked at for every message.
pub(super) fn says_sampled(traceparent: &str) -> bool {
    let last_of_flags = traceparent.as_bytes().get(54);
    last_of_flags.is_some_and(|digit| b"13579bdf".contains(digit))
}

/// `traceparent`, and `tracestate` or nothing.
pub(super) fn written(context: &SpanContext) -> (String, String) {
    let traceparent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    );
    (traceparent, context.trace_state().header())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_as_it_was_written() {
        let context = read(GOOD, Some("vendor=one")).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(written(&context), (GOOD.into(), "vendor=one".into()));
        assert!(says_sampled(GOOD));
        let quiet = GOOD.replace("-01", "-00");
        assert!(!read(&quiet, None).unwrap().is_sampled());
        assert!(!says_sampled(&quiet));
        let later = format!("cc{}-what-comes", &GOOD[2..]);
        assert!(read(&later, None).is_some(), "a later version's first part");
        let state = read(GOOD, Some("not a state")).unwrap();
        assert_eq!(state.trace_state().header(), "", "one is as good as none");
    }

    #[test]
    fn what_is_no_context_is_none() {
        let cases = [
            "",
            "00-1-2-01",
            "garbage",
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-more"),
            &format!("{GOOD}x"),
            &format!("cc{}x", &GOOD[2..]),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('f', "ß"),
            &GOOD[..54],
        ];
        for case in cases {
            assert_eq!(read(case, None), None, "{case}");
        }
    }
}
