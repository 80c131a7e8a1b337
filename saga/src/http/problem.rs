//! Everything that is answered instead of what was asked for.

use axum::{
    http::{StatusCode, Uri, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use problem_details::ProblemDetails;
use serde::Serialize;
use tracing::error;

/// An answer that is not the one hoped for.
#[derive(Debug)]
pub(crate) enum Problem {
    /// 400: a field of the request is wrong.
    Field {
        /// Which.
        field: String,
        /// What would have been right.
        detail: String,
    },
    /// 404: there is no such saga.
    UnknownSaga,
    /// 500, or 503 while the database is away. The cause is logged, not shown.
    Internal(crate::Error),
}

impl Problem {
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl<E: Into<crate::Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Internal(error.into())
    }
}

/// The member that names the fields, as every problem of the shop has it.
#[derive(Serialize)]
struct Errors {
    errors: [FieldError; 1],
}

#[derive(Serialize)]
struct FieldError {
    field: String,
    message: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Field { field, detail } => {
                let message = detail.clone();
                problem(
                    StatusCode::BAD_REQUEST,
                    "invalid-parameter",
                    "A part of the URL is wrong",
                )
                .with_detail(format!("{field}: {detail}"))
                .with_extensions(Errors {
                    errors: [FieldError { field, message }],
                })
                .into_response()
            }
            Self::UnknownSaga => problem(StatusCode::NOT_FOUND, "not-found", "Not found")
                .with_detail("there is no saga with this id")
                .into_response(),
            Self::Internal(error) => {
                error!(%error, "sagas cannot be shown");
                if error.is_transient() {
                    let busy = StatusCode::SERVICE_UNAVAILABLE;
                    let busy = problem(busy, "unavailable", "Not available now");
                    return ([(RETRY_AFTER, "1")], busy).into_response();
                }
                let ours = StatusCode::INTERNAL_SERVER_ERROR;
                problem(ours, "internal", "Internal error").into_response()
            }
        }
    }
}

/// With the types that the services' own problems have.
fn problem(status: StatusCode, slug: &str, title: &str) -> ProblemDetails {
    let problem = ProblemDetails::from_status_code(status).with_title(title);
    match format!("/problems/{slug}").parse::<Uri>() {
        Ok(uri) => problem.with_type(uri),
        Err(_) => problem,
    }
}
