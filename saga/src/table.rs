//! Every statement about sagas. One function per statement, named as the sentence.
//!
//! Promised: rows go in and out as the types of this crate, or not at all. A row nobody can read
//! is an error with the saga's id, never a panic. The clock is the database's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    Error,
    event::{Attempt, Event, IgnoredBecause, Timer},
    instance::{Instance, StepState, Waiting},
    operation::Phase,
    wire::Outcome,
};

/// READ COMMITTED whatever the server's default: each statement must see what others committed.
pub(crate) const BEGIN: &str = "begin isolation level read committed";

/// An instance with the moment it was read at.
pub(crate) struct Loaded {
    pub(crate) instance: Instance,
    pub(crate) now: DateTime<Utc>,
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

/// Inserts a saga, unless its id or its business key is taken. Returns the moment if it did.
pub(crate) async fn insert_instance(
    tx: &mut PgTransaction<'_>,
    instance: &Instance,
    waits: Option<Duration>,
) -> Result<Option<DateTime<Utc>>, Error> {
    let waiting = instance.waiting();
    let waiting = waiting.as_ref();
    let now = sqlx::query_scalar!(
        r#"insert into saga.instance
             (id, definition, version, hash, business_key, tags, status, paused, late, reason,
              parked_reason, data, steps, locks, waiting_for, waiting_step, waiting_phase,
              waiting_round, waiting_attempt, waiting_until, seq, ended_at)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                   $19, statement_timestamp() + $20 * interval '1 millisecond', $21,
                   case when $22 then statement_timestamp() end)
           on conflict do nothing
           returning statement_timestamp() as "now!""#,
        instance.id,
        instance.definition,
        instance.version,
        instance.hash,
        instance.business_key,
        json(instance.id, &instance.tags)?,
        instance.status.as_str(),
        instance.paused,
        instance.late,
        instance.reason,
        instance.parked_reason,
        instance.data,
        json(instance.id, &instance.steps)?,
        json(instance.id, &instance.locks)?,
        waiting.map(|w| w.what.as_str()),
        waiting.map(|w| w.step.as_str()),
        waiting.map(|w| w.phase.as_str()),
        waiting.map(|w| w.round),
        waiting.map(|w| w.attempt),
        waits.map(millis),
        instance.seq,
        instance.status.is_terminal(),
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(now)
}

/// A saga that has moved on, and from where.
pub(crate) struct Moved<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) expected_seq: i64,
    pub(crate) waits: Option<Duration>,
}

