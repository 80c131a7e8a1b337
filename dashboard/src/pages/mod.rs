//! Pages and forms, one file each.

mod each;
mod filter;
mod filters;
mod frame;

mod anomalies;
mod audit;
mod bulk;
mod bulk_act;
mod definitions;
mod locks;
mod login;
mod order;
mod overview;
mod parked;
mod parked_act;
mod saga;
mod saga_act;
mod sagas;

#[cfg(test)]
mod probe;

use axum::middleware::from_fn;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{assets, guard::harmless, house::Dashboard};

/// All pages with their description.
pub(crate) fn router(dashboard: Dashboard) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(overview::overview))
        .routes(routes!(overview::now))
        .routes(routes!(order::place))
        .routes(routes!(sagas::list))
        .routes(routes!(sagas::rows))
        .routes(routes!(sagas::chips_part))
        .routes(routes!(saga::page))
        .routes(routes!(saga::state))
        .routes(routes!(saga::operations, saga_act::operate))
        .routes(routes!(bulk::list, bulk_act::ask))
        .routes(routes!(bulk::rows))
        .routes(routes!(bulk_act::form))
        .routes(routes!(bulk::one))
        .routes(routes!(bulk::progress))
        .routes(routes!(bulk_act::cancel))
        .routes(routes!(parked::list))
        .routes(routes!(parked::one))
        .routes(routes!(parked_act::replay))
        .routes(routes!(parked_act::discard))
        .routes(routes!(definitions::page))
        .routes(routes!(anomalies::page))
        .routes(routes!(locks::page))
        .routes(routes!(audit::page))
        .routes(routes!(login::page, login::log_in))
        .routes(routes!(login::log_out))
        .layer(from_fn(harmless))
        .routes(routes!(assets::asset))
        .with_state(dashboard)
}
