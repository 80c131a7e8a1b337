//! What is shown.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::instance::{LockState, Status, StepState, Waiting};

/// One saga in the list.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Its id.
    pub id: Uuid,
    /// The definition's name.
    pub definition: String,
    /// The pinned version.
    pub version: i32,
    /// What it is about.
    pub business_key: String,
    /// Names and values to find it by.
    pub tags: BTreeMap<String, String>,
    /// Where it stands.
    pub status: Status,
    /// Whether a person wants it to send nothing.
    pub paused: bool,
    /// Whether its deadline has passed.
    pub late: bool,
    /// Why it turned back, for a person.
    pub reason: Option<String>,
    /// Why it is parked, for a person.
    pub parked_reason: Option<String>,
    /// What it waits for.
    pub waiting: Option<WaitingView>,
    /// The number of its last event.
    pub seq: i64,
    /// When it started.
    pub created_at: DateTime<Utc>,
    /// When it last moved.
    pub updated_at: DateTime<Utc>,
    /// When it ended; none until then.
    pub ended_at: Option<DateTime<Utc>>,
}

/// What a saga waits for, and until when.
#[derive(Debug, Serialize)]
pub struct WaitingView {
    /// For what, of which step.
    #[serde(flatten)]
    pub waiting: Waiting,
    /// The correlation key of the operation.
    pub op_key: Uuid,
    /// Until when; none if only a person or a late reply can help.
    pub until: Option<DateTime<Utc>>,
}

/// One saga in full.
#[derive(Debug, Serialize)]
pub struct Saga {
    /// What the list says of it.
    #[serde(flatten)]
    pub summary: Summary,
    /// Each step, in the definition's order.
    pub steps: Vec<StepState>,
    /// The resources it holds or waits for.
    pub locks: Vec<LockState>,
    /// What it knows.
    pub data: Value,
}

/// A page of the list.
#[derive(Debug, Serialize)]
pub struct List {
    /// Newest first.
    pub items: Vec<Summary>,
    /// Give it back as `cursor` for the next page; none on the last.
    pub next_cursor: Option<String>,
}

/// One event of a history.
#[derive(Debug, Serialize)]
pub struct Recorded {
    /// Its number.
    pub seq: i64,
    /// When it was recorded, by the database's clock.
    pub at: DateTime<Utc>,
    /// The event: `type`, and what belongs to it.
    pub event: Value,
}

/// A page of a history.
#[derive(Debug, Serialize)]
pub struct Events {
    /// In order.
    pub events: Vec<Recorded>,
    /// Give it back as `after` for the next page; none on the last.
    pub next_after: Option<i64>,
}
