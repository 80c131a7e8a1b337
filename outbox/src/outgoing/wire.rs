//! A row of the log as a record: CloudEvents 1.0 in Kafka's binary mode.

use chrono::SecondsFormat;

use crate::{
    broker::{Outgoing, Producer, SendError},
    outgoing::logged::Logged,
    telemetry,
};

/// Gives a row to the producer, with its attributes as headers.
pub(super) fn send(
    producer: &dyn Producer,
    token: usize,
    row: &Logged,
    source: &str,
) -> Result<(), SendError> {
    let id = row.message_id.to_string();
    let time = row.created_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let mut headers: Vec<(&str, &str)> = Vec::with_capacity(16);
    headers.extend([
        ("ce_specversion", "1.0"),
        ("ce_id", id.as_str()),
        ("ce_source", source),
        ("ce_type", row.kind.as_str()),
        ("ce_time", time.as_str()),
        ("ce_subject", row.key.as_str()),
    ]);
    let more = row.headers.as_ref();
    if !more.is_some_and(|headers| headers.contains_key("content-type")) {
        headers.push(("content-type", "application/json"));
    }
    let trace = row.traceparent.as_deref();
    headers.extend(trace.map(|value| (telemetry::TRACEPARENT, value)));
    let more = more.into_iter().flatten();
    headers.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
    let record = Outgoing {
        topic: &row.topic,
        key: &row.key,
        payload: row.payload.as_deref(),
        headers: &headers,
    };
    producer.send(token, record)
}
