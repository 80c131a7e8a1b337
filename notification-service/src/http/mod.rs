//! What people and programs may ask. Nothing is changed here: events alone cause notifications.

mod notifications;

use axum::Router;
use axum::routing::get;
use sqlx::PgPool;

/// The routes under `/v1`.
pub(crate) fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/v1/notifications", get(notifications::list))
        .with_state(pool)
}
