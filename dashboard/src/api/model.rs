//! What the pages read of the API's answers; the API says more. Each is explained where it is made:
//! [`/openapi.json`](chassis::http::described).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use uuid::Uuid;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Summary {
    pub(crate) id: Uuid,
    pub(crate) definition: String,
    pub(crate) version: i32,
    pub(crate) business_key: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) status: String,
    pub(crate) paused: bool,
    pub(crate) late: bool,
    pub(crate) reason: Option<String>,
    pub(crate) parked_reason: Option<String>,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) seq: i64,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    /// Why its row cannot be read; none if it can.
    #[serde(default)]
    pub(crate) unreadable: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Waiting {
    #[serde(rename = "for")]
    pub(crate) what: String,
    pub(crate) step: String,
    pub(crate) phase: String,
    pub(crate) attempt: i32,
    pub(crate) until: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sagas {
    pub(crate) items: Vec<Summary>,
    pub(crate) next_cursor: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Saga {
    #[serde(flatten)]
    pub(crate) summary: Summary,
    pub(crate) deadline: Option<DateTime<Utc>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) data: Value,
    pub(crate) allowed_operations: Vec<Allowed>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) round: i32,
    pub(crate) attempt: i32,
    pub(crate) waiting: Option<String>,
    pub(crate) until: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Allowed {
    pub(crate) name: String,
    pub(crate) allowed: bool,
    pub(crate) because: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Events {
    pub(crate) events: Vec<Recorded>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) seq: i64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) event: Value,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Messages {
    pub(crate) messages: Vec<Message>,
    #[serde(default)]
    pub(crate) unreadable: Vec<UnreadableEvent>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct UnreadableEvent {
    pub(crate) seq: i64,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Message {
    pub(crate) direction: String,
    pub(crate) at: DateTime<Utc>,
    pub(crate) step: String,
    pub(crate) phase: String,
    pub(crate) attempt: Option<i32>,
    pub(crate) probe: bool,
    pub(crate) op_key: Uuid,
    pub(crate) outcome: Option<String>,
    pub(crate) counted: bool,
    pub(crate) topic: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) parked: Option<String>,
    pub(crate) partition: Option<i32>,
    pub(crate) offset: Option<i64>,
    pub(crate) trace_id: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Count {
    pub(crate) total: i64,
    pub(crate) groups: Vec<Group>,
    pub(crate) exact: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Group {
    pub(crate) value: Option<String>,
    pub(crate) count: i64,
    pub(crate) exact: bool,
}

impl Count {
    pub(crate) fn of(&self, value: &str) -> Counted {
        let of = |group: &&Group| group.value.as_deref() == Some(value);
        let found = self.groups.iter().find(of);
        found.map_or(Counted::all(0), |group| Counted {
            count: group.count,
            exact: group.exact,
        })
    }

    pub(crate) fn total(&self) -> Counted {
        Counted {
            count: self.total,
            exact: self.exact,
        }
    }
}

/// How many there are, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) count: i64,
    /// Whether there are no more.
    pub(crate) exact: bool,
}

impl Default for Counted {
    fn default() -> Self {
        Self::all(0)
    }
}

impl Counted {
    pub(crate) fn all(count: i64) -> Self {
        Self { count, exact: true }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Intervened {
    pub(crate) outcome: String,
    pub(crate) seq: i64,
    pub(crate) status: String,
    pub(crate) events: Vec<Value>,
    pub(crate) commands: Vec<Commanded>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Commanded {
    pub(crate) step: String,
    pub(crate) phase: String,
    pub(crate) attempt: i32,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Outbox {
    pub(crate) status: OutboxStatus,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OutboxStatus {
    pub(crate) lease: Option<Lease>,
    pub(crate) paused: Option<Pause>,
    pub(crate) backlog: Backlog,
    pub(crate) oldest_unpublished_seconds: Option<f64>,
    pub(crate) parked: Vec<ParkedCount>,
    pub(crate) inbox_parked: Vec<ParkedCount>,
}

impl OutboxStatus {
    /// Parked messages of both sides.
    pub(crate) fn parked(&self) -> i64 {
        let both = self.parked.iter().chain(&self.inbox_parked);
        both.map(|counted| counted.messages).sum()
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Lease {
    pub(crate) owner: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pause {
    pub(crate) by: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Backlog {
    pub(crate) messages: i64,
    pub(crate) exact: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ParkedCount {
    pub(crate) messages: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ParkedList {
    pub(crate) items: Vec<Parked>,
    pub(crate) next_cursor: Option<String>,
    pub(crate) total: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Parked {
    pub(crate) id: String,
    pub(crate) class: String,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) consumer: Option<String>,
    pub(crate) partition: Option<i32>,
    pub(crate) offset: Option<i64>,
    pub(crate) message_id: Uuid,
    pub(crate) parked_at: DateTime<Utc>,
    pub(crate) parked_seconds: f64,
    pub(crate) attempts: i32,
    pub(crate) reason: String,
    pub(crate) replay: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    pub(crate) parked: Parked,
    pub(crate) head: Option<String>,
    pub(crate) headers: Vec<Header>,
    pub(crate) bytes: Option<i64>,
    #[serde(default)]
    pub(crate) payload: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) value: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Asked {
    pub(crate) outcome: String,
    pub(crate) followers: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Definitions {
    pub(crate) items: Vec<Definition>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) version: i32,
    pub(crate) hash: String,
    pub(crate) registered_at: DateTime<Utc>,
    pub(crate) open: i64,
    pub(crate) ended: i64,
    pub(crate) exact: bool,
    pub(crate) known_here: bool,
    pub(crate) migrates_from: Vec<i32>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Anomalies {
    pub(crate) items: Vec<Anomaly>,
    pub(crate) next_cursor: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Anomaly {
    pub(crate) saga_id: Uuid,
    pub(crate) seq: i64,
    pub(crate) kind: String,
    pub(crate) definition: String,
    pub(crate) step: String,
    pub(crate) phase: String,
    pub(crate) outcome: String,
    pub(crate) recorded_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Order {
    pub(crate) saga_id: Uuid,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Locks {
    pub(crate) items: Vec<Lock>,
    pub(crate) next_cursor: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Lock {
    pub(crate) resource: String,
    pub(crate) capacity: i64,
    pub(crate) used: i64,
    pub(crate) holding: i64,
    pub(crate) waiting: i64,
    pub(crate) waiters: Vec<Claimant>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Claimant {
    pub(crate) saga_id: Uuid,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Bulks {
    pub(crate) items: Vec<Bulk>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Bulk {
    pub(crate) id: Uuid,
    pub(crate) operation: String,
    pub(crate) status: String,
    #[serde(deserialize_with = "object")]
    pub(crate) selection: BTreeMap<String, Value>,
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) per_second: i32,
    pub(crate) allow_changed: bool,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) cancelled_by: Option<String>,
    pub(crate) cancel_reason: Option<String>,
    pub(crate) sagas: BulkCounts,
    /// Why the replica that answers cannot carry it out.
    #[serde(default)]
    pub(crate) unreadable: Option<String>,
}

/// The fields of an object; none of what is no object, so that one odd row hides no other.
fn object<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Value>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Object(fields) => fields.into_iter().collect(),
        _ => BTreeMap::new(),
    })
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct BulkCounts {
    pub(crate) total: i64,
    pub(crate) pending: i64,
    pub(crate) done: i64,
    pub(crate) refused: i64,
    pub(crate) changed: i64,
    pub(crate) gone: i64,
    pub(crate) failed: i64,
}

impl BulkCounts {
    /// Those that have had their turn.
    pub(crate) fn turned(&self) -> i64 {
        self.total - self.pending
    }

    /// Those whose turn did nothing.
    pub(crate) fn missed(&self) -> i64 {
        self.turned() - self.done
    }
}

impl Bulk {
    pub(crate) fn is_running(&self) -> bool {
        self.status == "running"
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct BulkItems {
    pub(crate) items: Vec<BulkItem>,
    pub(crate) next_after: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct BulkItem {
    pub(crate) position: i32,
    pub(crate) saga_id: Uuid,
    pub(crate) result: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) failures: i32,
    pub(crate) done_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Expected {
    pub(crate) count: i64,
    pub(crate) sample: Vec<Prospect>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Prospect {
    pub(crate) saga_id: Uuid,
    pub(crate) allowed: bool,
    pub(crate) because: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Audit {
    pub(crate) items: Vec<Act>,
    pub(crate) next_cursor: Option<String>,
}

/// What somebody did.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Act {
    pub(crate) id: i64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) actor: String,
    pub(crate) role: Option<String>,
    pub(crate) action: String,
    pub(crate) subject: String,
    pub(crate) reason: Option<String>,
    pub(crate) details: Value,
}

impl Act {
    pub(crate) fn says_more(&self) -> bool {
        self.details
            .as_object()
            .is_some_and(|more| !more.is_empty())
    }
}
