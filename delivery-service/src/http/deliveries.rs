//! `GET /v1/deliveries?order_id=`.

use axum::extract::State;
use chassis::http::{Json, Page, Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::delivery::Delivery;
use crate::table;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    order_id: Uuid,
}

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
