//! Every metric of this crate, in one place. The spans are in [`trace`](crate::trace).
//!
//! | name | kind | unit | labels | meaning |
//! |---|---|---|---|---|
//! | `outbox_enqueued_total` | counter | messages | | messages appended to the log here; their transactions may have been rolled back since |
//! | `outbox_published_total` | counter | messages | | messages acknowledged by the broker; after a take-over some of them again |
//! | `outbox_commit_to_ack_seconds` | histogram | seconds | | from a message's insert, by the database's clock, to the acknowledgement, by the relay's |
//! | `outbox_page_messages` | histogram | messages | | how many were read at once; empty reads are not counted |
//! | `outbox_in_flight_messages` | gauge | messages | | sent and not yet acknowledged |
//! | `outbox_backlog_messages` | gauge | messages | | committed and not yet acknowledged: counted up to 1,000, estimated above |
//! | `outbox_oldest_unpublished_seconds` | gauge | seconds | | age of the oldest of these; 0 when there is none |
//! | `outbox_lease_held` | gauge | | | 1 on the leader, 0 on a standby |
//! | `outbox_paused` | gauge | | | 1 while an operator keeps the leader from sending |
//! | `outbox_producer_resets_total` | counter | producers | | producers given up after a failed delivery |
//! | `outbox_parked_total` | counter | messages | `class`, `reason` | messages that were not sent: `poison`, `blocked` or `held`; why the broker refused |
//! | `outbox_unparked_total` | counter | messages | | parked messages that were sent after all |
//! | `outbox_partitions_emptied_total` | counter | partitions | | partitions of the log that were truncated |
//! | `inbox_messages_total` | counter | messages | `consumer`, `outcome` | `handled`, `duplicate`, `parked`, `skipped` (a kind nobody asked for), `replayed` |
//! | `inbox_parked_total` | counter | messages | `consumer`, `class` | messages that could not be handled: `unreadable`, `refused`, `exhausted`, `blocked` |
//! | `inbox_retries_total` | counter | attempts | `consumer` | attempts that failed and were repeated |
//! | `inbox_handler_seconds` | histogram | seconds | `consumer` | the handler's time for the messages of one transaction |
//! | `inbox_batch_messages` | histogram | messages | `consumer` | how many messages the handler got in one transaction |
//! | `outbox_parked_messages` | gauge | messages | `class` | those in `outbox.parked` now; told by services |
//! | `inbox_parked_messages` | gauge | messages | `consumer` | those that wait for an operator now; told by services |
//! | `inbox_client_resets_total` | counter | clients | `consumer` | clients given up because they delivered nothing |
//! | `inbox_lag_messages` | gauge | messages | `consumer` | not handled yet, in the partitions that this process has; asked every 15 s |
//! | `inbox_broker_refusals_total` | counter | reasons | `consumer` | times the broker began to refuse something: to join the group, to read, a batch that cannot be unpacked |
//!
//! `reason` is `too_large`, `invalid`, `policy`, `unknown_topic`, `not_permitted`, `timestamp`, `format`, `flawed`,
//! `no_leader`, `no_answer`, `key_blocked` or `other`; `consumer` is the consumer's name. No label holds a topic, a key, an id or anybody's free text.
//!
//! The other gauges are the leader's, written once a second and 0 on a standby. A process with several relays
//! has one set of them: the last to write wins.

use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use metrics::{Counter, Gauge, Histogram, Unit};

