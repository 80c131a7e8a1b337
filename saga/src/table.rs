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
    event::{Event, Timer},
    instance::{Instance, StepState, Waiting},
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
    let waiting = instance.waiting.as_ref();
    let now = sqlx::query_scalar!(
        r#"insert into saga.instance
             (id, definition, version, hash, business_key, status, reason, parked_reason, data, steps,
              waiting_for, waiting_step, waiting_phase, waiting_round, waiting_attempt, waiting_until, seq)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                   statement_timestamp() + $16 * interval '1 millisecond', $17)
           on conflict do nothing
           returning statement_timestamp() as "now!""#,
        instance.id,
        instance.definition,
        instance.version,
        instance.hash,
        instance.business_key,
        instance.status.as_str(),
        instance.reason,
        instance.parked_reason,
        instance.data,
        steps(instance)?,
        waiting.map(|w| w.what.as_str()),
        waiting.map(|w| w.step.as_str()),
        waiting.map(|w| w.phase.as_str()),
        waiting.map(|w| w.round),
        waiting.map(|w| w.attempt),
        waits.map(millis),
        instance.seq,
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(now)
}

/// Moves a saga on from `expected_seq`. False if somebody else already did.
pub(crate) async fn update_instance(
    tx: &mut PgTransaction<'_>,
    instance: &Instance,
    expected_seq: i64,
    waits: Option<Duration>,
) -> Result<bool, Error> {
    let waiting = instance.waiting.as_ref();
    let done = sqlx::query!(
        "update saga.instance set
             status = $3, reason = $4, parked_reason = $5, data = $6, steps = $7,
             waiting_for = $8, waiting_step = $9, waiting_phase = $10, waiting_round = $11,
             waiting_attempt = $12,
             waiting_until = statement_timestamp() + $13 * interval '1 millisecond',
             seq = $14, updated_at = statement_timestamp()
         where id = $1 and seq = $2",
        instance.id,
        expected_seq,
        instance.status.as_str(),
        instance.reason,
        instance.parked_reason,
        instance.data,
        steps(instance)?,
        waiting.map(|w| w.what.as_str()),
        waiting.map(|w| w.step.as_str()),
        waiting.map(|w| w.phase.as_str()),
        waiting.map(|w| w.round),
        waiting.map(|w| w.attempt),
        waits.map(millis),
        instance.seq,
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records that a saga's history grew by events that left its state alone. False if somebody else
/// moved it on.
pub(crate) async fn advance_seq(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    expected_seq: i64,
    seq: i64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update saga.instance set seq = $3 where id = $1 and seq = $2",
        id,
        expected_seq,
        seq
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Locks many sagas at once, in the one order in which everybody does.
pub(crate) async fn lock_instances(
    tx: &mut PgTransaction<'_>,
    ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(
        "select id from saga.instance where id = any($1) order by id for update",
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(())
}

/// Locks and reads one saga.
pub(crate) async fn load_for_update(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
) -> Result<Option<Loaded>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, status, reason, parked_reason, data,
                  steps, waiting_for, waiting_step, waiting_phase, waiting_round, waiting_attempt,
                  seq, statement_timestamp() as "now!"
           from saga.instance where id = $1 for update"#,
        id
    )
    .fetch_optional(&mut **tx)
    .await?;
    row.map(Row::parse).transpose()
}

/// Reads the saga a business key belongs to.
pub(crate) async fn load_by_business_key(
    tx: &mut PgTransaction<'_>,
    definition: &str,
    business_key: &str,
) -> Result<Option<Loaded>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, definition, version, hash, business_key, status, reason, parked_reason, data,
                  steps, waiting_for, waiting_step, waiting_phase, waiting_round, waiting_attempt,
                  seq, statement_timestamp() as "now!"
           from saga.instance where business_key = $1 and definition = $2"#,
        business_key,
        definition
    )
    .fetch_optional(&mut **tx)
    .await?;
    row.map(Row::parse).transpose()
}

