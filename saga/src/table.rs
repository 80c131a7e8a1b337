//! Every statement about sagas. One function per statement, named as the sentence.
//!
//! Promised: rows go in and out as the types of this crate, or not at all. A row nobody can read
//! is an error with the saga's id, never a panic. The clock is the database's.
//!
//! A statement's plan is kept for as long as its connection lives, and on a young database it was
//! made while the table was small: then to read all of it looks cheaper than some look-ups by an
//! index, and goes on to be done when the table has grown, until somebody analyzes it. So statements
//! about many sagas leave no choice: a `lateral` subquery that cannot be merged looks up one row at a
//! time; where that is not possible, in an update, conditions that are always true let the planner
//! expect one row.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    Error,
    agenda::{self, Agenda, Place},
    error::without_content,
    event::{Attempt, Event, IgnoredBecause, Timer},
    instance::{Instance, Status, StepState, StepStatus, Waiting, WaitingFor},
    locks::Granted,
    operation::{Operation, Phase},
    origin::Origin,
    wire::Outcome,
};

/// READ COMMITTED whatever the server's default: each statement must see what others committed.
pub(crate) const BEGIN: &str = "begin isolation level read committed";

/// An instance as it was read, its row locked.
pub(crate) struct Loaded {
    pub(crate) instance: Instance,
    pub(crate) agenda: Agenda,
    /// When its timers were to be looked at.
    pub(crate) look_at: Option<DateTime<Utc>>,
    /// Whether a timer of it was put off because its command had not been sent.
    pub(crate) put_off: bool,
    /// The moment it was read at, by the database's clock; what was waited for its row included.
    pub(crate) now: DateTime<Utc>,
}

/// A saga whose row is locked; whether it can be read is its own affair.
pub(crate) struct Locked {
    pub(crate) id: Uuid,
    /// As it was read, or [`Error::Corrupt`].
    pub(crate) loaded: Result<Loaded, Error>,
}

/// Writes a definition down, unless its name and version are known. Returns the hash they are
/// known with.
pub(crate) async fn register_definition(
    tx: &mut PgTransaction<'_>,
    name: &str,
    version: i32,
    hash: &str,
) -> Result<String, sqlx::Error> {
    sqlx::query!(
        "insert into saga.definition (name, version, hash) values ($1, $2, $3)
         on conflict on constraint definition_pkey do nothing",
        name,
        version,
        hash
    )
    .execute(&mut **tx)
    .await?;
    // A second statement, so that it sees what a concurrent starter has just committed.
    sqlx::query_scalar!(
        "select hash from saga.definition where name = $1 and version = $2",
        name,
        version
    )
    .fetch_one(&mut **tx)
    .await
}

