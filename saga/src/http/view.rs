//! What is shown.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Error,
    event::Event,
    http::query::AnomalyKind,
    instance::{Instance, LockState, Status, StepState, Waiting},
    intervention::OperationName,
    operation::Phase,
    operator::{AllowedOperation, Intervened},
    stored::Word,
    table::corrupt,
    wire::Outcome,
};

/// One saga in the list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SagaSummary)]
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
    #[schema(value_type = Status)]
    pub status: Word<Status>,
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
    /// What of its row this replica cannot read, and why: the column, then the reason. What else is
    /// said of such a saga is what could be read. Left out where everything can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// What a saga waits for, and until when.
#[derive(Debug, Serialize, ToSchema)]
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
#[derive(Debug, Serialize, ToSchema)]
pub struct Saga {
    /// What the list says of it.
    #[serde(flatten)]
    pub summary: Summary,
    /// The pinned hash.
    pub hash: String,
    /// When its time is up; none if it has no deadline, or none to come.
    pub deadline: Option<DateTime<Utc>>,
    /// Each step, in the definition's order.
    pub steps: Vec<StepView>,
    /// The resources it holds or waits for.
    pub locks: Vec<LockState>,
    /// What it knows.
    pub data: Value,
    /// What a person may do now, and why not the rest.
    pub allowed_operations: Vec<AllowedOperation>,
}

/// One step of a saga.
#[derive(Debug, Serialize, ToSchema)]
pub struct StepView {
    /// Where it stands.
    #[serde(flatten)]
    pub state: StepState,
    /// Until when it waits; none if it waits for no moment.
    pub until: Option<DateTime<Utc>>,
}

impl Saga {
    /// As a decision sees it.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] where its row cannot be read.
    pub(crate) fn instance(&self) -> Result<Instance, Error> {
        let summary = &self.summary;
        let reason = summary.unreadable.as_deref();
        let (Some(status), None) = (summary.status.known(), reason) else {
            return Err(corrupt(summary.id, reason.unwrap_or_default()));
        };
        Ok(Instance {
            id: summary.id,
            definition: summary.definition.clone(),
            version: summary.version,
            hash: self.hash.clone(),
            business_key: summary.business_key.clone(),
            tags: summary.tags.clone(),
            status,
            paused: summary.paused,
            late: summary.late,
            reason: summary.reason.clone(),
            parked_reason: summary.parked_reason.clone(),
            stopped: summary.status == Status::Parked
                && (summary.waiting.iter()).any(|waiting| waiting.waiting.step.is_empty()),
            data: self.data.clone(),
            steps: self.steps.iter().map(|step| step.state.clone()).collect(),
            locks: self.locks.clone(),
            ignored: 0,
            seq: summary.seq,
        })
    }

    /// What a person may do to a saga whose row cannot be read here: each with the reason why not.
    pub(crate) fn nothing_allowed(because: &str) -> Vec<AllowedOperation> {
        let all = OperationName::ALL.iter().map(|name| AllowedOperation {
            name: *name,
            allowed: false,
            because: Some(because.to_owned()),
        });
        all.collect()
    }
}

/// A page of the list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SagaList)]
pub struct List {
    /// Newest first.
    pub items: Vec<Summary>,
    /// Give it back as `cursor` for the next page; none on the last.
    pub next_cursor: Option<String>,
}

/// One event of a history.
#[derive(Debug, Serialize, ToSchema)]
pub struct Recorded {
    /// Its number.
    pub seq: i64,
    /// When it was recorded, by the database's clock.
    pub at: DateTime<Utc>,
    /// The event: `type`, and what belongs to it. One that this replica cannot read has `unreadable`
    /// instead, the reason.
    #[schema(value_type = Event)]
    pub event: Value,
}

/// A page of a history.
#[derive(Debug, Serialize, ToSchema)]
pub struct Events {
    /// In order.
    pub events: Vec<Recorded>,
    /// Give it back as `after` for the next page; none on the last.
    pub next_after: Option<i64>,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To a participant.
    Command,
    /// From one.
    Reply,
}