const ENQUEUED: &str = "outbox_enqueued_total";
const PUBLISHED: &str = "outbox_published_total";
const COMMIT_TO_ACK: &str = "outbox_commit_to_ack_seconds";
const PAGE: &str = "outbox_page_messages";
const IN_FLIGHT: &str = "outbox_in_flight_messages";
const BACKLOG: &str = "outbox_backlog_messages";
const OLDEST: &str = "outbox_oldest_unpublished_seconds";
const LEASE_HELD: &str = "outbox_lease_held";
const PAUSED: &str = "outbox_paused";
const PRODUCER_RESETS: &str = "outbox_producer_resets_total";
const PARKED: &str = "outbox_parked_total";
const PARKED_NOW: &str = "outbox_parked_messages";
const INBOX_PARKED_NOW: &str = "inbox_parked_messages";
const UNPARKED: &str = "outbox_unparked_total";
const PARTITIONS_EMPTIED: &str = "outbox_partitions_emptied_total";
const INBOX_MESSAGES: &str = "inbox_messages_total";
const INBOX_PARKED: &str = "inbox_parked_total";
const INBOX_RETRIES: &str = "inbox_retries_total";
const INBOX_HANDLER: &str = "inbox_handler_seconds";
const INBOX_BATCH: &str = "inbox_batch_messages";
const INBOX_CLIENT_RESETS: &str = "inbox_client_resets_total";
const INBOX_LAG: &str = "inbox_lag_messages";
const INBOX_REFUSALS: &str = "inbox_broker_refusals_total";

/// The W3C trace context header.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// What tracing systems have to say beside it.
pub(crate) const TRACESTATE: &str = "tracestate";

/// Counter, gauge or histogram.
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Help and unit of each, for [`describe_metrics`].
const DESCRIBED: [(&str, Kind, Unit, &str); 23] = {
    use Kind::{Counter, Gauge, Histogram};
    use Unit::{Count, Seconds};
    [
        (
            ENQUEUED,
            Counter,
            Count,
            "Messages appended to the log by this process, committed or not.",
        ),
        (
            PUBLISHED,
            Counter,
            Count,
            "Messages acknowledged by the broker.",
        ),
        (
            COMMIT_TO_ACK,
            Histogram,
            Seconds,
            "From a message's insert to the broker's acknowledgement.",
        ),
        (
            PAGE,
            Histogram,
            Count,
            "Messages read from the log at once.",
        ),
        (
            IN_FLIGHT,
            Gauge,
            Count,
            "Messages sent and not yet acknowledged.",
        ),
        (
            BACKLOG,
            Gauge,
            Count,
            "Messages committed and not yet acknowledged; above 1000 an estimate.",
        ),
        (
            OLDEST,
            Gauge,
            Seconds,
            "Age of the oldest message that is not acknowledged; 0 when there is none.",
        ),
        (LEASE_HELD, Gauge, Count, "1 on the leader, 0 on a standby."),
        (
            PAUSED,
            Gauge,
            Count,
            "1 while an operator keeps the leader from sending.",
        ),
        (
            PRODUCER_RESETS,
            Counter,
            Count,
            "Producers given up after a failed delivery.",
        ),
        (
            PARKED,
            Counter,
            Count,
            "Messages kept in outbox.parked instead of being sent, by class and reason.",
        ),
        (
            PARKED_NOW,
            Gauge,
            Count,
            "Messages in outbox.parked now, by class. Every replica of a service tells the same.",
        ),
        (
            INBOX_PARKED_NOW,
            Gauge,
            Count,
            "Messages that could not be handled and wait for an operator now, by consumer.",
        ),
        (
            UNPARKED,
            Counter,
            Count,
            "Parked messages that were sent after all.",
        ),
        (
            PARTITIONS_EMPTIED,
            Counter,
            Count,
            "Partitions of the log that were truncated.",
        ),
        (
            INBOX_MESSAGES,
            Counter,
            Count,
            "Messages by what became of them.",
        ),
        (
            INBOX_PARKED,
            Counter,
            Count,
            "Messages that could not be handled, by class.",
        ),
        (
            INBOX_RETRIES,
            Counter,
            Count,
            "Attempts to handle a message that failed and were repeated.",
        ),
        (
            INBOX_HANDLER,
            Histogram,
            Seconds,
            "The handler's time for the messages of one transaction.",
        ),
        (
            INBOX_BATCH,
            Histogram,
            Count,
            "Messages that the handler got in one transaction.",
        ),
        (
            INBOX_CLIENT_RESETS,
            Counter,
            Count,
            "Kafka clients given up because they delivered nothing.",
        ),
        (
            INBOX_LAG,
            Gauge,
            Count,
            "Messages not handled yet in the partitions that this process has.",
        ),
        (
            INBOX_REFUSALS,
            Counter,
            Count,
            "Times the broker began to refuse a consumer something.",
        ),
    ]
};

