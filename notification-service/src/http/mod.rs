//! What people and programs may ask. Nothing is changed here but by operators, in what is parked
//! ([`outbox::http`]): events alone cause notifications.

mod notifications;

use chassis::http::OpenApiRouter;
use sqlx::PgPool;
use utoipa_axum::routes;

/// The routes under `/v1`, with their description.
pub(crate) fn router(pool: PgPool) -> OpenApiRouter {
    let messages = outbox::http::router(pool.clone());
    OpenApiRouter::new()
        .routes(routes!(notifications::list))
        .with_state(pool)
        .nest("/v1", messages)
}
