//! `POST /test-orders/{n}`: what a newcomer presses first.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use uuid::Uuid;

use crate::{
    api::{Order, Refused, Visitor},
    house::Dashboard,
    pages::frame::refuse,
};

/// Places a test order, and leads to its saga
#[utoipa::path(post, path = "/test-orders/{number}", tag = "pages", operation_id = "place_test_order",
    params(("number" = usize, Path, description = "Which of those on the overview", minimum = 0, maximum = 99, example = 0)),
    responses((status = 303, description = "To the saga's page")))]
pub(crate) async fn place(
    State(dashboard): State<Dashboard>,
    Path(number): Path<String>,
    visitor: Visitor,
) -> Response {
    let number = number.parse::<usize>().ok();
    let sample = number.and_then(|number| dashboard.samples().get(number));
    let Some(sample) = sample else {
        let none = Refused {
            status: StatusCode::NOT_FOUND.as_u16(),
            title: "Not found".to_owned(),
            detail: "there is no such test order".to_owned(),
        };
        return refuse(&dashboard, &visitor, none);
    };
    let key = Uuid::now_v7().to_string();
    let placed = dashboard
        .own()
        .post::<Order>(&visitor, sample.path, Some(&key), &sample.body);
    match placed.await {
        Ok(order) => Redirect::to(&format!("/sagas/{}", order.saga_id)).into_response(),
        Err(refused) => refuse(&dashboard, &visitor, refused),
    }
}
