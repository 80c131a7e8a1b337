//! `GET /v1/payments?order_id=` and `GET /v1/payments/{id}`.

use axum::extract::State;
use chassis::http::{Json, Page, Path, Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::payment::Payment;
use crate::table;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    order_id: Uuid,
}

pub(super) async fn list(
    State(pool): State<PgPool>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Payment>>, Problem> {
    let items = table::payments_of_order(&pool, filter.order_id).await?;
    // An order has one payment: there is never a second page.
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

pub(super) async fn read(
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
) -> Result<Json<Payment>, Problem> {
    match table::payment(&pool, id).await? {
        Some(payment) => Ok(Json(payment)),
        None => Err(Problem::not_found("there is no payment with this id")),
    }
}
