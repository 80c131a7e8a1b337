//! What is read to be shown. Nothing here locks or writes.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgPool, QueryBuilder, prelude::FromRow};
use uuid::Uuid;

use crate::{
    Error,
    http::{
        query::{EventsQuery, ListQuery},
        view::{Recorded, Saga, Summary, WaitingView},
    },
    operation::Operation,
    table::{corrupt, from_json, parse_steps, waiting},
};

const COLUMNS: &str = "id, definition, version, business_key, tags, status, paused, late, reason, \
     parked_reason, waiting_for, waiting_step, waiting_phase, waiting_round, waiting_attempt, \
     waiting_until, seq, created_at, updated_at, ended_at, steps, locks, data";

/// One more saga than asked for, if there are: so the caller knows whether a page follows.
///
/// Built from the filters that are given, not a checked macro with `$1 is null or …`: a plan for
/// all of those at once could use no index.
pub(crate) async fn list(pool: &PgPool, query: &ListQuery) -> Result<Vec<Saga>, Error> {
    let mut sql = QueryBuilder::new("select ");
    sql.push(COLUMNS).push(" from saga.instance where true");
    if let Some(definition) = &query.definition {
        sql.push(" and definition = ").push_bind(definition);
    }
    if let Some(status) = query.status {
        sql.push(" and status = ").push_bind(status.as_str());
    }
    if let Some(business_key) = &query.business_key {
        sql.push(" and business_key = ").push_bind(business_key);
    }
    if let Some(after) = query.after {
        sql.push(" and (created_at, id) < (")
            .push_bind(after.created_at)
            .push(", ")
            .push_bind(after.id)
            .push(")");
    }
    sql.push(" order by created_at desc, id desc limit ")
        .push_bind(query.limit + 1);
    let rows: Vec<Row> = sql.build_query_as().fetch_all(pool).await?;
    rows.into_iter().map(Row::parse).collect()
}

/// One saga.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Saga>, Error> {
    let row = sqlx::query_as!(
        Row,
        "select id, definition, version, business_key, tags, status, paused, late, reason,
                parked_reason, waiting_for, waiting_step, waiting_phase, waiting_round,
                waiting_attempt, waiting_until, seq, created_at, updated_at, ended_at, steps, locks,
                data
         from saga.instance where id = $1",
        id
    )
    .fetch_optional(pool)
    .await?;
    row.map(Row::parse).transpose()
}

/// A saga's history from a place on; one more event than asked for, if there are.
pub(crate) async fn events(
    pool: &PgPool,
    id: Uuid,
    query: &EventsQuery,
) -> Result<Vec<Recorded>, Error> {
    let events = sqlx::query_as!(
        Recorded,
        r#"select seq, recorded_at as at, body as event from saga.event
           where saga_id = $1 and seq > $2 order by seq limit $3"#,
        id,
        query.after,
        query.limit + 1
    )
    .fetch_all(pool)
    .await?;
    Ok(events)
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    definition: String,
    version: i32,
    business_key: String,
    tags: Value,
    status: String,
    paused: bool,
    late: bool,
    reason: Option<String>,
    parked_reason: Option<String>,
    waiting_for: Option<String>,
    waiting_step: Option<String>,
    waiting_phase: Option<String>,
    waiting_round: Option<i32>,
    waiting_attempt: Option<i32>,
    waiting_until: Option<DateTime<Utc>>,
    seq: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    steps: Value,
    locks: Value,
    data: Value,
}

impl Row {
    fn parse(self) -> Result<Saga, Error> {
        let id = self.id;
        let waiting = waiting(
            id,
            self.waiting_for,
            self.waiting_step,
            self.waiting_phase,
            self.waiting_round,
            self.waiting_attempt,
        )?;
        let waiting = waiting.map(|waiting| {
            let operation = Operation {
                saga_id: id,
                step: waiting.step.clone(),
                phase: waiting.phase,
                round: waiting.round,
            };
            WaitingView {
                op_key: operation.key(),
                until: self.waiting_until,
                waiting,
            }
        });
        let summary = Summary {
            id,
            definition: self.definition,
            version: self.version,
            business_key: self.business_key,
            tags: from_json(id, self.tags)?,
            paused: self.paused,
            late: self.late,
            status: self.status.parse().map_err(|e| corrupt(id, e))?,
            reason: self.reason,
            parked_reason: self.parked_reason,
            waiting,
            seq: self.seq,
            created_at: self.created_at,
            updated_at: self.updated_at,
            ended_at: self.ended_at,
        };
        Ok(Saga {
            summary,
            steps: parse_steps(id, self.steps)?,
            locks: from_json(id, self.locks)?,
            data: self.data,
        })
    }
}
