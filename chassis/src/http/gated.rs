//! Keeps requests away until the service has started.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

use crate::health::Gate;
use crate::http::OpenApiRouter;
use crate::http::problem::Problem;

/// These routes, which answer 503 and what is being waited for until `started` is open: before the
/// migrations there is no table to ask.
pub fn gated(router: OpenApiRouter, started: &Gate) -> OpenApiRouter {
    router.layer(from_fn_with_state(started.clone(), pass))
}

async fn pass(State(started): State<Gate>, request: Request, next: Next) -> Response {
    match started.waiting_for() {
        None => next.run(request).await,
        Some(what) => {
            let detail = format!("the service is starting and waits for {what}");
            Problem::unavailable(detail, Duration::from_secs(2)).into_response()
        }
    }
}
