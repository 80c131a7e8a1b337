//! What is read to be shown. Nothing here locks or writes.

//!
//! Promised: a row that cannot be read is shown with its id and the reason ([`stored`](crate::stored))
//! and hides no other; what is counted costs at most [`COUNTED`] index entries for each definition,
//! version and status, however many sagas there are.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgPool, Postgres, QueryBuilder, prelude::FromRow};
use uuid::Uuid;

use crate::{
    Error,
    agenda::{Agenda, DEADLINE},
    event::Event,
    http::{
        messages::ABOUT_MESSAGES,
        query::{AnomaliesQuery, CountQuery, EventsQuery, GroupBy, ListQuery},
        view::{
            AnomalyView, Group, Recorded, Saga, StepView, Summary, UnreadableEvent, WaitingView,
        },
    },
    instance::{Status, StepState},
    operation::Operation,
    operator::table::{push_group, push_rest, push_selection, push_started},
    origin::Origin,
    stored::{Moment, Unreadable, Word},
    table::waiting,
};

/// Up to where sagas are counted: of more it is only said that there are more.
pub(crate) const COUNTED: i64 = 10_000;

/// JSON comes as text, which always arrives.
const COLUMNS: &str = "id, definition, version, hash, business_key, tags::text as tags, status, paused, \
     late, reason, parked_reason, waiting_for, waiting_step, waiting_phase, waiting_round, \
     waiting_attempt, waiting_until, seq, created_at, updated_at, ended_at, steps::text as steps, \
     locks::text as locks, data::text as data, timers::text as timers";

/// One more saga than asked for, if there are: so the caller knows whether a page follows.
///
/// Where a definition, a version or a status is asked for, each group of sagas that has them is read by
/// its index, and the newest of all are the page.
pub(crate) async fn list(pool: &PgPool, query: &ListQuery) -> Result<Vec<Saga>, Error> {
    let selection = &query.selection;
    let mut sql = QueryBuilder::new("select ");
    match selection.is_by_group() {
        true => {
            sql.push("i.* from saga.instance_group cross join lateral (select ");
            push_columns_of_group(&mut sql);
            push_rest(&mut sql, selection);
            push_page(&mut sql, query);
            sql.push(") as i where true");
            push_group(&mut sql, selection);
            sql.push(" order by i.created_at desc, i.id desc limit ")
                .push_bind(query.limit + 1);
        }
        false => {
            sql.push(COLUMNS).push(" from saga.instance where true");
            push_selection(&mut sql, selection);
            push_page(&mut sql, query);
        }
    }
    let rows: Vec<Row> = sql.build_query_as().fetch_all(pool).await?;
    Ok(rows.into_iter().map(Row::parse).collect())
}

fn push_columns_of_group(sql: &mut QueryBuilder<Postgres>) {
    sql.push(COLUMNS).push(" from saga.instance").push(OF_GROUP);
}

/// The sagas of one row of `saga.instance_group`.
const OF_GROUP: &str = " where definition = of_definition and version = of_version \
                        and status = of_status";

/// What comes after the cursor, newest first.
fn push_page(sql: &mut QueryBuilder<Postgres>, query: &ListQuery) {
    if let Some(after) = query.after {
        sql.push(" and (created_at, id) < (")
            .push_bind(after.created_at)
            .push(", ")
            .push_bind(after.id)
            .push(")");
    }
    sql.push(" order by created_at desc, id desc limit ")
        .push_bind(query.limit + 1);
}

/// The selected sagas, counted up to [`COUNTED`].
pub(crate) async fn count(pool: &PgPool, query: &CountQuery) -> Result<Vec<Group>, Error> {
    let mut sql = QueryBuilder::new("");
    match query.selection.is_narrow() {
        true => push_count(&mut sql, query),
        false => push_count_by_group(&mut sql, query),
    }
    let groups: Vec<(Option<String>, i64, bool)> = sql.build_query_as().fetch_all(pool).await?;
    let groups = groups.into_iter();
    let groups = groups.filter(|(_, count, _)| *count > 0);
    Ok(groups
        .map(|(value, count, exact)| Group {
            value,
            count: count.min(COUNTED),
            exact: exact && count <= COUNTED,
        })
        .collect())
}

