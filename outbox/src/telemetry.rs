//! Every metric, span and trace header name of this crate, in one place.
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `outbox_enqueued_total` | counter | | messages appended to the log by this process (committed or not) |
//! | `outbox_published_total` | counter | | messages acknowledged by the broker |
//! | `outbox_commit_to_ack_seconds` | histogram | | from a message's insert to its acknowledgement |
//! | `outbox_in_flight_messages` | gauge | | sent and not yet acknowledged |
//! | `outbox_lease_held` | gauge | | 1 on the leader, 0 on a standby |
//! | `outbox_producer_resets_total` | counter | | producers given up after a failed delivery |
//! | `outbox_parked_total` | counter | `class` | messages the broker would not take |
//! | `outbox_unparked_total` | counter | | parked messages that were sent after all |
//! | `outbox_partitions_emptied_total` | counter | | partitions of the log that were truncated |
//! | `inbox_messages_total` | counter | `consumer`, `outcome` | `handled`, `duplicate`, `parked`, `replayed` |
//! | `inbox_retries_total` | counter | `consumer` | attempts that failed and were repeated |
//! | `inbox_handler_seconds` | histogram | `consumer` | one transaction of a batch |
//! | `inbox_client_resets_total` | counter | `consumer` | clients given up because they delivered nothing |

pub(crate) const ENQUEUED: &str = "outbox_enqueued_total";
pub(crate) const PUBLISHED: &str = "outbox_published_total";
pub(crate) const COMMIT_TO_ACK: &str = "outbox_commit_to_ack_seconds";
pub(crate) const IN_FLIGHT: &str = "outbox_in_flight_messages";
pub(crate) const LEASE_HELD: &str = "outbox_lease_held";
pub(crate) const PRODUCER_RESETS: &str = "outbox_producer_resets_total";
pub(crate) const PARKED: &str = "outbox_parked_total";
pub(crate) const UNPARKED: &str = "outbox_unparked_total";
pub(crate) const PARTITIONS_EMPTIED: &str = "outbox_partitions_emptied_total";
pub(crate) const INBOX_MESSAGES: &str = "inbox_messages_total";
pub(crate) const INBOX_RETRIES: &str = "inbox_retries_total";
pub(crate) const INBOX_HANDLER: &str = "inbox_handler_seconds";
pub(crate) const INBOX_CLIENT_RESETS: &str = "inbox_client_resets_total";

/// The W3C trace context header.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// What tracing systems have to say beside it.
pub(crate) const TRACESTATE: &str = "tracestate";
