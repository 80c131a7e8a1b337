//! `GET /v1/notifications?order_id=`.

use axum::extract::State;
use chassis::http::{Json, Page, Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::notification::Notification;
use crate::table;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of that order.
    order_id: Uuid,
}

/// The notifications about an order
#[utoipa::path(get, path = "/v1/notifications", tag = "notifications", operation_id = "list_notifications",
    params(Filter), responses((status = 200, description = "All of them", body = Page<Notification>)))]
pub(super) async fn list(
    State(pool): State<PgPool>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Notification>>, Problem> {
    let items = table::notifications_of_order(&pool, filter.order_id).await?;
    // An order has a handful of events: there is never a second page.
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}