/// Inserts a saga with its first events and timers, unless its id or its business key is taken.
/// Returns the moment if it did. That is why the server works out when the timers are due: nobody
/// here knows what time it is before.
pub(crate) async fn insert_instance(
    tx: &mut PgTransaction<'_>,
    instance: &Instance,
    events: &[Event],
    origins: &[Option<Origin>],
    timers: &[(&Timer, Duration)],
) -> Result<Option<DateTime<Utc>>, Error> {
    let id = instance.id;
    let waiting = instance.waiting();
    let waiting = waiting.as_ref();
    let history = History {
        saga_id: id,
        last_seq: 0,
        events,
        origins,
    };
    let recorded = Recorded::of(&[history])?;
    let entries: Vec<_> = timers.iter().map(|(timer, _)| Place::of(timer)).collect();
    let steps: Vec<String> = entries.iter().map(|e| e.step.to_owned()).collect();
    let phases: Vec<String> = entries.iter().map(|e| e.phase.to_owned()).collect();
    let rounds: Vec<i32> = entries.iter().map(|e| e.round).collect();
    let attempts: Vec<i32> = entries.iter().map(|e| e.attempt).collect();
    let after: Vec<f64> = timers.iter().map(|(_, after)| seconds(*after)).collect();
    let awaited = waiting.and_then(|waiting| {
        let is_it = |e: &Place<'_>| e.step == waiting.step && e.phase == waiting.phase.as_str();
        entries.iter().position(is_it)
    });
    let now = sqlx::query_scalar!(
        r#"with begun as (
               insert into saga.instance
                 (id, definition, version, hash, business_key, tags, status, paused, late, reason,
                  parked_reason, data, steps, locks, waiting_for, waiting_step, waiting_phase,
                  waiting_round, waiting_attempt, waiting_until, seq, ended_at, timers, look_at)
               select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::text::json,
                      $14::text::json, $15, $16, $17, $18, $19,
                      statement_timestamp() + make_interval(secs => $20), $21,
                      case when $22 then statement_timestamp() end, timers.list, timers.first
               from (select coalesce(json_agg(json_build_array(
                                t.step, t.phase, t.round, t.attempt,
                                (extract(epoch from statement_timestamp()) * 1e6)::bigint
                                + (t.after * 1e6)::bigint)), '[]') as list,
                            statement_timestamp() + make_interval(secs => min(t.after)) as first
                     from unnest($23::text[], $24::text[], $25::integer[], $26::integer[],
                                 $27::float8[]) as t (step, phase, round, attempt, after)) as timers
               on conflict do nothing
               returning id),
           recorded as (
               insert into saga.event (saga_id, seq, kind, body, origin)
               select begun.id, new.seq, new.kind, new.body::json, new.origin::json
               from begun, unnest($28::bigint[], $29::text[], $30::text[], $31::text[])
                           as new (seq, kind, body, origin))
           select statement_timestamp() as "now!" from begun"#,
        id,
        instance.definition,
        instance.version,
        instance.hash,
        instance.business_key,
        json(id, &instance.tags)?,
        instance.status.as_str(),
        instance.paused,
        instance.late,
        instance.reason,
        instance.parked_reason,
        instance.data,
        steps_text(id, &instance.steps)?,
        text(id, &instance.locks)?,
        waiting.map(|w| w.what.as_str()),
        waiting.map(|w| w.step.as_str()),
        waiting.map(|w| w.phase.as_str()),
        waiting.map(|w| w.round),
        waiting.map(|w| w.attempt),
        awaited.map(|place| after[place]),
        instance.seq,
        instance.status.is_terminal(),
        &steps,
        &phases,
        &rounds,
        &attempts,
        &after,
        &recorded.seqs,
        &recorded.kinds,
        &recorded.bodies,
        recorded.origins as Vec<Option<String>>,
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(now)
}

/// A saga that has moved on, and from where.
pub(crate) struct Moved<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) expected_seq: i64,
    pub(crate) agenda: &'a Agenda,
    pub(crate) look_at: Option<DateTime<Utc>>,
}

impl Moved<'_> {
    /// Until when it waits for what it waits for first, for the eyes of whoever looks at it.
    fn waiting_until(&self, waiting: Option<&Waiting>) -> Option<DateTime<Utc>> {
        let waiting = waiting?;
        self.agenda.until(&waiting.step, waiting.phase.as_str())
    }
}