/// Of what an index finds by its key or its tag.
fn push_count(sql: &mut QueryBuilder<Postgres>, query: &CountQuery) {
    let by = query.group_by.as_str();
    sql.push("select value, count(*), sum(count(*)) over () <= ")
        .push_bind(COUNTED)
        .push(" from (select ")
        .push(by)
        .push(" as value from saga.instance where true");
    push_selection(sql, &query.selection);
    sql.push(" limit ")
        .push_bind(COUNTED + 1)
        .push(") as found group by 1 order by 2 desc, 1");
}

/// Of each definition, version and status the newest are looked at, by their index alone where nothing
/// else is asked for.
fn push_count_by_group(sql: &mut QueryBuilder<Postgres>, query: &CountQuery) {
    let value = match query.group_by {
        GroupBy::Status => "of_status",
        GroupBy::Definition => "of_definition",
        GroupBy::WaitingFor => "newest.waiting_for",
    };
    sql.push("select value, sum(sagas)::bigint, bool_and(whole) from saga.instance_group ")
        .push("cross join lateral (select ")
        .push(value)
        .push(" as value, count(*) filter (where true");
    push_rest(sql, &query.selection);
    sql.push(") as sagas, sum(count(*)) over () <= ")
        .push_bind(COUNTED)
        .push(" as whole from (select business_key, waiting_for, updated_at, created_at from saga.instance")
        .push(OF_GROUP);
    push_started(sql, &query.selection);
    sql.push(" order by created_at desc, id desc limit ")
        .push_bind(COUNTED + 1)
        .push(") as newest group by 1) as counted where true");
    push_group(sql, &query.selection);
    sql.push(" group by 1 order by 2 desc, 1");
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
    Ok(rows.into_iter().map(AnomalyRow::view).collect())
}

/// A definition's version with its sagas counted up to [`COUNTED`] of each status.
pub(crate) struct Registered {
    pub(crate) name: String,
    pub(crate) version: i32,
    pub(crate) hash: String,
    pub(crate) registered_at: Moment,
    pub(crate) open: i64,
    pub(crate) ended: i64,
    pub(crate) exact: bool,
}

/// Every version that somebody has started with, by name and version.
pub(crate) async fn definitions(pool: &PgPool) -> Result<Vec<Registered>, sqlx::Error> {
    let statuses = Status::ALL.iter().map(|status| status.as_str().to_owned());
    let ended = Status::ALL.iter().map(|status| status.is_terminal());
    sqlx::query_as!(
        Registered,
        r#"select d.name, d.version, d.hash, d.registered_at as "registered_at: Moment",
                  coalesce(sum(least(i.sagas, $3::bigint)) filter (where not s.ended), 0)::bigint
                      as "open!",
                  coalesce(sum(least(i.sagas, $3::bigint)) filter (where s.ended), 0)::bigint as "ended!",
                  bool_and(i.sagas <= $3::bigint) as "exact!"
           from saga.definition d
           cross join unnest($1::text[], $2::boolean[]) as s (status, ended)
           cross join lateral (
               select count(*) as sagas
               from (select from saga.instance
                     where definition = d.name and version = d.version and status = s.status
                     limit $3::bigint + 1) as found) as i
           group by d.name, d.version
           order by d.name, d.version"#,
        &statuses.collect::<Vec<_>>(),
        &ended.collect::<Vec<_>>(),
        COUNTED
    )
    .fetch_all(pool)
    .await
}

