//! Every statement about replies that wait for a replica that can read them.

use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{
    Error,
    event::Reply,
    operation::Operation,
    origin::Origin,
    table::{Versions, corrupt, from_json},
    wire,
};

/// Keeps replies, in this order.
pub(super) async fn keep(
    tx: &mut PgTransaction<'_>,
    replies: &[crate::pending::Waiting],
) -> Result<(), Error> {
    let operations = || replies.iter().map(|reply| &reply.operation);
    let ids: Vec<Uuid> = operations().map(|o| o.saga_id).collect();
    let steps: Vec<String> = operations().map(|o| o.step.clone()).collect();
    let phases: Vec<String> = operations().map(|o| o.phase.to_string()).collect();
    let rounds: Vec<i32> = operations().map(|o| o.round).collect();
    let outcomes: Vec<String> = replies.iter().map(|r| r.outcome.to_string()).collect();
    let kinds: Vec<String> = replies.iter().map(|r| r.kind.clone()).collect();
    let payloads: Vec<Vec<u8>> = replies.iter().map(|r| r.payload.clone()).collect();
    let origins = replies.iter().map(|reply| {
        let saga_id = reply.operation.saga_id;
        serde_json::to_string(&reply.origin).map_err(|error| corrupt(saga_id, error))
    });
    let origins: Vec<String> = origins.collect::<Result<_, _>>()?;
    sqlx::query!(
        "insert into saga.pending (saga_id, step, phase, round, outcome, kind, payload, origin)
         select new.saga_id, new.step, new.phase, new.round, new.outcome, new.kind, new.payload,
                new.origin::json
         from unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::text[],
                     $7::bytea[], $8::text[]) with ordinality
              as new (saga_id, step, phase, round, outcome, kind, payload, origin, place)
         order by place",
        &ids,
        &steps,
        &phases,
        &rounds,
        &outcomes,
        &kinds,
        &payloads,
        &origins
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether there are replies at all: nearly always there are none, and asking for that costs a
/// look at an empty table.
pub(super) async fn any(tx: &mut PgTransaction<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select exists (select from saga.pending) as "any!""#)
        .fetch_one(&mut **tx)
        .await
}

/// Sagas of these versions with replies waiting, at most `limit`, that nobody else holds.
pub(super) async fn sagas(
    tx: &mut PgTransaction<'_>,
    known: &Versions,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select i.id from saga.instance i
         where i.id = any (array(select distinct saga_id from saga.pending))
           and (i.definition, i.version) in (select * from unnest($1::text[], $2::integer[]))
         order by i.id limit $3
         for update skip locked",
        &known.names,
        &known.versions,
        limit
    )
    .fetch_all(&mut **tx)
    .await
}

/// Takes the waiting replies of sagas whose locks are held, in the order in which they came, with
/// where they came from.
pub(super) async fn take(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<Vec<Result<(Reply, Origin), Error>>, Error> {
    let rows = sqlx::query!(
        r#"with taken as (
               delete from saga.pending where saga_id = any($1)
               returning id, saga_id, step, phase, round, outcome, kind, payload, origin)
           select saga_id as "saga_id!", step as "step!", phase as "phase!", round as "round!",
                  outcome as "outcome!", kind as "kind!", payload, origin
           from taken order by id"#,
        sagas
    )
    .fetch_all(&mut **tx)
    .await?;
    let replies = rows.into_iter().map(|row| {
        let id = row.saga_id;
        let operation = Operation {
            saga_id: id,
            step: row.step,
            phase: row.phase.parse().map_err(|e| corrupt(id, e))?,
            round: row.round,
        };
        let outcome = row.outcome.parse().map_err(|e| corrupt(id, e))?;
        let reply = wire::Reply { operation, outcome };
        let reply = reply.answered(&row.kind, row.payload.as_deref().unwrap_or_default())?;
        let origin = row.origin.map(|origin| from_json(id, origin));
        Ok((reply, origin.transpose()?.unwrap_or_default()))
    });
    Ok(replies.collect())
}
