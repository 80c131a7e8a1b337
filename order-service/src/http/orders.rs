//! `POST /v1/orders`, `GET /v1/orders` and `GET /v1/orders/{id}`.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chassis::http::auth::Caller;
use chassis::http::{Cursor, Json, Limit, Page, Path, Problem, Query, in_task};
use outbox::audit::Author;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::http::shop::Shop;
use crate::order::{NewOrder, Order, Status};
use crate::place_order::{Placed, place_order};
use crate::table;

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const MAX_KEY: usize = 255;

/// Places an order, and starts the saga that fulfils it
#[utoipa::path(post, path = "/v1/orders", tag = "orders", operation_id = "place_order",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "Names the request: sent again under the same key it answers the same order",
        min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body = NewOrder,
    responses(
        (status = 201, description = "The order, placed now or before under the same key",
            body = Order, headers(("Location" = String, description = "Where it is"))),
        (status = 409, description = "A request under the same key has not ended")))]
pub(super) async fn place(
    State(shop): State<Shop>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
    Json(order): Json<NewOrder>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let draft = order.check()?;
    let caller = caller
        .map(|Extension(caller)| Author::new(caller.name).with_role(Some(caller.role.as_str())));
    let placed = in_task(async move {
        let (key, caller) = (key.as_deref(), caller.as_ref());
        place_order(&shop.pool, &shop.coordinator, key, draft, caller)
            .await
            .map_err(problem)
    });
    match placed.await? {
        Placed::First(order) | Placed::Again(order) => Ok(created(order)),
        Placed::KeyReused => Err(Problem::idempotency_key_reused()),
        Placed::InProgress => Err(Problem::in_progress()),
    }
}

/// One order
#[utoipa::path(get, path = "/v1/orders/{id}", tag = "orders", operation_id = "show_order",
    params(("id" = Uuid, Path, description = "Which")),
    responses((status = 200, description = "The order", body = Order)))]
pub(super) async fn read(
    State(shop): State<Shop>,
    Path(id): Path<Uuid>,
) -> Result<Json<Order>, Problem> {
    match table::order(&shop.pool, id).await? {
        Some(order) => Ok(Json(order)),
        None => Err(Problem::not_found("there is no order with this id")),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of that customer.
    customer_id: Option<Uuid>,
    /// That stand there.
    #[param(inline)]
    status: Option<Status>,
    /// How many at most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The `next_cursor` of an earlier page of the same list.
    #[param(inline)]
    cursor: Option<Cursor>,
}

/// Orders, the newest first
#[utoipa::path(get, path = "/v1/orders", tag = "orders", operation_id = "list_orders",
    params(Filter), responses((status = 200, description = "A page", body = Page<Order>)))]
pub(super) async fn list(
    State(Shop { pool, .. }): State<Shop>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Order>>, Problem> {
    let before = match &filter.cursor {
        Some(cursor) => cursor.decode()?,
        None => Uuid::max(),
    };
    let (status, rows) = (filter.status, filter.limit.rows());
    let orders = match filter.customer_id {
        Some(customer) => table::orders_of_customer(&pool, customer, status, before, rows).await?,
        None => table::orders(&pool, status, before, rows).await?,
    };
    Page::cut(orders, filter.limit, |order| order.id).map(Json)
}

fn created(order: Order) -> Response {
    let location = format!("/v1/orders/{}", order.id);
    let headers = [(header::LOCATION, location)];
    (StatusCode::CREATED, headers, Json(order)).into_response()
}

/// The client's key, if it gives one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else {
        return Ok(None);
    };
    let bytes = key.as_bytes();
    let is_key = (1..=MAX_KEY).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    if !is_key || given.next().is_some() {
        let message = format!("must be one of 1 to {MAX_KEY} visible ASCII characters");
        return Err(Problem::invalid_parameter(IDEMPOTENCY_KEY, message));
    }
    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
}

fn problem(error: outbox::Error) -> Problem {
    match error {
        outbox::Error::Database(error) => error.into(),
        error => Problem::internal(error),
    }
}