/// Moves sagas on, each from its `expected_seq`. Returns how many were; fewer if somebody else
/// already did.
pub(crate) async fn update_instances(
    tx: &mut PgTransaction<'_>,
    moved: &[Moved<'_>],
) -> Result<u64, Error> {
    let waiting: Vec<Option<Waiting>> = moved.iter().map(|m| m.instance.waiting()).collect();
    let of = |field: fn(&Waiting) -> String| -> Vec<Option<String>> {
        waiting.iter().map(|w| w.as_ref().map(field)).collect()
    };
    let number = |field: fn(&Waiting) -> i32| -> Vec<Option<i32>> {
        waiting.iter().map(|w| w.as_ref().map(field)).collect()
    };
    let instances = || moved.iter().map(|moved| moved.instance);
    let jsons = |field: fn(&Instance) -> Result<Value, Error>| -> Result<Vec<Value>, Error> {
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
    let data: Vec<Value> = instances().map(|i| i.data.clone()).collect();
    let steps = jsons(|i| json(i.id, &i.steps))?;
    let locks = jsons(|i| json(i.id, &i.locks))?;
    let waits: Vec<Option<f64>> = moved.iter().map(|m| m.waits.map(millis)).collect();
    let seqs: Vec<i64> = instances().map(|i| i.seq).collect();
    let done = sqlx::query!(
        "update saga.instance i set
             version = new.version, hash = new.hash, status = new.status, paused = new.paused,
             late = new.late, reason = new.reason, parked_reason = new.parked_reason,
             data = new.data, steps = new.steps, locks = new.locks, waiting_for = new.waiting_for,
             waiting_step = new.waiting_step, waiting_phase = new.waiting_phase,
             waiting_round = new.waiting_round, waiting_attempt = new.waiting_attempt,
             waiting_until = statement_timestamp() + new.waits * interval '1 millisecond',
             seq = new.seq, updated_at = statement_timestamp(),
             ended_at = case when new.waiting_for is null
                             then coalesce(i.ended_at, statement_timestamp()) end
         from unnest($1::uuid[], $2::bigint[], $3::integer[], $4::text[], $5::text[], $6::boolean[],
                     $7::boolean[], $8::text[], $9::text[], $10::jsonb[], $11::jsonb[],
                     $12::jsonb[], $13::text[], $14::text[], $15::text[], $16::integer[],
                     $17::integer[], $18::float8[], $19::bigint[])
              as new (id, expected, version, hash, status, paused, late, reason, parked_reason, data,
                      steps, locks, waiting_for, waiting_step, waiting_phase, waiting_round,
                      waiting_attempt, waits, seq)
         where i.id = new.id and i.seq = new.expected",
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
        waits as Vec<Option<f64>>,
        &seqs,
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Records that histories grew by events that left their sagas' states alone. Returns how many.
pub(crate) async fn advance_seqs(
    tx: &mut PgTransaction<'_>,
    moved: &[Moved<'_>],
) -> Result<u64, sqlx::Error> {
    let ids: Vec<Uuid> = moved.iter().map(|m| m.instance.id).collect();
    let expected: Vec<i64> = moved.iter().map(|m| m.expected_seq).collect();
    let seqs: Vec<i64> = moved.iter().map(|m| m.instance.seq).collect();
    let done = sqlx::query!(
        "update saga.instance i set seq = new.seq
         from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as new (id, expected, seq)
         where i.id = new.id and i.seq = new.expected",
        &ids,
        &expected,
        &seqs
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Locks and reads sagas, in the one order in which everybody locks them.
pub(crate) async fn load_for_update(
    tx: &mut PgTransaction<'_>,
    ids: &[Uuid],
) -> Result<Vec<Loaded>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, tags, status, paused, late, reason,
                  parked_reason, data, steps, locks, seq, statement_timestamp() as "now!"
           from saga.instance where id = any($1) order by id for update"#,
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Row::parse).collect()
}

/// Reads the saga a business key belongs to.
pub(crate) async fn load_by_business_key(
    tx: &mut PgTransaction<'_>,
    definition: &str,
    business_key: &str,
) -> Result<Option<Loaded>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, tags, status, paused, late, reason,
                  parked_reason, data, steps, locks, seq, statement_timestamp() as "now!"
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
}

/// Appends to histories.
pub(crate) async fn append_events(
    tx: &mut PgTransaction<'_>,
    histories: &[History<'_>],
) -> Result<(), Error> {
    let (mut ids, mut seqs, mut kinds, mut bodies) = (vec![], vec![], vec![], vec![]);
    for history in histories {
        for (seq, event) in (history.last_seq + 1..).zip(history.events) {
            ids.push(history.saga_id);
            seqs.push(seq);
            kinds.push(event.kind().to_owned());
            bodies.push(json(history.saga_id, event)?);
        }
    }
    sqlx::query!(
        "insert into saga.event (saga_id, seq, kind, body)
         select new.saga_id, new.seq, new.kind, new.body
         from unnest($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[])
              as new (saga_id, seq, kind, body)",
        &ids,
        &seqs,
        &kinds,
        &bodies
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
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

/// What is to be done about sagas' timers. No saga, step and phase may stand in two of these.
#[derive(Default)]
pub(crate) struct TimerChanges {
    /// All of these sagas go.
    pub(crate) ended: Vec<Uuid>,
    pub(crate) clear: Vec<(Uuid, TimerKey)>,
    pub(crate) set: Vec<(Uuid, Timer, Duration)>,
}

/// What there is at most one timer for in a saga: step and phase.
pub(crate) type TimerKey = (String, &'static str);

/// The phase of a saga's own timer.
pub(crate) const DEADLINE: &str = "deadline";
/// The phase of a timer that stands for a granted claim; its step is the resource.
const LOCK: &str = "lock";

/// Where a timer stands in its table.
pub(crate) fn timer_key(timer: &Timer) -> TimerKey {
    match timer {
        Timer::Attempt(attempt) => (attempt.step.clone(), attempt.phase.as_str()),
        Timer::Deadline => (String::new(), DEADLINE),
        Timer::Lock { resource } => (resource.clone(), LOCK),
    }
}

/// Clears and sets timers of sagas whose locks are held.
pub(crate) async fn change_timers(
    tx: &mut PgTransaction<'_>,
    changes: &TimerChanges,
) -> Result<(), sqlx::Error> {
    let TimerChanges { ended, clear, set } = changes;
    let cleared_ids: Vec<Uuid> = clear.iter().map(|(id, _)| *id).collect();
    let cleared_steps: Vec<String> = clear.iter().map(|(_, (step, _))| step.clone()).collect();
    let cleared_phases: Vec<String> = clear.iter().map(|(_, (_, p))| (*p).to_owned()).collect();
    let ids: Vec<Uuid> = set.iter().map(|(id, ..)| *id).collect();
    let keys: Vec<TimerKey> = set.iter().map(|(_, timer, _)| timer_key(timer)).collect();
    let (steps, phases): (Vec<_>, Vec<_>) =
        keys.into_iter().map(|(s, p)| (s, p.to_owned())).unzip();
    let number = |timer: &Timer| match timer {
        Timer::Attempt(attempt) => (attempt.round, attempt.attempt),
        Timer::Deadline | Timer::Lock { .. } => (0, 0),
    };
    let (rounds, attempts): (Vec<_>, Vec<_>) =
        set.iter().map(|(_, timer, _)| number(timer)).unzip();
    let waits: Vec<f64> = set.iter().map(|(_, _, after)| millis(*after)).collect();
    sqlx::query!(
        "with ended as (delete from saga.timer where saga_id = any($1)),
         cleared as (
             delete from saga.timer
             using unnest($2::uuid[], $3::text[], $4::text[]) as gone (saga_id, step, phase)
             where timer.saga_id = gone.saga_id and timer.step = gone.step
               and timer.phase = gone.phase)
         insert into saga.timer (saga_id, step, phase, round, attempt, fire_at)
         select new.saga_id, new.step, new.phase, new.round, new.attempt,
                statement_timestamp() + new.wait * interval '1 millisecond'
         from unnest($5::uuid[], $6::text[], $7::text[], $8::integer[], $9::integer[], $10::float8[])
              as new (saga_id, step, phase, round, attempt, wait)
         on conflict on constraint timer_pkey do update
         set round = excluded.round, attempt = excluded.attempt, fire_at = excluded.fire_at,
             failures = 0",
        ended,
        &cleared_ids,
        &cleared_steps,
        &cleared_phases,
        &ids,
        &steps,
        &phases,
        &rounds,
        &attempts,
        &waits
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

/// Whether any timer is due.
pub(crate) async fn is_any_due(tx: &mut PgTransaction<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from saga.timer where fire_at <= statement_timestamp())
                  as "any!""#
    )
    .fetch_one(&mut **tx)
    .await
}

/// Locks and reads up to `limit` sagas of these versions that have a timer due and that nobody
/// else holds, the longest overdue first. Timers are found without locking them: timer then
/// instance against instance then timer would deadlock. What is found is twice as much as is
/// taken, so that a second replica finds what the first leaves. In two steps, the second by an
/// array of ids: whatever the statistics say, neither can walk over all sagas.
pub(crate) async fn lock_due_instances(
    tx: &mut PgTransaction<'_>,
    known: &Versions,
    limit: i64,
) -> Result<Vec<Loaded>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, tags, status, paused, late, reason,
                  parked_reason, data, steps, locks, seq, statement_timestamp() as "now!"
           from saga.instance
           where id = any (array(
               select timer.saga_id from saga.timer
               cross join lateral (
                   select from saga.instance i
                   where i.id = timer.saga_id
                     and (i.definition, i.version) in (
                         select * from unnest($1::text[], $2::integer[]))
                   offset 0) as known
               where timer.fire_at <= statement_timestamp()
               order by timer.fire_at limit 2 * $3::bigint))
           order by id limit $3::bigint for update skip locked"#,
        &known.names,
        &known.versions,
        limit
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Row::parse).collect()
}

/// Takes the due timers of sagas whose locks are held, the longest overdue first.
pub(crate) async fn take_due_timers(
    tx: &mut PgTransaction<'_>,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Timer)>, Error> {
    let rows = sqlx::query!(
        r#"with due as (
               delete from saga.timer
               where saga_id = any($1) and fire_at <= statement_timestamp()
               returning saga_id, step, phase, round, attempt, fire_at)
           select saga_id as "saga_id!", step as "step!", phase as "phase!", round as "round!",
                  attempt as "attempt!"
           from due order by fire_at, saga_id, step"#,
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let timers = rows.into_iter().map(|row| {
        match row.phase.as_str() {
            DEADLINE => return Ok((row.saga_id, Timer::Deadline)),
            LOCK => {
                let resource = row.step;
                return Ok((row.saga_id, Timer::Lock { resource }));
            }
            _ => {}
        }
        let phase = row.phase.parse();
        let attempt = Attempt {
            step: row.step,
            phase: phase.map_err(|error| corrupt(row.saga_id, error))?,
            round: row.round,
            attempt: row.attempt,
        };
        Ok((row.saga_id, Timer::Attempt(attempt)))
    });
    timers.collect()
}

/// Puts off the due timers of a saga whose firing failed, each time for longer, up to five
/// minutes. Takes the instance's lock like everybody who touches a timer.
pub(crate) async fn postpone_timers(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!("select id from saga.instance where id = $1 for update", id)
        .fetch_optional(&mut **tx)
        .await?;
    sqlx::query!(
        "update saga.timer
         set failures = failures + 1,
             fire_at = statement_timestamp()
                       + least(power(2, least(failures, 20)), 300) * interval '1 second'
         where saga_id = $1 and fire_at <= statement_timestamp()",
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
    tags: Value,
    status: String,
    paused: bool,
    late: bool,
    reason: Option<String>,
    parked_reason: Option<String>,
    data: Value,
    steps: Value,
    locks: Value,
    seq: i64,
    now: DateTime<Utc>,
}

impl Row {
    fn parse(self) -> Result<Loaded, Error> {
        let id = self.id;
        let instance = Instance {
            id,
            definition: self.definition,
            version: self.version,
            hash: self.hash,
            business_key: self.business_key,
            tags: from_json(id, self.tags)?,
            status: self.status.parse().map_err(|e| corrupt(id, e))?,
            paused: self.paused,
            late: self.late,
            reason: self.reason,
            parked_reason: self.parked_reason,
            data: self.data,
            steps: parse_steps(id, self.steps)?,
            locks: from_json(id, self.locks)?,
            seq: self.seq,
        };
        Ok(Loaded {
            instance,
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

/// The column that holds every step's state.
pub(crate) fn parse_steps(id: Uuid, steps: Value) -> Result<Vec<StepState>, Error> {
    from_json(id, steps)
}

/// Any column of JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(id: Uuid, json: Value) -> Result<T, Error> {
    serde_json::from_value(json).map_err(|error| corrupt(id, error))
}

/// A row of this saga that nobody can read.
pub(crate) fn corrupt(saga_id: Uuid, reason: impl ToString) -> Error {
    Error::Corrupt {
        saga_id,
        reason: reason.to_string(),
    }
}

fn json(id: Uuid, value: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|error| corrupt(id, error))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
