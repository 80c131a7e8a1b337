//! What is read to be shown. Nothing here locks or writes.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgPool, QueryBuilder, prelude::FromRow};
use uuid::Uuid;

use crate::{
    Error,
    agenda::{Agenda, DEADLINE},
    event::Event,
    http::{
        messages::ABOUT_MESSAGES,
        query::{AnomaliesQuery, CountQuery, EventsQuery, ListQuery},
        view::{AnomalyView, Group, Recorded, Saga, StepView, Summary, WaitingView},
    },
    operation::Operation,
    operator::table::push_selection,
    origin::Origin,
    table::{corrupt, from_json, parse_steps, waiting},
};

const COLUMNS: &str = "id, definition, version, hash, business_key, tags, status, paused, late, reason, \
     parked_reason, waiting_for, waiting_step, waiting_phase, waiting_round, waiting_attempt, \
     waiting_until, seq, created_at, updated_at, ended_at, steps, locks, data";

/// One more saga than asked for, if there are: so the caller knows whether a page follows.
pub(crate) async fn list(pool: &PgPool, query: &ListQuery) -> Result<Vec<Saga>, Error> {
    let mut sql = QueryBuilder::new("select ");
    sql.push(COLUMNS).push(" from saga.instance where true");
    push_selection(&mut sql, &query.selection);
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

/// The selected sagas, counted.
pub(crate) async fn count(pool: &PgPool, query: &CountQuery) -> Result<Vec<Group>, Error> {
    let by = query.group_by.as_str();
    let mut sql = QueryBuilder::new("select ");
    sql.push(by)
        .push(" as value, count(*) as count from saga.instance where true");
    push_selection(&mut sql, &query.selection);
    sql.push(" group by 1 order by 2 desc, 1");
    let groups: Vec<(Option<String>, i64)> = sql.build_query_as().fetch_all(pool).await?;
    let groups = groups.into_iter();
    Ok(groups
        .map(|(value, count)| Group { value, count })
        .collect())
}

/// One more anomaly than asked for, if there are; the newest first.
pub(crate) async fn anomalies(
    pool: &PgPool,
    query: &AnomaliesQuery,
) -> Result<Vec<AnomalyView>, Error> {
    let mut sql = QueryBuilder::new(
        "select saga_id, seq, kind, definition, step, phase, round, outcome, recorded_at \
         from saga.anomaly where true",
    );
    if let Some(kind) = query.kind {
        sql.push(" and kind = ").push_bind(kind.as_str());
    }
    if let Some(definition) = &query.definition {
        sql.push(" and definition = ").push_bind(definition);
    }
    if let Some(saga_id) = query.saga_id {
        sql.push(" and saga_id = ").push_bind(saga_id);
    }
    if let Some(after) = query.after {
        // The first condition is the index's.
        sql.push(" and recorded_at <= ")
            .push_bind(after.at.created_at)
            .push(" and (recorded_at < ")
            .push_bind(after.at.created_at)
            .push(" or (saga_id, seq) > (")
            .push_bind(after.at.id)
            .push(", ")
            .push_bind(after.seq)
            .push("))");
    }
    sql.push(" order by recorded_at desc, saga_id, seq limit ")
        .push_bind(query.limit + 1);
    let rows: Vec<AnomalyRow> = sql.build_query_as().fetch_all(pool).await?;
    rows.into_iter().map(AnomalyRow::parse).collect()
}

/// A definition's version with its sagas counted. Looks at each saga.
pub(crate) struct Registered {
    pub(crate) name: String,
    pub(crate) version: i32,
    pub(crate) hash: String,
    pub(crate) registered_at: DateTime<Utc>,
    pub(crate) open: i64,
    pub(crate) ended: i64,
}

/// Every version that somebody has started with, by name and version.
pub(crate) async fn definitions(pool: &PgPool) -> Result<Vec<Registered>, sqlx::Error> {
    sqlx::query_as!(
        Registered,
        r#"select d.name, d.version, d.hash, d.registered_at,
                  coalesce(i.open, 0) as "open!", coalesce(i.ended, 0) as "ended!"
           from saga.definition d
           left join (
               select definition, version, count(*) filter (where ended_at is null) as open,
                      count(*) filter (where ended_at is not null) as ended
               from saga.instance group by definition, version
           ) as i on i.definition = d.name and i.version = d.version
           order by d.name, d.version"#
    )
    .fetch_all(pool)
    .await
}

/// One saga, with its timers, from one snapshot.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Saga>, Error> {
    let row = sqlx::query_as!(
        Row,
        "select id, definition, version, hash, business_key, tags, status, paused, late, reason,
                parked_reason, waiting_for, waiting_step, waiting_phase, waiting_round,
                waiting_attempt, waiting_until, seq, created_at, updated_at, ended_at, steps, locks,
                data, timers
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

/// An event that is about a message, and where it came from.
pub(crate) struct Correspondence {
    pub(crate) seq: i64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) event: Event,
    pub(crate) origin: Origin,
}

/// As [`events`], of those that are about a message.
pub(crate) async fn correspondence(
    pool: &PgPool,
    id: Uuid,
    query: &EventsQuery,
) -> Result<Vec<Correspondence>, Error> {
    let kinds = ABOUT_MESSAGES.map(ToOwned::to_owned);
    let rows = sqlx::query!(
        "select seq, recorded_at as at, body, origin from saga.event
         where saga_id = $1 and seq > $2 and kind = any($4) order by seq limit $3",
        id,
        query.after,
        query.limit + 1,
        &kinds[..]
    )
    .fetch_all(pool)
    .await?;
    let events = rows.into_iter().map(|row| {
        let origin = row.origin.map(|origin| from_json(id, origin));
        Ok(Correspondence {
            seq: row.seq,
            at: row.at,
            event: from_json(id, row.body)?,
            origin: origin.transpose()?.unwrap_or_default(),
        })
    });
    events.collect()
}

/// The answers after a place in a saga's history that say which command they answer, at most
/// `limit`.
pub(crate) async fn answers(
    pool: &PgPool,
    id: Uuid,
    after: i64,
    limit: i64,
) -> Result<Vec<(Event, Origin)>, Error> {
    let rows = sqlx::query!(
        r#"select body, origin as "origin!" from saga.event
           where saga_id = $1 and seq > $2 and origin -> 'command' is not null
           order by seq limit $3"#,
        id,
        after,
        limit
    )
    .fetch_all(pool)
    .await?;
    let answers = rows
        .into_iter()
        .map(|row| Ok((from_json(id, row.body)?, from_json(id, row.origin)?)));
    answers.collect()
}

/// Whether there is such a saga.
pub(crate) async fn exists(pool: &PgPool, id: Uuid) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"select exists (select from saga.instance where id = $1) as "is_there!""#,
        id
    );
    Ok(found.fetch_one(pool).await?)
}