/// Moves sagas on, each from its `expected_seq`, and appends to histories. Returns how many were
/// moved; fewer if somebody else already did.
pub(crate) async fn move_on(
    tx: &mut PgTransaction<'_>,
    moved: &[Moved<'_>],
    histories: &[History<'_>],
) -> Result<i64, Error> {
    let waiting: Vec<Option<Waiting>> = moved.iter().map(|m| m.instance.waiting()).collect();
    let of = |field: fn(&Waiting) -> String| -> Vec<Option<String>> {
        waiting.iter().map(|w| w.as_ref().map(field)).collect()
    };
    let number = |field: fn(&Waiting) -> i32| -> Vec<Option<i32>> {
        waiting.iter().map(|w| w.as_ref().map(field)).collect()
    };
    let untils = moved.iter().zip(&waiting);
    let untils: Vec<_> = untils.map(|(m, w)| m.waiting_until(w.as_ref())).collect();
    let instances = || moved.iter().map(|moved| moved.instance);
    let texts = |field: fn(&Instance) -> Result<String, Error>| -> Result<Vec<String>, Error> {
        instances().map(field).collect()
    };
    let ids: Vec<Uuid> = instances().map(|i| i.id).collect();
    let expected: Vec<i64> = moved.iter().map(|m| m.expected_seq).collect();
    let versions: Vec<i32> = instances().map(|i| i.version).collect();
    let hashes: Vec<String> = instances().map(|i| i.hash.clone()).collect();
    let statuses: Vec<String> = instances().map(|i| i.status.to_string()).collect();
    let paused: Vec<bool> = instances().map(|i| i.paused).collect();
    let late: Vec<bool> = instances().map(|i| i.late).collect();
    let reasons: Vec<_> = instances().map(|i| i.reason.clone()).collect();
    let parked: Vec<_> = instances().map(|i| i.parked_reason.clone()).collect();
    let data = texts(|i| text(i.id, &i.data))?;
    let steps = texts(|i| steps_text(i.id, &i.steps))?;
    let locks = texts(|i| text(i.id, &i.locks))?;
    let seqs: Vec<i64> = instances().map(|i| i.seq).collect();
    let ignored: Vec<i32> = instances().map(|i| i.ignored).collect();
    let timers = moved.iter().map(|m| text(m.instance.id, m.agenda));
    let timers: Vec<String> = timers.collect::<Result<_, _>>()?;
    let looks: Vec<_> = moved.iter().map(|m| m.look_at).collect();
    let new = Recorded::of(histories)?;
    Ok(sqlx::query_scalar!(
        r#"with moved as (
               update saga.instance i set
                   version = new.version, hash = new.hash, status = new.status,
                   paused = new.paused, late = new.late, reason = new.reason,
                   parked_reason = new.parked_reason, data = new.data::jsonb,
                   steps = new.steps::json, locks = new.locks::json, waiting_for = new.waiting_for,
                   waiting_step = new.waiting_step, waiting_phase = new.waiting_phase,
                   waiting_round = new.waiting_round, waiting_attempt = new.waiting_attempt,
                   waiting_until = new.waiting_until, seq = new.seq, timers = new.timers::json,
                   look_at = new.look_at, ignored = new.ignored, failures = 0,
                   updated_at = statement_timestamp(),
                   ended_at = case when new.waiting_for is null
                                   then coalesce(i.ended_at, statement_timestamp()) end
               from unnest($1::uuid[], $2::bigint[], $3::integer[], $4::text[], $5::text[],
                           $6::boolean[], $7::boolean[], $8::text[], $9::text[], $10::text[],
                           $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
                           $16::integer[], $17::integer[], $18::timestamptz[], $19::bigint[],
                           $20::text[], $21::timestamptz[], $22::integer[])
                    as new (id, expected, version, hash, status, paused, late, reason,
                            parked_reason, data, steps, locks, waiting_for, waiting_step,
                            waiting_phase, waiting_round, waiting_attempt, waiting_until, seq,
                            timers, look_at, ignored)
               where i.id = new.id and i.seq = new.expected
                 and new.expected > 0 and new.seq > new.expected and new.version > 0
               returning 1),
           recorded as (
               insert into saga.event (saga_id, seq, kind, body, origin)
               select new.saga_id, new.seq, new.kind, new.body::json, new.origin::json
               from unnest($23::uuid[], $24::bigint[], $25::text[], $26::text[], $27::text[])
                    as new (saga_id, seq, kind, body, origin))
           select count(*) as "moved!" from moved"#,
        &ids,
        &expected,
        &versions,
        &hashes,
        &statuses,
        &paused,
        &late,
        reasons as Vec<Option<String>>,
        parked as Vec<Option<String>>,
        &data,
        &steps,
        &locks,
        of(|w| w.what.to_string()) as Vec<Option<String>>,
        of(|w| w.step.clone()) as Vec<Option<String>>,
        of(|w| w.phase.to_string()) as Vec<Option<String>>,
        number(|w| w.round) as Vec<Option<i32>>,
        number(|w| w.attempt) as Vec<Option<i32>>,
        untils as Vec<Option<DateTime<Utc>>>,
        &seqs,
        &timers,
        looks as Vec<Option<DateTime<Utc>>>,
        &ignored,
        &new.ids,
        &new.seqs,
        &new.kinds,
        &new.bodies,
        new.origins as Vec<Option<String>>
    )
    .fetch_one(&mut **tx)
    .await?)
}

/// Gives a saga other tags: those of another version of its definition.
pub(crate) async fn set_tags(tx: &mut PgTransaction<'_>, instance: &Instance) -> Result<(), Error> {
    sqlx::query!(
        "update saga.instance set tags = $2 where id = $1",
        instance.id,
        json(instance.id, &instance.tags)?
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Records that histories grew by events that left their sagas' states alone. Returns how many.
pub(crate) async fn advance_seqs(
    tx: &mut PgTransaction<'_>,
    moved: &[Moved<'_>],
) -> Result<i64, Error> {
    let ids: Vec<Uuid> = moved.iter().map(|m| m.instance.id).collect();
    let expected: Vec<i64> = moved.iter().map(|m| m.expected_seq).collect();
    let seqs: Vec<i64> = moved.iter().map(|m| m.instance.seq).collect();
    let ignored: Vec<i32> = moved.iter().map(|m| m.instance.ignored).collect();
    let done = sqlx::query!(
        "update saga.instance i set seq = new.seq, ignored = new.ignored
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[])
              as new (id, expected, seq, ignored)
         where i.id = new.id and i.seq = new.expected
           and new.expected > 0 and new.seq > new.expected",
        &ids,
        &expected,
        &seqs,
        &ignored
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected().try_into().unwrap_or(i64::MAX))
}

/// Locks and reads sagas, in the order of their ids, in which everybody locks them.
pub(crate) async fn load_for_update(
    tx: &mut PgTransaction<'_>,
    ids: &[Uuid],
) -> Result<Vec<Locked>, sqlx::Error> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    let rows = sqlx::query_as!(
        Row,
        r#"select i.id, i.definition, i.version, i.hash, i.business_key, i.tags::text as "tags!",
                  i.status, i.paused,
                  i.late, i.reason, i.parked_reason, i.data::text as "data!",
                  i.steps::text as "steps!", i.locks::text as "locks!", i.timers::text as "timers!",
                  i.waiting_for, i.waiting_step,
                  case when isfinite(i.look_at) then i.look_at end as look_at, i.ignored, i.seq,
                  clock_timestamp() as "now!"
           from unnest($1::uuid[]) as wanted (id)
           cross join lateral (
               select * from saga.instance where id = wanted.id for update) as i"#,
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(Row::locked).collect())
}

/// Reads the saga a business key belongs to.
pub(crate) async fn load_by_business_key(
    tx: &mut PgTransaction<'_>,
    definition: &str,
    business_key: &str,
) -> Result<Option<Loaded>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, tags::text as "tags!", status, paused,
                  late, reason, parked_reason, data::text as "data!", steps::text as "steps!",
                  locks::text as "locks!", timers::text as "timers!", waiting_for, waiting_step,
                  case when isfinite(look_at) then look_at end as look_at, ignored, seq,
                  statement_timestamp() as "now!"
           from saga.instance where business_key = $1 and definition = $2"#,
        business_key,
        definition
    )
    .fetch_optional(&mut **tx)
    .await?;
    row.map(Row::parse).transpose()
}

