//! What people and programs may ask of this service.
//!
//! | path | answers |
//! |---|---|
//! | `POST /v1/orders` | 201, `Location`, the order. `Idempotency-Key`: 1 to 255 visible ASCII characters; the same key and content answer the same order with the same `Location`, again 201; another content 422 |
//! | `GET /v1/orders` | newest first; `customer_id`, `status`, `limit`, `cursor` |
//! | `GET /v1/orders/{id}` | one order |
//! | `GET /v1/outbox`, `GET /v1/parked…`, `GET /v1/audit` | see [`outbox::http`] |
//! | `GET /v1/sagas…`, `/v1/anomalies`, `/v1/definitions`, `/v1/locks`, `/v1/bulk-operations…` | see [`saga::http`] |

mod orders;
mod shop;

use axum::Extension;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use chassis::http::OpenApiRouter;
use chassis::http::auth::{Caller, Role};
use saga::Coordinator;
use saga::http::{Actor, Streams};
use sqlx::PgPool;
use utoipa_axum::routes;

use shop::Shop;

/// The routes under `/v1`, with their description.
pub(crate) fn router(pool: PgPool, coordinator: Coordinator, streams: Streams) -> OpenApiRouter {
    let sagas = saga::http::router(pool.clone(), coordinator.clone(), streams);
    let sagas = sagas.layer(from_fn(name_actor));
    let messages = outbox::http::router(pool.clone());
    OpenApiRouter::new()
        .routes(routes!(orders::list, orders::place))
        .routes(routes!(orders::read))
        .with_state(Shop { pool, coordinator })
        .nest("/v1", sagas)
        .nest("/v1", messages)
}

/// Sagas know no callers, only actors.
async fn name_actor(
    caller: Option<Extension<Caller>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(Extension(caller)) = caller {
        request.extensions_mut().insert(Actor {
            name: caller.name,
            role: Some(caller.role.as_str().to_owned()),
            // As with a message that is discarded: what is lost then nobody can bring back.
            may_give_up: caller.role >= Role::Admin,
        });
    }
    next.run(request).await
}
