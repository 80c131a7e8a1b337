//! Every statement about interventions in one saga, and the filters of sagas.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use sqlx::{PgPool, PgTransaction, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    Error,
    operator::{intervene::Intervened, request::Request, selection::Selection},
    table::{Versions, corrupt, from_json},
};

/// An intervention that was carried out.
pub(super) struct Stored {
    pub(super) request_hash: String,
    pub(super) intervened: Intervened,
}

/// The intervention in this saga under this key. The caller holds the saga's lock.
pub(super) async fn find(
    tx: &mut PgTransaction<'_>,
    saga_id: Uuid,
    idempotency_key: &str,
) -> Result<Option<Stored>, Error> {
    let row = sqlx::query!(
        "select request_hash, result from saga.intervention
         where saga_id = $1 and idempotency_key = $2",
        saga_id,
        idempotency_key
    )
    .fetch_optional(&mut **tx)
    .await?;
    let stored = row.map(|row| {
        Ok(Stored {
            request_hash: row.request_hash,
            intervened: from_json(saga_id, row.result)?,
        })
    });
    stored.transpose()
}

/// How many sagas are parked, by definition.
pub(super) async fn parked_sagas(pool: &PgPool) -> Result<BTreeMap<String, i64>, Error> {
    let rows = sqlx::query!(
        r#"select definition, count(*) as "sagas!" from saga.instance
           where status = 'parked' group by definition"#
    )
    .fetch_all(pool)
    .await?;
    let counts = rows.into_iter().map(|row| (row.definition, row.sagas));
    Ok(counts.collect())
}

/// Replies that are kept for a replica that knows their sagas' versions.
pub(super) struct Kept {
    /// Up to `most`.
    pub(super) replies: i64,
    /// How long the oldest is kept; 0 if there is none.
    pub(super) oldest_seconds: f64,
}

/// How many replies are kept, at most `most`, and for how long the oldest.
pub(super) async fn kept_replies(pool: &PgPool, most: i64) -> Result<Kept, Error> {
    Ok(sqlx::query_as!(
        Kept,
        r#"select (select count(*) from (select from saga.pending limit $1) as found) as "replies!",
                  coalesce((select greatest(extract(epoch from statement_timestamp() - arrived_at), 0)
                            from saga.pending where isfinite(arrived_at) order by id limit 1),
                           0)::float8 as "oldest_seconds!""#,
        most
    )
    .fetch_one(pool)
    .await?)
}

/// Notes that a replica steers these versions, where nobody has within `fresh` or is about to.
pub(super) async fn see_definitions(
    pool: &PgPool,
    known: &Versions,
    fresh: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with stale as (
             select name, version from saga.definition
             where (name, version) in (select * from unnest($1::text[], $2::integer[]))
               and coalesce(seen_at < clock_timestamp() - make_interval(secs => $3), true)
             for update skip locked)
         update saga.definition d set seen_at = clock_timestamp() from stale
         where d.name = stale.name and d.version = stale.version",
        &known.names,
        &known.versions,
        fresh.as_secs_f64()
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The versions that no replica has steered within `fresh`.
pub(super) async fn unseen_definitions(
    pool: &PgPool,
    fresh: Duration,
) -> Result<Vec<(String, i32)>, sqlx::Error> {
    let rows = sqlx::query!(
        "select name, version from saga.definition
         where coalesce(seen_at < clock_timestamp() - make_interval(secs => $1), true)
         order by name, version",
        fresh.as_secs_f64()
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.name, row.version))
        .collect())
}

/// How many sagas of this version have not ended, counted up to `most`.
pub(super) async fn open_sagas(
    pool: &PgPool,
    definition: &str,
    version: i32,
    most: i64,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "sagas!" from (
               select from saga.instance
               where status in ('running', 'compensating', 'parked')
                 and definition = $1 and version = $2
               limit $3) as open"#,
        definition,
        version,
        most
    )
    .fetch_one(pool)
    .await
}