/// Events of one saga; the first of them gets the number after `last_seq`.
pub(crate) struct History<'a> {
    pub(crate) saga_id: Uuid,
    pub(crate) last_seq: i64,
    pub(crate) events: &'a [Event],
    /// Of each event.
    pub(crate) origins: &'a [Option<Origin>],
}

/// Appends to histories.
pub(crate) async fn append_events(
    tx: &mut PgTransaction<'_>,
    histories: &[History<'_>],
) -> Result<(), Error> {
    let new = Recorded::of(histories)?;
    sqlx::query!(
        "insert into saga.event (saga_id, seq, kind, body, origin)
         select new.saga_id, new.seq, new.kind, new.body::json, new.origin::json
         from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[])
              as new (saga_id, seq, kind, body, origin)",
        &new.ids,
        &new.seqs,
        &new.kinds,
        &new.bodies,
        new.origins as Vec<Option<String>>
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// When the actions of sagas were first sent, by their operations.
pub(crate) type Begun = HashMap<Operation, DateTime<Utc>>;

/// When the actions of these sagas were first sent.
pub(crate) async fn first_sendings(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<Begun, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select sent.saga_id as "saga_id!", sent.body ->> 'step' as "step!",
                  sent.body ->> 'round' as "round!", min(sent.recorded_at) as "at!"
           from unnest($1::uuid[]) as asked (saga_id)
           cross join lateral (
               select saga_id, body, recorded_at from saga.event
               where saga_id = asked.saga_id and kind = 'command_sent'
               offset 0) as sent
           where sent.body ->> 'phase' = $2
           group by 1, 2, 3"#,
        sagas,
        Phase::Action.as_str()
    )
    .fetch_all(&mut **tx)
    .await?;
    let begun = rows.into_iter().filter_map(|row| {
        let operation = Operation {
            saga_id: row.saga_id,
            step: row.step,
            phase: Phase::Action,
            round: row.round.parse().ok()?,
        };
        Some((operation, row.at))
    });
    Ok(begun.collect())
}

/// Events as columns.
#[derive(Default)]
struct Recorded {
    ids: Vec<Uuid>,
    seqs: Vec<i64>,
    kinds: Vec<String>,
    bodies: Vec<String>,
    origins: Vec<Option<String>>,
}

impl Recorded {
    fn of(histories: &[History<'_>]) -> Result<Self, Error> {
        let mut recorded = Self::default();
        for history in histories {
            let told = history.events.iter().zip(history.origins);
            for (seq, (event, origin)) in (history.last_seq + 1..).zip(told) {
                let origin = origin.as_ref().map(|origin| text(history.saga_id, origin));
                recorded.origins.push(origin.transpose()?);
                recorded.ids.push(history.saga_id);
                recorded.seqs.push(seq);
                recorded.kinds.push(event.kind().to_owned());
                recorded.bodies.push(text(history.saga_id, event)?);
            }
        }
        Ok(recorded)
    }
}

/// An event that a person should look at.
pub(crate) struct Anomaly<'a> {
    pub(crate) saga_id: Uuid,
    pub(crate) seq: i64,
    pub(crate) kind: &'static str,
    pub(crate) definition: &'a str,
    pub(crate) step: &'a str,
    pub(crate) phase: Phase,
    pub(crate) round: i32,
    pub(crate) outcome: Outcome,
}

impl<'a> Anomaly<'a> {
    /// If the event is one.
    pub(crate) fn of(instance: &'a Instance, seq: i64, event: &'a Event) -> Option<Self> {
        let (kind, step, phase, round, outcome) = match event {
            Event::Ignored {
                reason,
                step,
                phase,
                round,
                outcome,
                ..
            } if IgnoredBecause::is_anomaly(*reason) => {
                (reason.as_str(), step, *phase, *round, *outcome)
            }
            Event::AnomalyFound {
                step,
                round,
                outcome,
            } => {
                let kind = outcome.as_str();
                (kind, step, Phase::Compensation, *round, *outcome)
            }
            _ => return None,
        };
        Some(Self {
            saga_id: instance.id,
            seq,
            kind,
            definition: &instance.definition,
            step,
            phase,
            round,
            outcome,
        })
    }
}

/// Puts anomalies on the list.
pub(crate) async fn insert_anomalies(
    tx: &mut PgTransaction<'_>,
    anomalies: &[Anomaly<'_>],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = anomalies.iter().map(|a| a.saga_id).collect();
    let seqs: Vec<i64> = anomalies.iter().map(|a| a.seq).collect();
    let kinds: Vec<String> = anomalies.iter().map(|a| a.kind.to_owned()).collect();
    let definitions: Vec<String> = anomalies.iter().map(|a| a.definition.to_owned()).collect();
    let steps: Vec<String> = anomalies.iter().map(|a| a.step.to_owned()).collect();
    let phases: Vec<String> = anomalies.iter().map(|a| a.phase.to_string()).collect();
    let rounds: Vec<i32> = anomalies.iter().map(|a| a.round).collect();
    let outcomes: Vec<String> = anomalies.iter().map(|a| a.outcome.to_string()).collect();
    sqlx::query!(
        "insert into saga.anomaly (saga_id, seq, kind, definition, step, phase, round, outcome)
         select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[],
                              $6::text[], $7::integer[], $8::text[])",
        &ids,
        &seqs,
        &kinds,
        &definitions,
        &steps,
        &phases,
        &rounds,
        &outcomes
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The timers of a saga whose row is locked and that has not moved on otherwise.
pub(crate) struct Rescheduled<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) agenda: &'a Agenda,
    pub(crate) look_at: Option<DateTime<Utc>>,
    /// Whether it waits for the relay.
    pub(crate) put_off: bool,
}

impl Rescheduled<'_> {
    fn waiting(&self) -> (Option<String>, Option<DateTime<Utc>>) {
        let Some(waiting) = self.instance.waiting() else {
            return (None, None);
        };
        let what = match self.put_off {
            true => WaitingFor::Relay,
            false => waiting.what,
        };
        let until = self.agenda.until(&waiting.step, waiting.phase.as_str());
        (Some(what.to_string()), until)
    }
}

