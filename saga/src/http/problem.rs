//! Everything that is answered instead of what was asked for.

use axum::{
    http::{StatusCode, Uri, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use problem_details::ProblemDetails;
use serde::Serialize;
use tracing::error;

use crate::Error;

/// How large a body may be, in bytes.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;
/// The header that names a request.
pub(crate) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

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
    /// 422: a field of the body is wrong.
    Content {
        /// Which.
        field: String,
        /// What would have been right.
        detail: String,
    },
    /// 400: the body is not a JSON object.
    Malformed(String),
    /// 415: the body is of another type.
    MediaType,
    /// 413: the body is too large.
    TooLarge,
    /// 404: there is no such saga.
    UnknownSaga,
    /// 404: there is no such bulk operation.
    UnknownBulk,
    /// 409: the saga's state does not allow it.
    NotAllowed(String),
    /// 409: not what the client saw.
    Conflict(String),
    /// 412: not what the client saw, and it said so in `If-Match`.
    Precondition(String),
    /// 422: the key belongs to another request.
    KeyReused,
    /// 503: this replica does not know the saga's version; another one may.
    Elsewhere(String),
    /// 500: a handler's task panicked. The panic hook has logged it.
    Panicked,
    /// 500, or 503 while the database is away. The cause is logged, not shown.
    Internal(Error),
}

impl Problem {
    pub(crate) fn content(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Content {
            field: field.into(),
            detail: detail.into(),
        }
    }

    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl<E: Into<Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        let error = error.into();
        match &error {
            Error::Request {
                field: "idempotency_key",
                reason,
            } => Self::field(IDEMPOTENCY_KEY, reason),
            Error::Request { field, reason } => Self::content(*field, reason),
            Error::UnknownSaga(_) => Self::UnknownSaga,
            Error::UnknownBulk(_) => Self::UnknownBulk,
            Error::NotAllowed { .. } => Self::NotAllowed(error.to_string()),
            Error::Stale { .. } | Error::CountChanged { .. } => Self::Conflict(error.to_string()),
            Error::KeyReused => Self::KeyReused,
            Error::UnknownDefinition { .. } => Self::Elsewhere(error.to_string()),
            _ => Self::Internal(error),
        }
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
                let parameter = problem(
                    StatusCode::BAD_REQUEST,
                    "invalid-parameter",
                    "A part of the URL or a header is wrong",
                );
                naming(parameter, field, detail)
            }
            Self::Content { field, detail } => {
                let content = StatusCode::UNPROCESSABLE_ENTITY;
                let content = problem(content, "invalid-content", "The content is wrong");
                naming(content, field, detail)
            }
            Self::KeyReused => {
                let reused = problem(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "idempotency-key-reused",
                    "The idempotency key belongs to another request",
                );
                let detail = "was used before with another request";
                naming(reused, IDEMPOTENCY_KEY.to_owned(), detail.to_owned())
            }
            Self::Internal(error) => internal(&error),
            Self::Panicked => ours(),
            Self::Elsewhere(detail) => {
                let elsewhere = StatusCode::SERVICE_UNAVAILABLE;
                let elsewhere = problem(elsewhere, "unavailable", "Not available here");
                let elsewhere = elsewhere.with_detail(detail);
                ([(RETRY_AFTER, "1")], elsewhere).into_response()
            }
            other => other.plain().into_response(),
        }
    }
}

impl Problem {
    /// Those that name no field.
    fn plain(self) -> ProblemDetails {
        let (status, slug, title, detail) = match self {
            Self::Malformed(detail) => (
                StatusCode::BAD_REQUEST,
                "malformed-body",
                "The body is not well-formed",
                detail,
            ),
            Self::MediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body is of another type",
                "send JSON, with the content type application/json".to_owned(),
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
                format!("it may have at most {BODY_LIMIT} bytes"),
            ),
            Self::UnknownBulk => (
                StatusCode::NOT_FOUND,
                "not-found",
                "Not found",
                "there is no bulk operation with this id".to_owned(),
            ),
            Self::NotAllowed(detail) => (
                StatusCode::CONFLICT,
                "not-allowed",
                "The saga's state does not allow it",
                detail,
            ),
            Self::Conflict(detail) => (
                StatusCode::CONFLICT,
                "changed",
                "It has changed meanwhile",
                detail,
            ),
            Self::Precondition(detail) => (
                StatusCode::PRECONDITION_FAILED,
                "changed",
                "It has changed meanwhile",
                detail,
            ),
            _ => (
                StatusCode::NOT_FOUND,
                "not-found",
                "Not found",
                "there is no saga with this id".to_owned(),
            ),
        };
        problem(status, slug, title).with_detail(detail)
    }
}

fn internal(error: &Error) -> Response {
    error!(%error, "a request about sagas failed");
    if error.is_transient() {
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        let busy = problem(busy, "unavailable", "Not available now");
        return ([(RETRY_AFTER, "1")], busy).into_response();
    }
    ours()
}

fn ours() -> Response {
    let ours = StatusCode::INTERNAL_SERVER_ERROR;
    problem(ours, "internal", "Internal error").into_response()
}

fn naming(problem: ProblemDetails, field: String, detail: String) -> Response {
    let message = detail.clone();
    problem
        .with_detail(format!("{field}: {detail}"))
        .with_extensions(Errors {
            errors: [FieldError { field, message }],
        })
        .into_response()
}

/// With the types that the services' own problems have.
fn problem(status: StatusCode, slug: &str, title: &str) -> ProblemDetails {
    let problem = ProblemDetails::from_status_code(status).with_title(title);
    match format!("/problems/{slug}").parse::<Uri>() {
        Ok(uri) => problem.with_type(uri),
        Err(_) => problem,
    }
}
