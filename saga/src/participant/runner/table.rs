//! Every statement about the runner's work items.
//!
//! Lock order: an action's row before its compensation's, and both before the barrier's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use outbox::{Headers, Received};
use sqlx::{PgConnection, PgPool, PgTransaction, types::Json};
use uuid::Uuid;

use crate::{
    operation::{Operation, Phase},
    participant::{answer::Begun, outside::Limits, runner::list::External, table::State},
};

/// An operation that was claimed.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) operation: Operation,
    pub(crate) kind: String,
    pub(crate) lease: Uuid,
    /// This one counted.
    pub(crate) tries: i32,
    pub(crate) begun_at: DateTime<Utc>,
    /// By the database's clock.
    pub(crate) now: DateTime<Utc>,
}

/// Notes an operation for the runner, and a command that waits for it.
pub(crate) async fn wait(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
    begun: Begun,
    message: &Received,
) -> Result<(), sqlx::Error> {
    let tries = match begun {
        Begun::Never => 0,
        Begun::Perhaps => 1,
    };
    // A statement of its own: the row that it waits for may be removed by whoever holds it.
    sqlx::query!(
        "insert into saga.external as known (saga_id, step, round, phase, kind, tries)
         values ($1, $2, $3, $4, $5, $6)
         on conflict on constraint external_pkey do update
         set next_at = case when known.lease is null
                            then least(known.next_at, clock_timestamp())
                            else known.next_at end",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        message.kind,
        tries
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        "insert into saga.external_command
           (saga_id, step, round, phase, message_id, topic, at_partition, at_offset, kind, payload,
            headers)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict on constraint external_command_pkey do nothing",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        message.id,
        message.topic,
        message.partition,
        message.offset,
        message.kind,
        message.payload,
        Json(&message.headers) as _
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Has a running action worked at at once, and notes it where a program without a runner began it.
pub(crate) async fn wake_running(
    tx: &mut PgTransaction<'_>,
    action: &Operation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into saga.external as known (saga_id, step, round, phase, kind, tries)
         select saga_id, step, round, phase, command_kind, 1 from saga.barrier
         where saga_id = $1 and step = $2 and round = $3 and phase = $4 and state = $5
         on conflict on constraint external_pkey do update
         set next_at = case when known.lease is null
                            then least(known.next_at, clock_timestamp())
                            else known.next_at end",
        action.saga_id,
        action.step,
        action.round,
        action.phase.as_str(),
        State::Running.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes what is due, of each kind as much as there is room for. Others may take it over when twice
/// as long as it can take has passed.
pub(crate) async fn claim(
    pool: &PgPool,
    rooms: &[(&str, Limits, usize)],
) -> Result<Vec<Item>, sqlx::Error> {
    let kinds: Vec<String> = rooms.iter().map(|(kind, ..)| (*kind).to_owned()).collect();
    let room = |room: usize| i64::try_from(room).unwrap_or(i64::MAX);
    let room: Vec<i64> = rooms.iter().map(|(_, _, free)| room(*free)).collect();
    let lease = |limits: &Limits| limits.patience.as_secs_f64() * 6.0 + 30.0;
    let leases: Vec<f64> = rooms.iter().map(|(_, limits, _)| lease(limits)).collect();
    let token = Uuid::now_v7();
    let rows = sqlx::query!(
        r#"with due as (
               select e.saga_id, e.step, e.round, e.phase, free.lease
               from unnest($1::text[], $2::bigint[], $3::float8[]) as free (kind, room, lease)
               cross join lateral (
                   select saga_id, step, round, phase from saga.external
                   where kind = free.kind and next_at <= clock_timestamp()
                   order by next_at
                   limit free.room
                   for update skip locked) as e)
           update saga.external e
           set lease = $4, tries = least(e.tries, 1000000) + 1,
               next_at = clock_timestamp() + make_interval(secs => due.lease)
           from due
           where e.saga_id = due.saga_id and e.step = due.step and e.round = due.round
             and e.phase = due.phase
           returning e.saga_id, e.step, e.round, e.phase, e.kind, e.tries, e.begun_at,
                     clock_timestamp() as "now!""#,
        &kinds,
        &room,
        &leases,
        token
    )
    .fetch_all(pool)
    .await?;
    let items = rows.into_iter().filter_map(|row| {
        Some(Item {
            operation: Operation {
                saga_id: row.saga_id,
                step: row.step,
                // A constraint sees to it.
                phase: row.phase.parse().ok()?,
                round: row.round,
            },
            kind: row.kind,
            lease: token,
            tries: row.tries,
            begun_at: row.begun_at,
            now: row.now,
        })
    });
    Ok(items.collect())
}

/// Locks a claimed operation. False if somebody else has taken it over, or brought it to its end.
pub(crate) async fn fence(tx: &mut PgTransaction<'_>, item: &Item) -> Result<bool, sqlx::Error> {
    let operation = &item.operation;
    let ours = sqlx::query_scalar!(
        r#"select 1 as "ours!" from saga.external
           where saga_id = $1 and step = $2 and round = $3 and phase = $4 and lease = $5
           for update"#,
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        item.lease
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(ours.is_some())
}

/// The commands that wait for an operation, in the order in which they came.
pub(crate) async fn waiting(
    connection: &mut PgConnection,
    operation: &Operation,
) -> Result<Vec<Received>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select message_id, topic, at_partition, at_offset, kind, payload,
                  headers as "headers: Json<Headers>"
           from saga.external_command
           where saga_id = $1 and step = $2 and round = $3 and phase = $4
           order by number"#,
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str()
    )
    .fetch_all(connection)
    .await?;
    let received = rows.into_iter().map(|row| Received {
        id: row.message_id,
        topic: row.topic,
        partition: row.at_partition,
        offset: row.at_offset,
        key: operation.saga_id.to_string(),
        kind: row.kind,
        source: String::new(),
        time: None,
        payload: row.payload,
        headers: row.headers.0,
    });
    Ok(received.collect())
}

/// Whether the compensation of an action waits for it: then nobody wants it any more.
pub(crate) async fn is_to_be_compensated(
    connection: &mut PgConnection,
    action: &Operation,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from saga.external
               where saga_id = $1 and step = $2 and round = $3 and phase = $4) as "exists!""#,
        action.saga_id,
        action.step,
        action.round,
        Phase::Compensation.as_str()
    )
    .fetch_one(connection)
    .await
}