/// Writes the timers of sagas whose locks are held and that have not moved on otherwise.
pub(crate) async fn reschedule(
    tx: &mut PgTransaction<'_>,
    sagas: &[Rescheduled<'_>],
) -> Result<(), Error> {
    let ids: Vec<Uuid> = sagas.iter().map(|saga| saga.instance.id).collect();
    let timers = sagas.iter().map(|saga| text(saga.instance.id, saga.agenda));
    let timers: Vec<String> = timers.collect::<Result<_, _>>()?;
    let looks: Vec<_> = sagas.iter().map(|saga| saga.look_at).collect();
    let (waiting, untils): (Vec<_>, Vec<_>) = sagas.iter().map(Rescheduled::waiting).unzip();
    sqlx::query!(
        "update saga.instance i
         set timers = new.timers::json, look_at = new.look_at, failures = 0,
             waiting_for = new.waiting_for, waiting_until = new.waiting_until
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::timestamptz[])
              with ordinality as new (id, timers, look_at, waiting_for, waiting_until, place)
         where i.id = new.id and new.timers > '' and new.place > 0",
        &ids,
        &timers,
        looks as Vec<Option<DateTime<Utc>>>,
        waiting as Vec<Option<String>>,
        untils as Vec<Option<DateTime<Utc>>>
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Gives sagas whose locks are held a timer that is due, for each claim that was granted.
pub(crate) async fn wake(
    tx: &mut PgTransaction<'_>,
    granted: &[Granted],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = granted.iter().map(|granted| granted.saga_id).collect();
    let resources: Vec<String> = granted.iter().map(|g| g.resource.clone()).collect();
    sqlx::query!(
        r"update saga.instance i
         -- As text, so that no content of a row can fail the others; what is no list stays as it
         -- is and is found out when it is read.
         set timers = case when json_typeof(i.timers) = 'array' then
                 (regexp_replace(i.timers::text, '\s*\]\s*$', '')
                  || case when json_array_length(i.timers) > 0 then ',' else '' end
                  || substr(new.timers::text, 2))::json
                 else i.timers end,
             look_at = case when not (i.status = 'parked' and i.waiting_step = '')
                            then statement_timestamp() end
         from (select saga_id, jsonb_agg(jsonb_build_array(
                   resource, $3::text, 0, 0,
                   (extract(epoch from statement_timestamp()) * 1e6)::bigint)) as timers
               from unnest($1::uuid[], $2::text[]) with ordinality
                    as granted (saga_id, resource, place)
               where resource > '' and place > 0
               group by saga_id) as new
         where i.id = new.saga_id",
        &ids,
        &resources,
        agenda::LOCK
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Versions of definitions, as two columns.
#[derive(Debug, Default, Clone)]
pub(crate) struct Versions {
    pub(crate) names: Vec<String>,
    pub(crate) versions: Vec<i32>,
}

/// The moment, if no saga's timers have to be looked at that have become due since then.
pub(crate) async fn nothing_due(
    tx: &mut PgTransaction<'_>,
    since: Option<DateTime<Utc>>,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        "select case when coalesce(min(look_at) > statement_timestamp(), true)
                     then statement_timestamp() end
         from saga.instance where look_at >= coalesce($1::timestamptz, '-infinity')",
        since
    )
    .fetch_one(&mut **tx)
    .await
}

/// Locks and reads up to `limit` sagas of these versions whose timers have to be looked at and that
/// nobody else holds, the longest overdue first. What is found is twice as much as is taken, so that
/// a second replica finds what the first leaves. In two steps, the second by an array of ids.
pub(crate) async fn lock_due_instances(
    tx: &mut PgTransaction<'_>,
    known: &Versions,
    since: Option<DateTime<Utc>>,
    limit: i64,
) -> Result<Vec<Locked>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, tags::text as "tags!", status, paused,
                  late, reason, parked_reason, data::text as "data!", steps::text as "steps!",
                  locks::text as "locks!", timers::text as "timers!", waiting_for, waiting_step,
                  case when isfinite(look_at) then look_at end as look_at, ignored, seq,
                  statement_timestamp() as "now!"
           from saga.instance
           where id = any (array(
               select due.id from saga.instance due
               where due.look_at <= statement_timestamp()
                 and due.look_at >= coalesce($4::timestamptz, '-infinity')
                 and exists (
                     select from unnest($1::text[], $2::integer[]) as known (name, version)
                     where known.name = due.definition and known.version = due.version offset 0)
                 -- It has its answer: that is decided before anything is overdue. Not waited for
                 -- where it goes on failing.
                 and not exists (
                     select from saga.pending kept
                     where kept.saga_id = due.id and kept.not_before is not null
                       and kept.failures < 5 offset 0)
               order by due.look_at limit 2 * $3::bigint))
           order by id limit $3::bigint for update skip locked"#,
        &known.names,
        &known.versions,
        limit,
        since
    )
    .fetch_all(&mut **tx)
    .await?;
    let locked = rows.into_iter().map(Row::locked);
    Ok(locked.collect())
}

/// In which transaction each of these attempts was last sent; none where the history does not say.
pub(crate) async fn sent_in(
    tx: &mut PgTransaction<'_>,
    attempts: &[(Uuid, Attempt)],
) -> Result<Vec<Option<String>>, sqlx::Error> {
    let ids: Vec<Uuid> = attempts.iter().map(|(id, _)| *id).collect();
    let steps: Vec<String> = attempts.iter().map(|(_, a)| a.step.clone()).collect();
    let phases: Vec<String> = attempts.iter().map(|(_, a)| a.phase.to_string()).collect();
    let rounds: Vec<String> = attempts.iter().map(|(_, a)| a.round.to_string()).collect();
    let numbers: Vec<String> = attempts
        .iter()
        .map(|(_, a)| a.attempt.to_string())
        .collect();
    sqlx::query_scalar!(
        r#"select (select e.xid::text from saga.event e
                   where e.saga_id = asked.saga_id and e.kind in ('command_sent', 'probe_sent')
                     and e.body ->> 'step' = asked.step and e.body ->> 'round' = asked.round
                     and e.body ->> 'attempt' = asked.attempt
                     and coalesce(e.body ->> 'phase', 'action') = asked.phase
                   order by e.seq desc limit 1) as xid
           from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) with ordinality
                as asked (saga_id, step, phase, round, attempt, place)
           order by asked.place"#,
        &ids,
        &steps,
        &phases,
        &rounds,
        &numbers
    )
    .fetch_all(&mut **tx)
    .await
}