/// Appends to a saga's history; the first of the events gets the number after `last_seq`.
pub(crate) async fn append_events(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    last_seq: i64,
    events: &[Event],
) -> Result<(), Error> {
    let seqs: Vec<i64> = (last_seq + 1..).take(events.len()).collect();
    let kinds: Vec<String> = events.iter().map(|event| event.kind().to_owned()).collect();
    let bodies = events.iter().map(serde_json::to_value);
    let bodies: Vec<Value> = bodies
        .collect::<Result<_, _>>()
        .map_err(|e| corrupt(id, e))?;
    sqlx::query!(
        "insert into saga.event (saga_id, seq, kind, body)
         select $1, new.seq, new.kind, new.body
         from unnest($2::bigint[], $3::text[], $4::jsonb[]) as new (seq, kind, body)",
        id,
        &seqs,
        &kinds,
        &bodies
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What is to be done about a saga's timers.
#[derive(Default)]
pub(crate) struct TimerChanges {
    pub(crate) clear: Vec<(String, &'static str)>,
    pub(crate) set: Vec<(Timer, Duration)>,
}

/// Clears and sets timers of a saga whose lock is held. No step and phase may stand in both lists.
pub(crate) async fn change_timers(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
    changes: &TimerChanges,
) -> Result<(), sqlx::Error> {
    let TimerChanges { clear, set } = changes;
    let cleared_steps: Vec<String> = clear.iter().map(|(step, _)| step.clone()).collect();
    let cleared_phases: Vec<String> = clear.iter().map(|(_, p)| (*p).to_owned()).collect();
    let steps: Vec<String> = set.iter().map(|(timer, _)| timer.step.clone()).collect();
    let phases: Vec<String> = set.iter().map(|(t, _)| t.phase.to_string()).collect();
    let rounds: Vec<i32> = set.iter().map(|(timer, _)| timer.round).collect();
    let attempts: Vec<i32> = set.iter().map(|(timer, _)| timer.attempt).collect();
    let waits: Vec<f64> = set.iter().map(|(_, after)| millis(*after)).collect();
    sqlx::query!(
        "with cleared as (
             delete from saga.timer
             using unnest($2::text[], $3::text[]) as gone (step, phase)
             where timer.saga_id = $1 and timer.step = gone.step and timer.phase = gone.phase)
         insert into saga.timer (saga_id, step, phase, round, attempt, fire_at)
         select $1, new.step, new.phase, new.round, new.attempt,
                statement_timestamp() + new.wait * interval '1 millisecond'
         from unnest($4::text[], $5::text[], $6::integer[], $7::integer[], $8::float8[])
              as new (step, phase, round, attempt, wait)
         on conflict on constraint timer_pkey do update
         set round = excluded.round, attempt = excluded.attempt, fire_at = excluded.fire_at,
             failures = 0",
        id,
        &cleared_steps,
        &cleared_phases,
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

/// Locks one saga that has a timer due and that nobody else holds. Timers are found without
/// locking them: timer then instance against instance then timer would deadlock.
pub(crate) async fn lock_due_instance(
    tx: &mut PgTransaction<'_>,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from saga.instance
         where id in (select saga_id from saga.timer
                      where fire_at <= statement_timestamp() order by fire_at limit 64)
         limit 1 for update skip locked"
    )
    .fetch_optional(&mut **tx)
    .await
}

/// Takes the due timers of a saga whose lock is held.
pub(crate) async fn take_due_timers(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
) -> Result<Vec<Timer>, Error> {
    let rows = sqlx::query!(
        "delete from saga.timer where saga_id = $1 and fire_at <= statement_timestamp()
         returning step, phase, round, attempt",
        id
    )
    .fetch_all(&mut **tx)
    .await?;
    let timers = rows.into_iter().map(|row| {
        Ok(Timer {
            step: row.step,
            phase: row.phase.parse().map_err(|error| corrupt(id, error))?,
            round: row.round,
            attempt: row.attempt,
        })
    });
    timers.collect()
}

/// Puts off the due timers of a saga whose firing failed, each time for longer, up to five
/// minutes. Takes the instance's lock like everybody who touches a timer.
pub(crate) async fn postpone_timers(
    tx: &mut PgTransaction<'_>,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    lock_instances(tx, &[id]).await?;
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
    status: String,
    reason: Option<String>,
    parked_reason: Option<String>,
    data: Value,
    steps: Value,
    waiting_for: Option<String>,
    waiting_step: Option<String>,
    waiting_phase: Option<String>,
    waiting_round: Option<i32>,
    waiting_attempt: Option<i32>,
    seq: i64,
    now: DateTime<Utc>,
}

impl Row {
    fn parse(self) -> Result<Loaded, Error> {
        let id = self.id;
        let waiting = waiting(
            id,
            self.waiting_for,
            self.waiting_step,
            self.waiting_phase,
            self.waiting_round,
            self.waiting_attempt,
        )?;
        let instance = Instance {
            id,
            definition: self.definition,
            version: self.version,
            hash: self.hash,
            business_key: self.business_key,
            status: self.status.parse().map_err(|e| corrupt(id, e))?,
            reason: self.reason,
            parked_reason: self.parked_reason,
            data: self.data,
            steps: parse_steps(id, self.steps)?,
            waiting,
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
    serde_json::from_value(steps).map_err(|error| corrupt(id, error))
}

/// A row of this saga that nobody can read.
pub(crate) fn corrupt(saga_id: Uuid, reason: impl ToString) -> Error {
    Error::Corrupt {
        saga_id,
        reason: reason.to_string(),
    }
}

fn steps(instance: &Instance) -> Result<Value, Error> {
    serde_json::to_value(&instance.steps).map_err(|error| corrupt(instance.id, error))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