/// An event, and the place it was asked for from.
pub(crate) struct Happened {
    pub(crate) saga_id: Uuid,
    pub(crate) after: i64,
    pub(crate) recorded: Recorded,
}

/// The histories of many sagas, each from a place on: of each at most `page` events, of all
/// together at most `look`. In order.
pub(crate) async fn histories(
    pool: &PgPool,
    ids: &[Uuid],
    afters: &[i64],
    page: i64,
    look: i64,
) -> Result<Vec<Happened>, Error> {
    let rows = sqlx::query!(
        r#"select w.saga_id as "saga_id!", w.after as "after!", e.seq, e.recorded_at, e.body
           from unnest($1::uuid[], $2::bigint[]) as w (saga_id, after)
           cross join lateral (
               select seq, recorded_at, body from saga.event
               where saga_id = w.saga_id and seq > w.after order by seq limit $3) as e
           order by w.saga_id, w.after, e.seq limit $4"#,
        ids,
        afters,
        page,
        look
    )
    .fetch_all(pool)
    .await?;
    let rows = rows.into_iter();
    let happened = rows.map(|row| Happened {
        saga_id: row.saga_id,
        after: row.after,
        recorded: Recorded {
            seq: row.seq,
            at: row.recorded_at,
            event: row.body,
        },
    });
    Ok(happened.collect())
}