/// The `traceparent` that each of these sagas was last on, of those that were on one within the last
/// hour. A saga may live for weeks; a trace should not, and whoever samples or stores it expects its
/// spans together.
pub(crate) async fn last_traces(
    tx: &mut PgTransaction<'_>,
    ids: &[Uuid],
) -> Result<BTreeMap<Uuid, String>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select saga.id as "id!", last.trace as "trace!"
           from unnest($1::uuid[]) as saga (id)
           cross join lateral (
               select origin ->> 'trace' as trace from saga.event
               where saga_id = saga.id and origin ->> 'trace' is not null
                 and recorded_at > statement_timestamp() - interval '1 hour'
               order by seq desc limit 1) as last"#,
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.trace)).collect())
}

/// Parks a saga as a whole, without reading anything of it: its steps, timers and data stay as they
/// are. One that is parked as a whole already stays as it is.
pub(crate) async fn stop(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    reason: &str,
) -> Result<Stopped, sqlx::Error> {
    let known = sqlx::query!(
        r#"with known as (
               select id, status, waiting_step, definition,
                      -- What the history says counts, whatever number the row has.
                      coalesce((select max(seq) from saga.event e where e.saga_id = i.id), 0) as seq
               from saga.instance i where id = $1 and ended_at is null for update),
           stopped as (
               update saga.instance i set
                   status = 'parked', parked_reason = $2, seq = known.seq + 1, look_at = null,
                   failures = 0, waiting_for = 'person', waiting_step = '', waiting_phase = 'action',
                   waiting_round = 0, waiting_attempt = 0, waiting_until = null,
                   updated_at = statement_timestamp()
               from known
               where i.id = known.id
                 and not (known.status = 'parked' and known.waiting_step is not distinct from '')
               returning i.id, i.seq),
           recorded as (
               insert into saga.event (saga_id, seq, kind, body)
               select id, seq, 'parked', json_build_object('type', 'parked', 'step', '',
                   'reason', $2::text, 'awaits_reply', false)
               from stopped)
           select definition as "definition!", exists (select from stopped) as "now!" from known"#,
        id,
        reason
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(match known {
        Some(known) if known.now => Stopped::Now(known.definition),
        Some(_) => Stopped::Already,
        None => Stopped::Gone,
    })
}

