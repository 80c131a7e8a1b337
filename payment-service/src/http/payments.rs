//! `GET /v1/payments?order_id=` and `GET /v1/payments/{id}`.

use axum::extract::State;
use chassis::http::{Json, Page, Path, Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::payment::Payment;
use crate::table;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of that order.
    order_id: Uuid,
}

/// The payments of an order
#[utoipa::path(get, path = "/v1/payments", tag = "payments", operation_id = "list_payments",
    params(Filter), responses((status = 200, description = "All of them", body = Page<Payment>)))]
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

/// One payment
#[utoipa::path(get, path = "/v1/payments/{id}", tag = "payments", operation_id = "show_payment",
    params(("id" = Uuid, Path, description = "Which")),
    responses((status = 200, description = "The payment", body = Payment)))]
pub(super) async fn read(
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
) -> Result<Json<Payment>, Problem> {
    match table::payment(&pool, id).await? {
        Some(payment) => Ok(Json(payment)),
        None => Err(Problem::not_found("there is no payment with this id")),
    }
}