/// One saga, with its timers, from one snapshot.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Saga>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, tags::text as "tags!", status, paused,
                  late, reason, parked_reason, waiting_for, waiting_step, waiting_phase,
                  waiting_round, waiting_attempt, waiting_until as "waiting_until: Moment", seq,
                  created_at as "created_at: Moment", updated_at as "updated_at: Moment",
                  ended_at as "ended_at: Moment", steps::text as "steps!", locks::text as "locks!",
                  data::text as "data!", timers::text as "timers!"
           from saga.instance where id = $1"#,
        id
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(Row::parse))
}

/// A saga's history from a place on; one more event than asked for, if there are. One that cannot be
/// read is told by its kind, with the reason.
pub(crate) async fn events(
    pool: &PgPool,
    id: Uuid,
    query: &EventsQuery,
) -> Result<Vec<Recorded>, Error> {
    let rows = sqlx::query!(
        r#"select seq, kind, recorded_at as "at: Moment", body::text as "body!" from saga.event
           where saga_id = $1 and seq > $2 order by seq limit $3"#,
        id,
        query.after,
        query.limit + 1
    )
    .fetch_all(pool)
    .await?;
    let events = rows.into_iter();
    Ok(events
        .map(|row| Recorded {
            seq: row.seq,
            at: row.at.into(),
            event: event(&row.kind, &row.body),
        })
        .collect())
}

fn event(kind: &str, body: &str) -> Value {
    let mut unreadable = Unreadable::default();
    let event: Value = unreadable.json("body", body);
    match unreadable.reason() {
        None => event,
        Some(reason) => json!({"type": kind, "unreadable": reason}),
    }
}

/// An event that is about a message, and where it came from.
pub(crate) struct Correspondence {
    pub(crate) seq: i64,
    pub(crate) at: DateTime<Utc>,
    /// None where it cannot be read.
    pub(crate) told: Result<(Event, Origin), UnreadableEvent>,
}

/// As [`events`], of those that are about a message.
pub(crate) async fn correspondence(
    pool: &PgPool,
    id: Uuid,
    query: &EventsQuery,
) -> Result<Vec<Correspondence>, Error> {
    let kinds = ABOUT_MESSAGES.map(ToOwned::to_owned);
    let rows = sqlx::query!(
        r#"select seq, recorded_at as "at: Moment", body::text as "body!", origin::text as origin
           from saga.event
           where saga_id = $1 and seq > $2 and kind = any($4) order by seq limit $3"#,
        id,
        query.after,
        query.limit + 1,
        &kinds[..]
    )
    .fetch_all(pool)
    .await?;
    let events = rows.into_iter().map(|row| Correspondence {
        seq: row.seq,
        at: row.at.into(),
        told: told(row.seq, &row.body, row.origin.as_deref()),
    });
    Ok(events.collect())
}

fn told(seq: i64, body: &str, origin: Option<&str>) -> Result<(Event, Origin), UnreadableEvent> {
    let unreadable = |column: &str, error: serde_json::Error| UnreadableEvent {
        seq,
        reason: format!("{column}: {error}"),
    };
    let event = serde_json::from_str(body).map_err(|error| unreadable("body", error))?;
    let origin = origin.map(serde_json::from_str).transpose();
    let origin = origin.map_err(|error| unreadable("origin", error))?;
    Ok((event, origin.unwrap_or_default()))
}

