//! Every statement about replies that wait: for a replica that can read them, or for a person.

use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    Error,
    event::Reply,
    operation::Operation,
    origin::Origin,
    table::{Versions, corrupt},
    wire::{self, Outcome},
};

/// A reply on its way into the table.
pub(crate) struct Waiting {
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) origin: Origin,
    /// Until its saga, which is parked as a whole, is resumed.
    pub(crate) held: bool,
}

/// Keeps replies, in this order.
pub(crate) async fn keep(tx: &mut PgTransaction<'_>, replies: &[Waiting]) -> Result<(), Error> {
    let operations = || replies.iter().map(|reply| &reply.operation);
    let ids: Vec<Uuid> = operations().map(|o| o.saga_id).collect();
    let steps: Vec<String> = operations().map(|o| o.step.clone()).collect();
    let phases: Vec<String> = operations().map(|o| o.phase.to_string()).collect();
    let rounds: Vec<i32> = operations().map(|o| o.round).collect();
    let outcomes: Vec<String> = replies.iter().map(|r| r.outcome.to_string()).collect();
    let kinds: Vec<String> = replies.iter().map(|r| r.kind.clone()).collect();
    let payloads: Vec<Vec<u8>> = replies.iter().map(|r| r.payload.clone()).collect();
    let held: Vec<bool> = replies.iter().map(|r| r.held).collect();
    let origins = replies.iter().map(|reply| {
        let saga_id = reply.operation.saga_id;
        serde_json::to_string(&reply.origin).map_err(|error| corrupt(saga_id, error))
    });
    let origins: Vec<String> = origins.collect::<Result<_, _>>()?;
    sqlx::query!(
        "insert into saga.pending
           (saga_id, step, phase, round, outcome, kind, payload, origin, not_before)
         select new.saga_id, new.step, new.phase, new.round, new.outcome, new.kind, new.payload,
                new.origin::json, case when not new.held then clock_timestamp() end
         from unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::text[],
                     $7::bytea[], $8::text[], $9::boolean[]) with ordinality
              as new (saga_id, step, phase, round, outcome, kind, payload, origin, held, place)
         order by place",
        &ids,
        &steps,
        &phases,
        &rounds,
        &outcomes,
        &kinds,
        &payloads,
        &origins,
        &held
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether replies are to be taken up: nearly always there are none, and asking for that costs a
/// look at an empty index.
pub(super) async fn any(tx: &mut PgTransaction<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from saga.pending
                          where not_before <= statement_timestamp()) as "any!""#
    )
    .fetch_one(&mut **tx)
    .await
}

/// Sagas of these versions whose replies are to be taken up, at most `limit`, the longest waiting
/// first, that nobody else holds.
pub(super) async fn sagas(
    tx: &mut PgTransaction<'_>,
    known: &Versions,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select i.id from saga.instance i
         where i.id = any (array(
             select kept.saga_id from saga.pending kept
             where kept.not_before <= statement_timestamp()
               and exists (
                   select from saga.instance its
                   where its.id = kept.saga_id and (its.definition, its.version) in
                         (select * from unnest($1::text[], $2::integer[])) offset 0)
             order by kept.not_before limit 2 * $3::bigint))
         order by i.id limit $3::bigint
         for update skip locked",
        &known.names,
        &known.versions,
        limit
    )
    .fetch_all(&mut **tx)
    .await
}

/// Takes the waiting replies of a saga whose lock is held, in the order in which they came, with
/// where they came from. One that cannot be read is an error of its own.
pub(super) async fn take(
    tx: &mut PgTransaction<'_>,
    saga_id: Uuid,
) -> Result<Vec<Result<(Reply, Origin), Error>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with taken as (
               delete from saga.pending where saga_id = $1
               returning id, step, phase, round, outcome, kind, payload, origin)
           select id as "id!", step as "step!", phase as "phase!", round as "round!",
                  outcome as "outcome!", kind as "kind!", payload, origin::text as origin
           from taken order by id"#,
        saga_id
    )
    .fetch_all(&mut **tx)
    .await?;
    let replies = rows.into_iter().map(|row| {
        let unreadable = |error| corrupt(saga_id, format!("kept reply {}: {error}", row.id));
        let operation = Operation {
            saga_id,
            step: row.step,
            phase: row.phase.parse().map_err(unreadable)?,
            round: row.round,
        };
        let outcome = row.outcome.parse().map_err(unreadable)?;
        let reply = wire::Reply { operation, outcome };
        let reply = reply.answered(&row.kind, row.payload.as_deref().unwrap_or_default());
        // Nothing is decided by where it came from.
        let origin = row
            .origin
            .and_then(|origin| serde_json::from_str(&origin).ok());
        Ok((reply, origin.unwrap_or_default()))
    });
    Ok(replies.collect())
}

/// The replies of this saga, whose lock is held, wait until a person resumes it.
pub(crate) async fn hold(tx: &mut PgTransaction<'_>, saga_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.pending set not_before = null where saga_id = $1",
        saga_id
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The replies of these sagas, whose locks are held, are taken up from now on.
pub(crate) async fn release(tx: &mut PgTransaction<'_>, sagas: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.pending set not_before = statement_timestamp(), failures = 0
         where saga_id = any($1) and not_before is null",
        sagas
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Puts off taking up the replies of a saga, each time for longer, up to five minutes.
pub(super) async fn postpone(tx: &mut PgTransaction<'_>, saga_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update saga.pending
         set failures = failures + 1,
             not_before = statement_timestamp()
                          + least(power(2, least(failures, 20)), 300) * interval '1 second'
         where saga_id = $1 and not_before is not null",
        saga_id
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
