//! What people and programs may ask. Nothing is changed here: deliveries move by commands alone.

mod deliveries;

use axum::Router;
use axum::routing::get;
use sqlx::PgPool;

/// The routes under `/v1`.
pub(crate) fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/v1/deliveries", get(deliveries::list))
        .with_state(pool)
}