/// Gives each metric of this crate its help text and unit in the recorder that is installed. A relay
/// and a consumer do so when they run; whoever only enqueues may want to.
///
/// The table of the metrics is in docs/telemetry.md.
pub fn describe_metrics() {
    for (name, kind, unit, help) in DESCRIBED {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, unit, help),
            Kind::Gauge => metrics::describe_gauge!(name, unit, help),
            Kind::Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

/// Messages were appended to the log.
pub(crate) fn enqueued(messages: usize) {
    metrics::counter!(ENQUEUED).increment(messages as u64);
}

/// So many messages of a class are parked in the outbox.
#[expect(clippy::cast_precision_loss, reason = "nobody parks 2^52 messages")]
pub(crate) fn parked_now(class: String, messages: i64) {
    metrics::gauge!(PARKED_NOW, "class" => class).set(messages as f64);
}

/// So many messages of a consumer are parked.
#[expect(clippy::cast_precision_loss, reason = "nobody parks 2^52 messages")]
pub(crate) fn inbox_parked_now(consumer: String, messages: i64) {
    metrics::gauge!(INBOX_PARKED_NOW, "consumer" => consumer).set(messages as f64);
}

/// Whether this process leads. Who does not has nothing to say about the log.
pub(crate) fn lease_held(held: bool) {
    metrics::gauge!(LEASE_HELD).set(f64::from(held));
    if !held {
        for name in [IN_FLIGHT, BACKLOG, OLDEST, PAUSED] {
            metrics::gauge!(name).set(0.0);
        }
    }
}

/// The leader's metrics: looked up once, because some are written for every message.
pub(crate) struct Publishing {
    published: Counter,
    commit_to_ack: Histogram,
    page: Histogram,
    in_flight: Gauge,
    backlog: Gauge,
    oldest: Gauge,
    paused: Gauge,
    resets: Counter,
    unparked: Counter,
    emptied: Counter,
}

impl Publishing {
    pub(crate) fn new() -> Self {
        Self {
            published: metrics::counter!(PUBLISHED),
            commit_to_ack: metrics::histogram!(COMMIT_TO_ACK),
            page: metrics::histogram!(PAGE),
            in_flight: metrics::gauge!(IN_FLIGHT),
            backlog: metrics::gauge!(BACKLOG),
            oldest: metrics::gauge!(OLDEST),
            paused: metrics::gauge!(PAUSED),
            resets: metrics::counter!(PRODUCER_RESETS),
            unparked: metrics::counter!(UNPARKED),
            emptied: metrics::counter!(PARTITIONS_EMPTIED),
        }
    }

    /// So many messages were read at once.
    pub(crate) fn read(&self, messages: usize) {
        if messages > 0 {
            self.page.record(messages as f64);
        }
    }

    /// A message was acknowledged, and everything before it.
    pub(crate) fn acknowledged(&self, created_at: DateTime<Utc>, now: DateTime<Utc>) {
        let age = (now - created_at).num_microseconds().unwrap_or(0);
        self.commit_to_ack.record(age.max(0) as f64 / 1e6);
        self.published.increment(1);
    }

    pub(crate) fn in_flight(&self, messages: usize) {
        self.in_flight.set(messages as f64);
    }

    /// Once a second.
    pub(crate) fn waiting(&self, messages: i64, oldest_seconds: f64, paused: bool) {
        self.backlog.set(messages as f64);
        self.oldest.set(oldest_seconds.max(0.0));
        self.paused.set(f64::from(paused));
    }

    pub(crate) fn producer_reset(&self) {
        self.resets.increment(1);
    }

    /// Messages were parked; `reason` is one of the words above.
    pub(crate) fn parked(&self, messages: u64, class: &'static str, reason: &'static str) {
        metrics::counter!(PARKED, "class" => class, "reason" => reason).increment(messages);
    }

    pub(crate) fn unparked(&self, messages: usize) {
        self.unparked.increment(messages as u64);
    }

    pub(crate) fn partition_emptied(&self) {
        self.emptied.increment(1);
    }
}

/// The metrics of one consumer, by its name. Looked up when first written: a consumer may be made
/// before the recorder is.
pub(crate) struct Consuming {
    consumer: Arc<str>,
    handler: OnceLock<(Histogram, Histogram)>,
}

impl Consuming {
    pub(crate) fn new(consumer: Arc<str>) -> Self {
        let handler = OnceLock::new();
        Self { consumer, handler }
    }

    fn label(&self) -> Arc<str> {
        Arc::clone(&self.consumer)
    }

    /// What became of messages: one of the words above.
    pub(crate) fn outcome(&self, outcome: &'static str, messages: usize) {
        if messages > 0 {
            metrics::counter!(INBOX_MESSAGES, "consumer" => self.label(), "outcome" => outcome)
                .increment(messages as u64);
        }
    }

    pub(crate) fn parked(&self, class: &'static str, messages: usize) {
        if messages > 0 {
            metrics::counter!(INBOX_PARKED, "consumer" => self.label(), "class" => class)
                .increment(messages as u64);
        }
    }

    pub(crate) fn retry(&self) {
        metrics::counter!(INBOX_RETRIES, "consumer" => self.label()).increment(1);
    }

    /// The handler had so many messages of one transaction for so long.
    pub(crate) fn handler(&self, messages: usize, seconds: f64) {
        let (handler, batch) = self.handler.get_or_init(|| {
            let handler = metrics::histogram!(INBOX_HANDLER, "consumer" => self.label());
            let batch = metrics::histogram!(INBOX_BATCH, "consumer" => self.label());
            (handler, batch)
        });
        handler.record(seconds);
        batch.record(messages as f64);
    }
}

/// A client was given up because it delivered nothing.
pub(crate) fn client_reset(consumer: Arc<str>) {
    metrics::counter!(INBOX_CLIENT_RESETS, "consumer" => consumer).increment(1);
}

/// So many messages are not handled yet.
#[expect(clippy::cast_precision_loss, reason = "no partition has 2^52 messages")]
pub(crate) fn consumer_lag(consumer: Arc<str>, messages: i64) {
    metrics::gauge!(INBOX_LAG, "consumer" => consumer).set(messages as f64);
}

/// The broker refuses a consumer something.
pub(crate) fn consumer_refused(consumer: Arc<str>) {
    metrics::counter!(INBOX_REFUSALS, "consumer" => consumer).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_and_in_both_tables() {
        let docs = include_str!("../../docs/telemetry.md");
        let here = include_str!("telemetry.rs");
        for (name, kind, ..) in DESCRIBED {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let row = format!("| `{name}` | {kind} |");
            assert!(here.contains(&format!("//! {row}")), "{row} here");
            assert!(docs.contains(&row), "{row} in docs/telemetry.md");
        }
        // Nobody is named who is not there, and no constant is left out.
        let quoted = |text: &str| {
            let words = text.split(['"', '`']).map(str::to_owned);
            let ours =
                words.filter(|word| word.starts_with("outbox_") || word.starts_with("inbox_"));
            let whole = |word: &String| {
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            };
            ours.filter(whole)
                .collect::<std::collections::BTreeSet<_>>()
        };
        let described: std::collections::BTreeSet<_> = DESCRIBED
            .iter()
            .map(|(name, ..)| (*name).to_owned())
            .collect();
        let mut named = quoted(docs);
        named.extend(quoted(here));
        for word in ["outbox_", "inbox_"] {
            named.remove(word);
        }
        assert_eq!(named, described);
    }
}