/// What became of [`stop`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It is parked from now on. Its definition's name.
    Now(String),
    /// It was before.
    Already,
    /// It has ended, or is not here.
    Gone,
}

/// Fails where a statement of the transaction has failed and nobody said so: PostgreSQL would answer
/// the commit with a rollback, and nobody would hear of it.
pub(crate) async fn must_be_alive(tx: &mut PgTransaction<'_>) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!("select 1 as alive")
        .fetch_one(&mut **tx)
        .await?;
    Ok(())
}

/// Puts off looking at the timers of a saga whose firing failed, each time for longer, up to five
/// minutes.
pub(crate) async fn postpone_timers(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.instance
         set failures = failures + 1,
             look_at = statement_timestamp()
                       + least(power(2, least(failures, 20)), 300) * interval '1 second'
         where id = $1 and look_at <= statement_timestamp()",
        id
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A row of `saga.instance`.
struct Row {
    id: Uuid,
    definition: String,
    version: i32,
    hash: String,
    business_key: String,
    // JSON as text, so that what cannot be decoded is one row's fault and not the statement's.
    tags: String,
    status: String,
    paused: bool,
    late: bool,
    reason: Option<String>,
    parked_reason: Option<String>,
    data: String,
    steps: String,
    locks: String,
    timers: String,
    waiting_for: Option<String>,
    waiting_step: Option<String>,
    look_at: Option<DateTime<Utc>>,
    ignored: i32,
    seq: i64,
    now: DateTime<Utc>,
}

impl Row {
    fn locked(self) -> Locked {
        Locked {
            id: self.id,
            loaded: self.parse(),
        }
    }

    fn parse(self) -> Result<Loaded, Error> {
        let id = self.id;
        let status: Status = self.status.parse().map_err(|e| corrupt(id, e))?;
        let instance = Instance {
            id,
            definition: self.definition,
            version: self.version,
            hash: self.hash,
            business_key: self.business_key,
            tags: column(id, "tags", &self.tags)?,
            status,
            paused: self.paused,
            late: self.late,
            reason: self.reason,
            parked_reason: self.parked_reason,
            stopped: status == Status::Parked && self.waiting_step.is_some_and(|s| s.is_empty()),
            data: column(id, "data", &self.data)?,
            steps: column(id, "steps", &self.steps)?,
            locks: column(id, "locks", &self.locks)?,
            ignored: self.ignored,
            seq: self.seq,
        };
        let agenda: Agenda = column(id, "timers", &self.timers)?;
        agenda.check().map_err(|error| corrupt(id, error))?;
        Ok(Loaded {
            instance,
            agenda,
            look_at: self.look_at,
            put_off: self.waiting_for.as_deref() == Some(WaitingFor::Relay.as_str()),
            now: self.now,
        })
    }
}

/// The five columns that say what a saga waits for: all of them, or none.
pub(crate) fn waiting(
    id: Uuid,
    what: Option<String>,
    step: Option<String>,
    phase: Option<String>,
    round: Option<i32>,
    attempt: Option<i32>,
) -> Result<Option<Waiting>, Error> {
    let (Some(what), Some(step), Some(phase), Some(round), Some(attempt)) =
        (what, step, phase, round, attempt)
    else {
        return Ok(None);
    };
    Ok(Some(Waiting {
        what: what.parse().map_err(|e| corrupt(id, e))?,
        step,
        phase: phase.parse().map_err(|e| corrupt(id, e))?,
        round,
        attempt,
    }))
}

/// Any column of JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(id: Uuid, json: Value) -> Result<T, Error> {
    serde_json::from_value(json).map_err(|error| corrupt(id, error))
}

