//! What people and programs may ask of this service.
//!
//! | path | answers |
//! |---|---|
//! | `POST /v1/orders` | 201, `Location`, the order. `Idempotency-Key`: 1 to 255 visible ASCII characters; the same key and content answer the same order with the same `Location`, again 201; another content 422 |
//! | `GET /v1/orders` | newest first; `customer_id`, `status`, `limit`, `cursor` |
//! | `GET /v1/orders/{id}` | one order |
//! | `GET /v1/outbox`, `GET /v1/parked…` | see [`outbox::http`] |
//! | `GET /v1/sagas…`, `/v1/anomalies`, `/v1/definitions`, `/v1/locks`, `/v1/bulk-operations…` | see [`saga::http`] |

mod orders;
mod shop;

use chassis::http::OpenApiRouter;
use saga::Coordinator;
use saga::http::Streams;
use sqlx::PgPool;
use utoipa_axum::routes;

use shop::Shop;

/// The routes under `/v1`, with their description.
pub(crate) fn router(pool: PgPool, coordinator: Coordinator, streams: Streams) -> OpenApiRouter {
    let sagas = saga::http::router(pool.clone(), coordinator.clone(), streams);
    let messages = outbox::http::router(pool.clone());
    OpenApiRouter::new()
        .routes(routes!(orders::list, orders::place))
        .routes(routes!(orders::read))
        .with_state(Shop { pool, coordinator })
        .nest("/v1", sagas)
        .nest("/v1", messages)
}