/// Whether nobody else is at a request for this saga under this key: true until the transaction ends.
pub(super) async fn claim_key(
    tx: &mut PgTransaction<'_>,
    saga_id: Uuid,
    idempotency_key: &str,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtext('saga.intervention'), hashtext($1)) as "mine!""#,
        format!("{saga_id} {idempotency_key}")
    )
    .fetch_one(&mut **tx)
    .await?)
}

/// Writes down an intervention that was carried out, and what was answered.
pub(super) async fn insert(
    tx: &mut PgTransaction<'_>,
    request: &Request,
    intervened: &Intervened,
) -> Result<(), Error> {
    let saga_id = intervened.saga_id;
    let result = serde_json::to_value(intervened).map_err(|error| corrupt(saga_id, error))?;
    sqlx::query!(
        "insert into saga.intervention
           (saga_id, idempotency_key, request_hash, operation, actor, reason, result)
         values ($1, $2, $3, $4, $5, $6, $7)",
        saga_id,
        request.idempotency_key,
        request.hash()?,
        request.what.name().as_str(),
        request.actor,
        request.reason,
        result
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Appends the conditions of a selection to a statement on `saga.instance`, each with its `and`.
/// Built from the filters that are given, not a checked macro with `$1 is null or …`: a plan for
/// all of those at once could use no index.
pub(crate) fn push_selection(sql: &mut QueryBuilder<Postgres>, selection: &Selection) {
    if let Some(definition) = &selection.definition {
        sql.push(" and definition = ").push_bind(definition.clone());
    }
    if let Some(version) = selection.version {
        sql.push(" and version = ").push_bind(version);
    }
    if let Some(status) = selection.status {
        // A word of ours, and written out so that whatever plan is kept fits an index of some words.
        sql.push(" and status = '").push(status.as_str()).push("'");
    }
    if let Some(business_key) = &selection.business_key {
        sql.push(" and business_key = ")
            .push_bind(business_key.clone());
    }
    if let Some((name, value)) = &selection.tag {
        // The second condition is the index's.
        sql.push(" and tags @> ")
            .push_bind(json!({ name: value }))
            .push(" and tags <> '{}'");
    }
    if selection.is_open() {
        sql.push(OPEN);
    }
    push_rest(sql, selection);
}

/// As [`push_selection`], of the rows of `saga.instance_group` whose sagas may be selected.
pub(crate) fn push_group(sql: &mut QueryBuilder<Postgres>, selection: &Selection) {
    if let Some(definition) = &selection.definition {
        sql.push(" and of_definition = ")
            .push_bind(definition.clone());
    }
    if let Some(version) = selection.version {
        sql.push(" and of_version = ").push_bind(version);
    }
    if let Some(status) = selection.status {
        sql.push(" and of_status = ").push_bind(status.as_str());
    }
    if selection.is_open() {
        sql.push(" and of_status in ('running', 'compensating', 'parked')");
    }
}

/// As [`push_selection`], what a group of sagas and an index of keys or tags leave open.
pub(crate) fn push_rest(sql: &mut QueryBuilder<Postgres>, selection: &Selection) {
    if let Some(prefix) = &selection.business_key_prefix {
        sql.push(" and starts_with(business_key, ")
            .push_bind(prefix.clone())
            .push(")");
    }
    if let Some(waiting_for) = selection.waiting_for {
        sql.push(" and waiting_for = ")
            .push_bind(waiting_for.as_str());
    }
    if let Some(stuck_for) = selection.stuck_for {
        sql.push(" and updated_at <= statement_timestamp() - make_interval(secs => ")
            .push_bind(stuck_for.as_secs_f64())
            .push(")");
    }
    push_started(sql, selection);
}

/// As [`push_selection`], when the sagas started.
pub(crate) fn push_started(sql: &mut QueryBuilder<Postgres>, selection: &Selection) {
    if let Some(created_after) = selection.created_after {
        sql.push(" and created_at >= ").push_bind(created_after);
    }
    if let Some(created_before) = selection.created_before {
        sql.push(" and created_at < ").push_bind(created_before);
    }
}

/// Not ended, said so that the index of the statuses can be used: few are open, many have ended.
pub(crate) const OPEN: &str = " and status in ('running', 'compensating', 'parked')";
