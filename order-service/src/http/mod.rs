//! What people and programs may ask of this service.
//!
//! | path | answers |
//! |---|---|
//! | `POST /v1/orders` | 201, `Location`, the order. `Idempotency-Key`: 1 to 255 visible ASCII characters; the same key and content answer the same order with the same `Location`, again 201; another content 422 |
//! | `GET /v1/orders` | newest first; `customer_id`, `status`, `limit`, `cursor` |
//! | `GET /v1/orders/{id}` | one order |
//! | `GET /v1/sagas…`, `/v1/anomalies`, `/v1/definitions`, `/v1/locks`, `/v1/bulk-operations…` | see [`saga::http`] |

mod orders;
mod shop;

use axum::Router;
use axum::routing::get;
use saga::Coordinator;
use sqlx::PgPool;

use shop::Shop;

/// The routes under `/v1`.
pub(crate) fn router(pool: PgPool, coordinator: Coordinator) -> Router {
    let sagas = saga::http::router(pool.clone(), coordinator.clone());
    Router::new()
        .route("/v1/orders", get(orders::list).post(orders::place))
        .route("/v1/orders/{id}", get(orders::read))
        .with_state(Shop { pool, coordinator })
        .nest("/v1", sagas)
}