/// A saga that is followed.
pub(crate) struct Followed {
    pub(crate) id: Uuid,
    pub(crate) seq: i64,
    /// Whether it is among the newest of all.
    pub(crate) is_newest: bool,
}

/// The newest `count` sagas, and the newest `count` of each open status, with how far they are.
pub(crate) async fn followed(pool: &PgPool, count: i64) -> Result<Vec<Followed>, Error> {
    Ok(sqlx::query_as!(
        Followed,
        r#"select id as "id!", seq as "seq!", bool_or(is_newest) as "is_newest!"
           from ((select id, seq, true as is_newest from saga.instance
                  order by created_at desc, id desc limit $1)
                 union all
                 (select id, seq, false from saga.instance where status = 'running'
                  order by created_at desc, id desc limit $1)
                 union all
                 (select id, seq, false from saga.instance where status = 'compensating'
                  order by created_at desc, id desc limit $1)
                 union all
                 (select id, seq, false from saga.instance where status = 'parked'
                  order by created_at desc, id desc limit $1)) as s
           group by id, seq"#,
        count
    )
    .fetch_all(pool)
    .await?)
}

/// These sagas as the list shows them, those that moved first first.
pub(crate) async fn summaries(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Summary>, Error> {
    let mut sql = QueryBuilder::new("select ");
    sql.push(COLUMNS)
        .push(" from saga.instance where id = any(");
    sql.push_bind(ids.to_vec())
        .push(") order by updated_at, id");
    let rows: Vec<Row> = sql.build_query_as().fetch_all(pool).await?;
    let rows = rows.into_iter();
    rows.map(|row| Ok(row.parse()?.summary)).collect()
}

/// A row of `saga.anomaly`.
#[derive(FromRow)]
struct AnomalyRow {
    saga_id: Uuid,
    seq: i64,
    kind: String,
    definition: String,
    step: String,
    phase: String,
    round: i32,
    outcome: String,
    recorded_at: DateTime<Utc>,
}

impl AnomalyRow {
    fn parse(self) -> Result<AnomalyView, Error> {
        let id = self.saga_id;
        Ok(AnomalyView {
            saga_id: id,
            seq: self.seq,
            kind: self.kind.parse().map_err(|e| corrupt(id, e))?,
            definition: self.definition,
            step: self.step,
            phase: self.phase.parse().map_err(|e| corrupt(id, e))?,
            round: self.round,
            outcome: self.outcome.parse().map_err(|e| corrupt(id, e))?,
            recorded_at: self.recorded_at,
        })
    }
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    definition: String,
    version: i32,
    hash: String,
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
    #[sqlx(default)]
    timers: Option<Value>,
}

impl Row {
    fn parse(self) -> Result<Saga, Error> {
        let id = self.id;
        let timers = self
            .timers
            .map(|timers| from_json(id, timers))
            .transpose()?;
        let timers: Agenda = timers.unwrap_or_default();
        let until = |step: &str, phase: &str| timers.until(step, phase);
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
                until: until(&waiting.step, waiting.phase.as_str()).or(self.waiting_until),
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
        let steps = parse_steps(id, self.steps)?.into_iter();
        let steps = steps.map(|state| StepView {
            until: until(&state.name, state.phase().as_str()),
            state,
        });
        Ok(Saga {
            summary,
            hash: self.hash,
            deadline: until("", DEADLINE),
            steps: steps.collect(),
            locks: from_json(id, self.locks)?,
            data: self.data,
            allowed_operations: Vec::new(),
        })
    }
}
