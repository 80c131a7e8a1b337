//! What people and programs may ask. Nothing is changed here: money moves by commands alone.

mod ledger;
mod payments;

use axum::Router;
use axum::routing::get;
use sqlx::PgPool;

/// The routes under `/v1`.
pub(crate) fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/v1/payments", get(payments::list))
        .route("/v1/payments/{id}", get(payments::read))
        .route("/v1/ledger", get(ledger::read))
        .with_state(pool)
}
