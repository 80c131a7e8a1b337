//! `GET /v1/deliveries?order_id=`.

use axum::extract::State;
use chassis::http::{Json, Page, Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::delivery::Delivery;
use crate::table;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of that order.
    order_id: Uuid,
}

/// The deliveries of an order
#[utoipa::path(get, path = "/v1/deliveries", tag = "deliveries", operation_id = "list_deliveries",
    params(Filter), responses((status = 200, description = "All of them", body = Page<Delivery>)))]
pub(super) async fn list(
    State(pool): State<PgPool>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Delivery>>, Problem> {
    let items = table::deliveries_of_order(&pool, filter.order_id).await?;
    // An order has one delivery: there is never a second page.
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}