/// The answers after a place in a saga's history that say which command they answer, among the next
/// `limit` events that say where they came from.
pub(crate) async fn answers(
    pool: &PgPool,
    id: Uuid,
    after: i64,
    limit: i64,
) -> Result<Vec<(Event, Origin)>, Error> {
    let kinds = ABOUT_MESSAGES.map(ToOwned::to_owned);
    // What an origin says is read here: a question inside of the JSON may fail for one row.
    let rows = sqlx::query!(
        r#"select seq, body::text as "body!", origin::text as origin from saga.event
           where saga_id = $1 and seq > $2 and kind = any($4)
             and kind not in ('command_sent', 'probe_sent') and origin is not null
           order by seq limit $3"#,
        id,
        after,
        limit,
        &kinds[..]
    )
    .fetch_all(pool)
    .await?;
    let answers = rows
        .into_iter()
        .filter_map(|row| told(row.seq, &row.body, row.origin.as_deref()).ok())
        .filter(|(_, origin)| origin.command.is_some());
    Ok(answers.collect())
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
        r#"select w.saga_id as "saga_id!", w.after as "after!", e.seq, e.kind,
                  e.recorded_at as "recorded_at: Moment", e.body::text as "body!"
           from unnest($1::uuid[], $2::bigint[]) as w (saga_id, after)
           cross join lateral (
               select seq, kind, recorded_at, body from saga.event
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
            at: row.recorded_at.into(),
            event: event(&row.kind, &row.body),
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
    Ok(rows.map(|row| row.parse().summary).collect())
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
    recorded_at: Moment,
}

impl AnomalyRow {
    fn view(self) -> AnomalyView {
        AnomalyView {
            saga_id: self.saga_id,
            seq: self.seq,
            kind: self.kind.into(),
            definition: self.definition,
            step: self.step,
            phase: self.phase.into(),
            round: self.round,
            outcome: self.outcome.into(),
            recorded_at: self.recorded_at.into(),
        }
    }
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    definition: String,
    version: i32,
    hash: String,
    business_key: String,
    tags: String,
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
    waiting_until: Option<Moment>,
    seq: i64,
    created_at: Moment,
    updated_at: Moment,
    ended_at: Option<Moment>,
    steps: String,
    locks: String,
    data: String,
    timers: String,
}

impl Row {
    /// As far as it can be read.
    fn parse(self) -> Saga {
        let id = self.id;
        let mut unreadable = Unreadable::default();
        let status = Word::from(self.status);
        if let Word::Unknown(word) = &status {
            unreadable.note("status", format!("{word:?} is no status"));
        }
        let steps: Vec<StepState> = unreadable.json("steps", &self.steps);
        let locks = unreadable.json("locks", &self.locks);
        let data = unreadable.json("data", &self.data);
        let tags = unreadable.json("tags", &self.tags);
        let timers: Agenda = unreadable.json("timers", &self.timers);
        let until = |step: &str, phase: &str| timers.until(step, phase);
        let waiting = waiting(
            id,
            self.waiting_for,
            self.waiting_step,
            self.waiting_phase,
            self.waiting_round,
            self.waiting_attempt,
        );
        let waiting = waiting.unwrap_or_else(|error| {
            unreadable.note("waiting_for or waiting_phase", error);
            None
        });
        let waiting = waiting.map(|waiting| {
            let operation = Operation {
                saga_id: id,
                step: waiting.step.clone(),
                phase: waiting.phase,
                round: waiting.round,
            };
            let stored = self.waiting_until.map(DateTime::from);
            WaitingView {
                op_key: operation.key(),
                until: until(&waiting.step, waiting.phase.as_str()).or(stored),
                waiting,
            }
        });
        let steps = steps.into_iter().map(|state| StepView {
            until: until(&state.name, state.phase().as_str()),
            state,
        });
        let summary = Summary {
            id,
            definition: self.definition,
            version: self.version,
            business_key: self.business_key,
            tags,
            paused: self.paused,
            late: self.late,
            status,
            reason: self.reason,
            parked_reason: self.parked_reason,
            waiting,
            seq: self.seq,
            created_at: self.created_at.into(),
            updated_at: self.updated_at.into(),
            ended_at: self.ended_at.map(DateTime::from),
            unreadable: unreadable.reason(),
        };
        Saga {
            summary,
            hash: self.hash,
            deadline: until("", DEADLINE),
            steps: steps.collect(),
            locks,
            data,
            allowed_operations: Vec::new(),
        }
    }
}
