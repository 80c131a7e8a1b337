//! The outbox and the inbox over HTTP, for any service that has them. Only with the feature `http`,
//! which stands on the services' floor.
//!
//! What passes here: looks, and what people ask ([`operator`](crate::operator),
//! [`incoming::parked`](crate::incoming::parked)). Promised: a look costs little, whatever the log
//! holds; a payload is shown only where it is asked for; asking twice is asking once. Not promised:
//! that what was asked for has happened: the relay sends and the consumer handles, within a second. Who
//! asks is the [`Caller`](chassis::http::auth::Caller) that the service's door let in; where it asks nobody,
//! whoever the request says. If we die here, a request is written or it is not, and the same request tells.
//!
//! | path | answers |
//! |---|---|
//! | `GET /outbox` | who relays, how much waits and since when, what is parked, the ring |
//! | `GET /parked` | what could not be sent or handled, in the order of parking; `side`, `class`, `topic`, `key`, `consumer`, `limit`, `cursor` |
//! | `GET /parked/{id}` | one, with its headers; `payload=true` shows that too |
//! | `POST /parked/{id}/replay` | asks that it be sent or handled again; `reason`, and `actor` where nobody is asked who he is; `?dry_run=true` |
//! | `POST /parked/{id}/discard` | gives it up, for good; likewise. For admins |
//! | `GET /audit` | what people did, newest first; `actor`, `action`, `subject`, `since`, `limit`, `cursor`. For admins |
//!
//! A message's id names its side: `outbox-12` was not sent, `inbox-7` was not handled.

mod view;

mod act;
mod audit;
mod look;
mod sides;

use sqlx::PgPool;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use view::{Asked, Header, Id, Outbox, Outcome, Parked, ParkedList, Shown, Side};

/// The routes with their description, to be nested under `/v1`.
pub fn router(pool: PgPool) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(look::outbox))
        .routes(routes!(look::list))
        .routes(routes!(look::show))
        .routes(routes!(act::replay))
        .routes(routes!(act::discard))
        .routes(routes!(audit::list))
        .with_state(pool)
}