/// Removes an operation that has its answer, with the commands that waited for it.
pub(crate) async fn remove(
    tx: &mut PgTransaction<'_>,
    operation: &Operation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from saga.external
         where saga_id = $1 and step = $2 and round = $3 and phase = $4",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The action has its answer: its compensation may go on.
pub(crate) async fn wake_compensation(
    tx: &mut PgTransaction<'_>,
    action: &Operation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.external set next_at = least(next_at, clock_timestamp())
         where saga_id = $1 and step = $2 and round = $3 and phase = $4 and lease is null",
        action.saga_id,
        action.step,
        action.round,
        Phase::Compensation.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Puts a claimed operation off, with the reason; somebody else's is left alone.
pub(crate) async fn postpone(
    pool: &PgPool,
    item: &Item,
    pause: Duration,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let operation = &item.operation;
    sqlx::query!(
        "update saga.external
         set lease = null, next_at = clock_timestamp() + make_interval(secs => $6),
             last_error = $7
         where saga_id = $1 and step = $2 and round = $3 and phase = $4 and lease = $5",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        item.lease,
        pause.as_secs_f64(),
        reason
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Puts a compensation off until its action has its answer, which wakes it; at most for so long.
pub(crate) async fn wait_for_action(
    pool: &PgPool,
    item: &Item,
    pause: Duration,
) -> Result<(), sqlx::Error> {
    let operation = &item.operation;
    let mut tx = pool.begin_with(crate::table::BEGIN).await?;
    // Whoever is settling it is waited for: it found our lease, and woke nobody.
    let is_running = sqlx::query_scalar!(
        r#"select 1 as "is_running!" from saga.external
           where saga_id = $1 and step = $2 and round = $3 and phase = $4
           for update"#,
        operation.saga_id,
        operation.step,
        operation.round,
        Phase::Action.as_str()
    )
    .fetch_optional(&mut *tx)
    .await?
    .is_some();
    let pause = if is_running { pause } else { Duration::ZERO };
    sqlx::query!(
        "update saga.external
         set lease = null, next_at = clock_timestamp() + make_interval(secs => $6)
         where saga_id = $1 and step = $2 and round = $3 and phase = $4 and lease = $5",
        operation.saga_id,
        operation.step,
        operation.round,
        operation.phase.as_str(),
        item.lease,
        pause.as_secs_f64()
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// The operations that have no answer yet, the oldest first.
pub(crate) async fn list(pool: &PgPool, most: i64) -> Result<Vec<External>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select e.saga_id, e.step, e.round, e.phase, e.kind, e.begun_at, e.next_at, e.tries,
                  e.last_error, e.lease is not null as "is_worked_at!",
                  (select count(*) from saga.external_command c
                   where c.saga_id = e.saga_id and c.step = e.step and c.round = e.round
                     and c.phase = e.phase) as "waiting!"
           from saga.external e
           order by e.begun_at, e.saga_id, e.step, e.round, e.phase
           limit $1"#,
        most
    )
    .fetch_all(pool)
    .await?;
    let listed = rows.into_iter().map(|row| External {
        saga_id: row.saga_id,
        step: row.step,
        round: row.round,
        phase: row.phase,
        kind: row.kind,
        begun_at: row.begun_at,
        next_at: row.next_at,
        tries: row.tries,
        last_error: row.last_error,
        is_worked_at: row.is_worked_at,
        waiting: row.waiting,
    });
    Ok(listed.collect())
}

/// How many operations have no answer yet, how many of them failed at least once, and how old the
/// oldest is. Counts up to `most`.
pub(crate) async fn census(pool: &PgPool, most: i64) -> Result<(i64, i64, f64), sqlx::Error> {
    let row = sqlx::query!(
        r#"select count(*) as "running!", count(last_error) as "failing!",
                  coalesce(extract(epoch from now() - min(begun_at)), 0)::float8 as "oldest!"
           from (select begun_at, last_error from saga.external limit $1) as counted"#,
        most
    )
    .fetch_one(pool)
    .await?;
    Ok((row.running, row.failing, row.oldest))
}
