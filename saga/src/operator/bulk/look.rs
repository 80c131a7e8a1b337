//! How bulk operations stand.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Error,
    intervention::OperationName,
    operator::bulk::{BulkStatus, ItemResult, table},
    stored::Word,
};

/// One bulk operation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Bulk {
    /// Its id.
    pub id: Uuid,
    /// What is done to each saga.
    #[schema(value_type = OperationName)]
    pub operation: Word<OperationName>,
    /// Where it stands.
    #[schema(value_type = BulkStatus)]
    pub status: Word<BulkStatus>,
    /// Which sagas were asked for.
    pub selection: Value,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How many sagas a second at most.
    pub per_second: i32,
    /// Whether a saga that has moved on since is intervened in nevertheless.
    pub allow_changed: bool,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it ended; none until then.
    pub ended_at: Option<DateTime<Utc>>,
    /// Who stopped it.
    pub cancelled_by: Option<String>,
    /// Why it was stopped.
    pub cancel_reason: Option<String>,
    /// How far it is.
    pub sagas: Counts,
    /// Why this replica cannot carry it out: what is to be done is not what it can read. Another
    /// replica may; else stop it. Left out where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// The sagas of a bulk operation by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BulkCounts)]
pub struct Counts {
    /// All of them.
    pub total: i64,
    /// Those that have had no turn.
    pub pending: i64,
    /// As [`ItemResult::Done`].
    pub done: i64,
    /// As [`ItemResult::Refused`].
    pub refused: i64,
    /// As [`ItemResult::Changed`].
    pub changed: i64,
    /// As [`ItemResult::Gone`].
    pub gone: i64,
    /// As [`ItemResult::Failed`].
    pub failed: i64,
}

/// One saga of a bulk operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BulkItem)]
pub struct Item {
    /// Its place, from 1.
    pub position: i32,
    /// The saga.
    pub saga_id: Uuid,
    /// The number of its last event when it was listed.
    pub expected_seq: i64,
    /// What became of it; none until its turn.
    #[schema(value_type = Option<ItemResult>)]
    pub result: Option<Word<ItemResult>>,
    /// Why nothing was done.
    pub detail: Option<String>,
    /// How often it could not be done so far.
    pub failures: i32,
    /// When it had its turn.
    pub done_at: Option<DateTime<Utc>>,
}

/// How one bulk operation stands; none if there is no such.
///
/// # Errors
///
/// The database's.
pub async fn show(pool: &PgPool, id: Uuid) -> Result<Option<Bulk>, Error> {
    table::show(pool, id).await
}

/// The newest bulk operations, at most `limit`.
///
/// # Errors
///
/// The database's.
pub async fn list(pool: &PgPool, limit: i64) -> Result<Vec<Bulk>, Error> {
    table::list(pool, limit).await
}

/// Sagas of a bulk operation in their order, those after the position `after`, of one result or of
/// any; at most `limit`.
///
/// # Errors
///
/// The database's.
pub async fn items(
    pool: &PgPool,
    id: Uuid,
    result: Option<ItemResult>,
    after: i32,
    limit: i64,
) -> Result<Vec<Item>, Error> {
    table::items(pool, id, result, after, limit).await
}
