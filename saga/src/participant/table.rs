//! Every statement about the barrier.
//!
//! Each needs READ COMMITTED: `on conflict do nothing` waits for a concurrent inserter, and only
//! the next statement's snapshot sees what that one committed. Hence two statements, never one
//! with a common table expression that reads the table.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgTransaction, postgres::types::PgInterval};
use uuid::Uuid;

use crate::{operation::Operation, wire::Outcome, words::words};

words! {
    /// How far an operation at the barrier is; the words of the column `saga.barrier.state`.
    pub enum State {
        /// The transaction that inserted its row is carrying it out.
        Claimed = "claimed",
        /// Its effect outside of the database may have begun.
        Running = "running",
        /// It is settled, and its answer stored.
        Answered = "answered",
    }
}

/// A row that was just inserted.
pub(crate) struct Inserted {
    /// Whether the command had expired by then.
    pub(crate) expired: bool,
}

/// An answer, as stored and as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) outcome: Outcome,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
}

/// What an external effect was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
}

/// The row of an operation.
#[derive(Debug)]
pub(crate) enum Found {
    Answered(Stored),
    Running(Asked),
}

/// What became of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Its row is there now.
    Noted,
    /// There was a row before.
    Known,
    /// The command has expired; nothing is noted.
    Expired,
}

/// Claims an operation, with its answer if that is known already. None if its row exists: a
/// concurrent inserter is waited for.
pub(crate) async fn insert(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    answer: Option<&Stored>,
    expires_at: DateTime<Utc>,
) -> Result<Option<Inserted>, sqlx::Error> {
    let state = match answer {
        Some(_) => State::Answered,
        None => State::Claimed,
    };
    let expired = sqlx::query_scalar!(
        r#"insert into saga.barrier
             (saga_id, step, round, phase, op_key, state, outcome, reply_kind, reply)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
           on conflict on constraint barrier_pkey do nothing
           returning $10::timestamptz < clock_timestamp() as "expired!""#,
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        operation.key(),
        state.as_str(),
        answer.map(|answer| answer.outcome.as_str()),
        answer.map(|answer| answer.kind.as_str()),
        answer.map(|answer| answer.payload.as_slice()),
        expires_at
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(expired.map(|expired| Inserted { expired }))
}

/// Claims operations, in one order. Those that were not there before, by their keys; concurrent
/// inserters are waited for.
pub(crate) async fn claim_all(
    tx: &mut PgTransaction<'_>,
    operations: &[(&Operation, DateTime<Utc>)],
) -> Result<HashMap<Uuid, Inserted>, sqlx::Error> {
    let columns = Columns::of(operations.iter().map(|(operation, _)| *operation));
    let expiries: Vec<DateTime<Utc>> = operations.iter().map(|(_, at)| *at).collect();
    let rows = sqlx::query!(
        r#"with claimed as (
               insert into saga.barrier (saga_id, step, round, phase, op_key, state)
               select new.saga_id, new.step, new.round, new.phase, new.op_key, $7
               from unnest($1::uuid[], $2::text[], $3::integer[], $4::text[], $5::uuid[])
                    as new (saga_id, step, round, phase, op_key)
               order by new.saga_id, new.step, new.round, new.phase
               on conflict on constraint barrier_pkey do nothing
               returning op_key)
           select claimed.op_key as "op_key!", given.expires_at < clock_timestamp() as "expired!"
           from claimed
           join unnest($5::uuid[], $6::timestamptz[]) as given (op_key, expires_at)
             on given.op_key = claimed.op_key"#,
        &columns.sagas,
        &columns.steps,
        &columns.rounds,
        &columns.phases,
        &columns.keys,
        &expiries,
        State::Claimed.as_str()
    )
    .fetch_all(&mut **tx)
    .await?;
    let claimed = rows.into_iter().map(|row| {
        let expired = row.expired;
        (row.op_key, Inserted { expired })
    });
    Ok(claimed.collect())
}

