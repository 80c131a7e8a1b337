//! `/bulk-operations`: one intervention for many sagas.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use sqlx::PgPool;

use crate::{
    http::{
        actor::Actor,
        body::{Fields, RawBody, idempotency_key},
        house::{House, RawId, RawQuery, in_task, keep},
        operations::missing_key,
        params,
        problem::Problem,
        query::{ItemsQuery, Pairs, dry_run, saga_id},
        view::After,
    },
    operator::bulk::{self, Bulk, BulkRequest, Created, Expected, Item},
    table::BEGIN,
};

/// How many of them are listed.
const SHOWN: i64 = 100;
/// How many sagas a second, unless said.
const PER_SECOND: i32 = 10;

/// Does something to many sagas
///
/// They are found now and taken one after another. With `dry_run` the answer counts them and says
/// what would become of the oldest twenty.
#[utoipa::path(post, path = "/bulk-operations", tag = "operations",
    operation_id = "create_bulk_operation", security(("bearer" = ["admin"])),
    params(params::Asking, params::Key),
    request_body = params::BulkBody,
    responses(
        (status = 200, description = "What a dry run found", body = Expected),
        (status = 202, description = "It has begun, or had under the same key", body = Bulk,
            headers(("Location" = String, description = "Where to follow it"))),
        (status = 409, description = "Another number of sagas than expected_count")))]
pub(crate) async fn create(
    State(house): State<House>,
    query: RawQuery,
    actor: Option<Extension<Actor>>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let dry_run = dry_run(Pairs::new(query)?)?;
    let idempotency_key = idempotency_key(&headers)?;
    if idempotency_key.is_none() && !dry_run {
        return Err(missing_key());
    }
    let mut fields = Fields::parse(&headers, body)?;
    let what = fields.what()?;
    let actor = Actor::of(actor, &mut fields)?;
    let request = BulkRequest {
        what,
        selection: fields.selection()?,
        actor: actor.name,
        reason: fields.text("reason")?,
        per_second: fields.number("per_second")?.unwrap_or(PER_SECOND),
        allow_changed: fields.yes_or_no("allow_changed")?,
        expected_count: fields.number("expected_count")?,
        idempotency_key: idempotency_key.unwrap_or_default(),
    };
    fields.nothing_left()?;
    in_task(async move {
        if dry_run {
            let expected = bulk::expect(&house.pool, &house.coordinator, &request).await?;
            return Ok(Json(expected).into_response());
        }
        let mut tx = house.pool.begin_with(BEGIN).await?;
        if !bulk::claim_key(&mut tx, &request.actor, &request.idempotency_key).await? {
            tx.rollback().await?;
            return Err(Problem::InProgress);
        }
        let role = actor.role.as_deref();
        let created = bulk::create_as(&mut tx, &request, role).await?;
        let (Created::First(bulk) | Created::Again(bulk)) = created;
        tx.commit().await?;
        let location = [(LOCATION, format!("/v1/bulk-operations/{}", bulk.id))];
        Ok((StatusCode::ACCEPTED, location, Json(bulk)).into_response())
    })
    .await
}

/// The newest hundred bulk operations
#[utoipa::path(get, path = "/bulk-operations", tag = "operations",
    operation_id = "list_bulk_operations",
    responses((status = 200, description = "The newest first", body = After<Bulk>)))]
pub(crate) async fn list(
    State(pool): State<PgPool>,
    query: RawQuery,
) -> Result<Json<After<Bulk>>, Problem> {
    Pairs::new(query)?.nothing_left()?;
    let items = bulk::list(&pool, SHOWN).await?;
    let next_after = None;
    Ok(Json(After { items, next_after }))
}

/// How far a bulk operation is
#[utoipa::path(get, path = "/bulk-operations/{id}", tag = "operations",
    operation_id = "show_bulk_operation", params(params::Id),
    responses((status = 200, description = "The bulk operation", body = Bulk)))]
pub(crate) async fn show(
    State(pool): State<PgPool>,
    id: RawId,
    query: RawQuery,
) -> Result<Json<Bulk>, Problem> {
    Pairs::new(query)?.nothing_left()?;
    let bulk = bulk::show(&pool, saga_id(id)?).await?;
    bulk.map(Json).ok_or(Problem::UnknownBulk)
}

/// The sagas of a bulk operation, each with what became of it
#[utoipa::path(get, path = "/bulk-operations/{id}/items", tag = "operations",
    operation_id = "bulk_operation_items", params(params::Id, params::Items),
    responses((status = 200, description = "A page", body = After<Item>)))]
pub(crate) async fn items(
    State(pool): State<PgPool>,
    id: RawId,
    query: RawQuery,
) -> Result<Json<After<Item>>, Problem> {
    let id = saga_id(id)?;
    let query = ItemsQuery::parse(Pairs::new(query)?)?;
    let limit = query.limit + 1;
    let mut items = bulk::items(&pool, id, query.result, query.after, limit).await?;
    if items.is_empty() && bulk::show(&pool, id).await?.is_none() {
        return Err(Problem::UnknownBulk);
    }
    let more = keep(&mut items, query.limit);
    let next_after = items
        .last()
        .filter(|_| more)
        .map(|item| i64::from(item.position));
    Ok(Json(After { items, next_after }))
}

/// Stops a bulk operation
///
/// Sagas that have had no turn yet are left alone.
#[utoipa::path(post, path = "/bulk-operations/{id}/cancel", tag = "operations",
    operation_id = "cancel_bulk_operation", security(("bearer" = ["admin"])), params(params::Id),
    request_body = params::CancelBody,
    responses((status = 200, description = "How far it came", body = Bulk)))]
pub(crate) async fn cancel(
    State(house): State<House>,
    id: RawId,
    query: RawQuery,
    actor: Option<Extension<Actor>>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Json<Bulk>, Problem> {
    let id = saga_id(id)?;
    Pairs::new(query)?.nothing_left()?;
    let mut fields = Fields::parse(&headers, body)?;
    let actor = Actor::of(actor, &mut fields)?;
    let reason = fields.text("reason")?;
    fields.nothing_left()?;
    in_task(async move {
        let mut tx = house.pool.begin_with(BEGIN).await?;
        let role = actor.role.as_deref();
        let bulk = bulk::cancel_as(&mut tx, id, &actor.name, &reason, role).await?;
        tx.commit().await?;
        Ok(Json(bulk))
    })
    .await
}