/// A command or a reply of a saga.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SagaMessage)]
pub struct MessageView {
    /// Which way it goes.
    pub direction: Direction,
    /// The event that tells of it; none for a reply that is parked.
    pub seq: Option<i64>,
    /// When it was enqueued or counted, or when it was parked.
    pub at: DateTime<Utc>,
    /// The step.
    pub step: String,
    /// Forwards or back.
    pub phase: Phase,
    /// The round.
    pub round: i32,
    /// Which sending of the same operation; of a reply, the one that it answers, if it says so.
    pub attempt: Option<i32>,
    /// Not "do it" but "what became of it?".
    pub probe: bool,
    /// The operation's correlation key.
    pub op_key: Uuid,
    /// What a reply said.
    pub outcome: Option<Outcome>,
    /// Whether a reply changed anything.
    pub counted: bool,
    /// Where it goes; none if this replica does not know the saga's version.
    pub topic: Option<String>,
    /// What its payload is, as far as it is known here.
    pub kind: Option<String>,
    /// Its record key: the saga.
    pub key: Uuid,
    /// Its id in `/parked`, if it is parked.
    pub parked: Option<String>,
    /// The partition of its record; of a command known from its answer.
    pub partition: Option<i32>,
    /// The record's place in the partition; likewise.
    pub offset: Option<i64>,
    /// The trace it is part of, if one is recorded.
    pub trace_id: Option<String>,
}

/// A page of a saga's messages.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SagaMessages)]
pub struct Messages {
    /// In order.
    pub messages: Vec<MessageView>,
    /// Events of this page that are about a message and cannot be read. Left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableEvent>,
    /// Give it back as `after` for the next page; none on the last.
    pub next_after: Option<i64>,
}

/// An event that this replica cannot read.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnreadableEvent {
    /// Its number.
    pub seq: i64,
    /// The column, then why not.
    pub reason: String,
}

/// Sagas by something.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SagaCount)]
pub struct Count {
    /// All together.
    pub total: i64,
    /// The most first.
    pub groups: Vec<Group>,
    /// Whether these are all. Of each definition, version and status at most 10,000 sagas are counted.
    pub exact: bool,
}

/// The sagas of one sort.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SagaGroup)]
pub struct Group {
    /// The word; none for those that wait for nothing.
    pub value: Option<String>,
    /// How many.
    pub count: i64,
    /// Whether there are no more.
    pub exact: bool,
}

/// What should not have happened.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnomalyView {
    /// The saga.
    pub saga_id: Uuid,
    /// The event that says so.
    pub seq: i64,
    /// What.
    #[schema(value_type = AnomalyKind)]
    pub kind: Word<AnomalyKind>,
    /// The saga's definition.
    pub definition: String,
    /// The step.
    pub step: String,
    /// Forwards or back.
    #[schema(value_type = Phase)]
    pub phase: Word<Phase>,
    /// The round.
    pub round: i32,
    /// What the answer said.
    #[schema(value_type = Outcome)]
    pub outcome: Word<Outcome>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// A page of something.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// Give it back as `cursor` for the next page; none on the last.
    pub next_cursor: Option<String>,
}

/// Items, each with a name or a number that the next page begins after.
#[derive(Debug, Serialize, ToSchema)]
pub struct After<T> {
    /// In order.
    pub items: Vec<T>,
    /// Give it back as `after` for the next page; none on the last.
    pub next_after: Option<i64>,
}

/// A version of a definition, and its sagas.
#[derive(Debug, Serialize, ToSchema)]
pub struct DefinitionView {
    /// The definition's name.
    pub name: String,
    /// Its version.
    pub version: i32,
    /// The sha256 of what steers a saga.
    pub hash: String,
    /// When the first replica that has it started.
    pub registered_at: DateTime<Utc>,
    /// Sagas that have not ended.
    pub open: i64,
    /// Sagas that have ended and are not forgotten.
    pub ended: i64,
    /// Whether these are all: of each status at most 10,000 are counted.
    pub exact: bool,
    /// Whether the replica that answers can steer it.
    pub known_here: bool,
    /// The versions whose sagas can be brought to this one, as far as the replica knows.
    pub migrates_from: Vec<i32>,
}

/// All definitions.
#[derive(Debug, Serialize, ToSchema)]
pub struct Definitions {
    /// By name and version.
    pub items: Vec<DefinitionView>,
}

/// What became of an intervention.
#[derive(Debug, Serialize, ToSchema)]
pub struct IntervenedView {
    /// `done`, `repeated` or `dry_run`.
    pub outcome: &'static str,
    /// What followed, or would.
    #[serde(flatten)]
    pub intervened: Intervened,
}