/// Inserts tombstones, in one order, where there are no rows. The keys of those it inserted.
pub(crate) async fn bury_all(
    tx: &mut PgTransaction<'_>,
    actions: &[Operation],
    tombstone: &Stored,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let columns = Columns::of(actions);
    let buried = sqlx::query_scalar!(
        "insert into saga.barrier
           (saga_id, step, round, phase, op_key, state, outcome, reply_kind, reply)
         select new.saga_id, new.step, new.round, new.phase, new.op_key, $6, $7, $8, $9
         from unnest($1::uuid[], $2::text[], $3::integer[], $4::text[], $5::uuid[])
              as new (saga_id, step, round, phase, op_key)
         order by new.saga_id, new.step, new.round, new.phase
         on conflict on constraint barrier_pkey do nothing
         returning op_key",
        &columns.sagas,
        &columns.steps,
        &columns.rounds,
        &columns.phases,
        &columns.keys,
        State::Answered.as_str(),
        tombstone.outcome.as_str(),
        tombstone.kind,
        tombstone.payload
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(buried.into_iter().collect())
}

/// The answers that operations got, by their keys.
pub(crate) async fn answers(
    tx: &mut PgTransaction<'_>,
    operations: &[&Operation],
) -> Result<HashMap<Uuid, Stored>, sqlx::Error> {
    if operations.is_empty() {
        return Ok(HashMap::new());
    }
    let columns = Columns::of(operations.iter().copied());
    let rows = sqlx::query!(
        r#"select b.op_key, b.outcome as "outcome!", b.reply_kind as "reply_kind!",
                  b.reply as "reply!"
           from unnest($1::uuid[], $2::text[], $3::integer[], $4::text[])
                as asked (saga_id, step, round, phase)
           -- One look-up at a time, whatever the size of the table was when this was planned.
           cross join lateral (
               select op_key, outcome, reply_kind, reply from saga.barrier
               where saga_id = asked.saga_id and step = asked.step and round = asked.round
                 and phase = asked.phase and state = $5
               offset 0) as b"#,
        &columns.sagas,
        &columns.steps,
        &columns.rounds,
        &columns.phases,
        State::Answered.as_str()
    )
    .fetch_all(&mut **tx)
    .await?;
    let answers = rows.into_iter().map(|row| {
        let answer = stored(&row.outcome, row.reply_kind, row.reply)?;
        Ok((row.op_key, answer))
    });
    answers.collect()
}

/// Stores the answers to operations that are claimed in this transaction. How many there were.
pub(crate) async fn store_all(
    tx: &mut PgTransaction<'_>,
    answers: &[(&Operation, &Stored)],
) -> Result<u64, sqlx::Error> {
    let columns = Columns::of(answers.iter().map(|(operation, _)| *operation));
    let outcomes: Vec<String> = answers.iter().map(|(_, a)| a.outcome.to_string()).collect();
    let kinds: Vec<String> = answers.iter().map(|(_, a)| a.kind.clone()).collect();
    let replies: Vec<Vec<u8>> = answers.iter().map(|(_, a)| a.payload.clone()).collect();
    let done = sqlx::query!(
        "update saga.barrier b
         set state = $8, outcome = new.outcome, reply_kind = new.kind, reply = new.reply
         from unnest($1::uuid[], $2::text[], $3::integer[], $4::uuid[], $5::text[], $6::text[],
                     $7::bytea[])
              as new (saga_id, step, round, op_key, outcome, kind, reply)
         where b.saga_id = new.saga_id and b.step = new.step and b.round = new.round
           and b.op_key = new.op_key and b.state = $9
           -- Always so. The planner expects one row then, and uses the index whatever the size of the
           -- table was when this was planned.
           and new.step >= '' and new.kind >= '' and new.outcome >= ''",
        &columns.sagas,
        &columns.steps,
        &columns.rounds,
        &columns.keys,
        &outcomes,
        &kinds,
        &replies,
        State::Answered.as_str(),
        State::Claimed.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Operations as columns.
#[derive(Default)]
struct Columns {
    sagas: Vec<Uuid>,
    steps: Vec<String>,
    rounds: Vec<i32>,
    phases: Vec<String>,
    keys: Vec<Uuid>,
}

impl Columns {
    fn of<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> Self {
        let mut columns = Self::default();
        for operation in operations {
            columns.sagas.push(operation.saga_id);
            columns.steps.push(operation.step.clone());
            columns.rounds.push(operation.round);
            columns.phases.push(operation.phase.to_string());
            columns.keys.push(operation.key());
        }
        columns
    }
}

/// Notes that an effect outside of the database is to begin once this transaction has committed.
pub(crate) async fn intend(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    (kind, command): (&str, &[u8]),
    expires_at: DateTime<Utc>,
) -> Result<Intent, sqlx::Error> {
    let row = sqlx::query!(
        r#"with noted as (
               insert into saga.barrier
                 (saga_id, step, round, phase, op_key, state, command_kind, command)
               select $1, $2, $3, $4, $5, $6, $7, $8 where $9::timestamptz >= clock_timestamp()
               on conflict on constraint barrier_pkey do nothing
               returning 1)
           select exists (select from noted) as "noted!",
                  $9::timestamptz < clock_timestamp() as "expired!""#,
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        operation.key(),
        State::Running.as_str(),
        kind,
        command,
        expires_at
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(match (row.noted, row.expired) {
        (true, _) => Intent::Noted,
        (false, true) => Intent::Expired,
        (false, false) => Intent::Known,
    })
}

/// Stores the answer to an operation that is claimed in this transaction, or running and locked by
/// it. False if it has an answer, or no row.
pub(crate) async fn store(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    answer: &Stored,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update saga.barrier
         set state = $5, outcome = $6, reply_kind = $7, reply = $8,
             command_kind = null, command = null,
             recorded_at = case state when $9 then now() else recorded_at end
         where saga_id = $1 and step = $2 and round = $3 and phase = $4 and state <> $5",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        State::Answered.as_str(),
        answer.outcome.as_str(),
        answer.kind,
        answer.payload,
        State::Running.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives up an operation that is claimed in this transaction, or running and locked by it, as if it
/// had never come.
pub(crate) async fn withdraw(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from saga.barrier
         where saga_id = $1 and step = $2 and round = $3 and phase = $4 and state <> $5",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        State::Answered.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The answer an operation got. None if it has none yet, or if no row is visible.
pub(crate) async fn answer(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<Option<Stored>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select outcome as "outcome!", reply_kind as "reply_kind!", reply as "reply!"
           from saga.barrier
           where saga_id = $1 and step = $2 and round = $3 and phase = $4 and state = $5"#,
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        State::Answered.as_str()
    )
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|row| stored(&row.outcome, row.reply_kind, row.reply))
        .transpose()
}

/// The row of an operation, as it is visible now.
pub(crate) async fn find(
    connection: &mut PgConnection,
    operation: &Operation,
) -> Result<Option<Found>, sqlx::Error> {
    let row = sqlx::query!(
        "select outcome, reply_kind, reply, command_kind, command from saga.barrier
         where saga_id = $1 and step = $2 and round = $3 and phase = $4",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str()
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let answer = row.outcome.zip(row.reply_kind).zip(row.reply);
    let command = row.command_kind.zip(row.command);
    Ok(match (answer, command) {
        (Some(((outcome, kind), reply)), _) => {
            Some(Found::Answered(stored(&outcome, kind, reply)?))
        }
        (None, Some((kind, payload))) => Some(Found::Running(Asked { kind, payload })),
        // Claimed by this very transaction: nobody else can see such a row.
        (None, None) => None,
    })
}

/// Notes that rows recorded longer ago than `retention` may be gone from now on. The horizon moves
/// by at most `step`, and not again before half of that has passed; the first one is no later than
/// the oldest row. Returns it.
pub(crate) async fn raise_horizon(
    tx: &mut PgTransaction<'_>,
    retention: &PgInterval,
    step: &PgInterval,
) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query!(
        "insert into saga.barrier_horizon as known (forgotten_before)
         select least(now() - $1::interval, min(recorded_at)) from saga.barrier
         on conflict on constraint barrier_horizon_pkey do update
         set forgotten_before = greatest(known.forgotten_before,
                 least(now() - $1::interval, known.forgotten_before + $2::interval)),
             raised_at = now()
         where known.forgotten_before < now() - $1::interval
           -- Also where the clock has been set back since.
           and now() not between known.raised_at and known.raised_at + $2::interval / 2",
        retention,
        step
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query_scalar!("select forgotten_before from saga.barrier_horizon")
        .fetch_one(&mut **tx)
        .await
}

/// Removes some operations that were answered before `horizon`, the oldest first; those that
/// somebody holds are left for the next time. Returns how many.
pub(crate) async fn forget(
    tx: &mut PgTransaction<'_>,
    horizon: DateTime<Utc>,
    most: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from saga.barrier
         where ctid = any (array(
             select ctid from saga.barrier
             where recorded_at < $1 and state = $2
             order by recorded_at
             limit $3
             for update skip locked))",
        horizon,
        State::Answered.as_str(),
        most
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Rows of operations that began before this moment may be gone; none if nothing was ever removed. An
/// hour of difference between two machines' clocks is allowed for. Asked in a statement after the one
/// that found no row: otherwise the row may have been removed between the two.
pub(crate) async fn horizon(
    tx: &mut PgTransaction<'_>,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select forgotten_before + interval '1 hour' as "horizon!" from saga.barrier_horizon"#
    )
    .fetch_optional(&mut **tx)
    .await
}

/// When a saga began, if its id tells: a UUIDv7 does.
pub(crate) fn began(saga_id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = saga_id.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}

fn stored(outcome: &str, kind: String, payload: Vec<u8>) -> Result<Stored, sqlx::Error> {
    let outcome = outcome
        .parse()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Stored {
        outcome,
        kind,
        payload,
    })
}
