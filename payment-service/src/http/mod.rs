//! What people and programs may ask. Nothing is changed here but by operators, in what is parked
//! ([`outbox::http`]): money moves by commands alone.

mod ledger;
mod payments;

use chassis::http::OpenApiRouter;
use sqlx::PgPool;
use utoipa_axum::routes;

/// The routes under `/v1`, with their description.
pub(crate) fn router(pool: PgPool) -> OpenApiRouter {
    let messages = outbox::http::router(pool.clone());
    OpenApiRouter::new()
        .routes(routes!(payments::list))
        .routes(routes!(payments::read))
        .routes(routes!(ledger::read))
        .with_state(pool)
        .nest("/v1", messages)
}