/// PostgreSQL keeps no NUL in text or in JSON.
pub(crate) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(k, v)| k.contains('\0') || has_nul(v)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A row of this saga that nobody can read.
pub(crate) fn corrupt(saga_id: Uuid, reason: impl ToString) -> Error {
    Error::Corrupt {
        saga_id,
        reason: reason.to_string(),
    }
}

/// A step's state as an array, in the order in which [`StepState`] declares it; what it lacks at the
/// end is left out. A row is written at each turn, and objects are twice as long.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum StepRow<'a> {
    Quiet(&'a str, StepStatus, i32, i32),
    Waiting(&'a str, StepStatus, i32, i32, Option<WaitingFor>),
    Answered(&'a str, StepStatus, i32, i32, Option<WaitingFor>, &'a str),
}

impl<'a> StepRow<'a> {
    fn of(step: &'a StepState) -> Self {
        let (name, status, round, attempt) = (&step.name, step.status, step.round, step.attempt);
        match (step.waiting, &step.answer) {
            (None, None) => Self::Quiet(name, status, round, attempt),
            (waiting, None) => Self::Waiting(name, status, round, attempt, waiting),
            (waiting, Some(answer)) => {
                Self::Answered(name, status, round, attempt, waiting, answer)
            }
        }
    }
}

fn steps_text(id: Uuid, steps: &[StepState]) -> Result<String, Error> {
    let rows: Vec<StepRow<'_>> = steps.iter().map(StepRow::of).collect();
    text(id, &rows)
}

fn column<T: serde::de::DeserializeOwned>(id: Uuid, name: &str, json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| {
        let reason = match name {
            // Words and numbers of ours: which of them is unknown may be said.
            "steps" => error.to_string(),
            _ => without_content(&error),
        };
        corrupt(id, format!("column {name}: {reason}"))
    })
}

fn text(id: Uuid, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| corrupt(id, error))
}

fn json(id: Uuid, value: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|error| corrupt(id, error))
}

/// No longer than [`agenda::LONGEST`].
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().min(agenda::LONGEST.as_seconds_f64())
}
