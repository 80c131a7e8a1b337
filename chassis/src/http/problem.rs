//! The one shape of an error answer.
//!
//! | `type` | status | when |
//! |---|---|---|
//! | `/problems/malformed-body` | 400 | the body is absent or not JSON |
//! | `/problems/invalid-parameter` | 400 | a part of the URL or a header is wrong; `errors` names it |
//! | `/problems/not-found` | 404 | no such route or thing |
//! | `/problems/method-not-allowed` | 405 | the route exists for other methods, see `Allow` |
//! | `/problems/conflict` | 409 | right as such, but not in the present state |
//! | `/problems/content-too-large` | 413 | the body is over the limit |
//! | `/problems/unsupported-media-type` | 415 | the body is not declared as JSON |
//! | `/problems/invalid-content` | 422 | well-formed JSON with wrong fields; `errors` names them |
//! | `/problems/idempotency-key-reused` | 422 | the same `Idempotency-Key` with another request |
//! | `/problems/internal` | 500 | our fault; the cause is in the log, not in the answer |
//! | `/problems/unavailable` | 503 | the database is away or busy, or time ran out; see `Retry-After` |

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use problem_details::ProblemDetails;
use serde::Serialize;

use crate::database;

/// How long a client should wait when we cannot know better.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its path as in JavaScript: `items[0].quantity`. The whole body is `body`.
    pub field: String,
    /// What it must be; for people, never repeating the value.
    pub message: String,
}

/// An error answer: problem+json of RFC 9457, with `errors` for wrong fields.
#[derive(Debug, Clone)]
pub struct Problem(Box<Content>);

#[derive(Debug, Clone)]
struct Content {
    details: ProblemDetails<Extension>,
    retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Serialize)]
struct Extension {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of a service's own kind. `slug` becomes the type `/problems/{slug}`; `detail` is
    /// for the caller's eyes.
    #[must_use]
    pub fn new(status: StatusCode, slug: &str, title: &str, detail: impl Into<String>) -> Self {
        let mut details = ProblemDetails::from_status_code(status)
            .with_title(title)
            .with_detail(detail)
            .with_extensions(Extension { errors: Vec::new() });
        // Slugs are literals; one that is no URI leaves `about:blank`, which means the same.
        if let Ok(uri) = format!("/problems/{slug}").parse::<axum::http::Uri>() {
            details = details.with_type(uri);
        }
        Self(Box::new(Content {
            details,
            retry_after: None,
        }))
    }

    /// 400: the body is absent or not JSON.
    #[must_use]
    pub fn malformed_body(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed-body",
            "The body is not well-formed",
            detail,
        )
    }

    /// 400: a part of the path, the query or a header is wrong.
    #[must_use]
    pub fn invalid_parameter(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (status, slug) = (StatusCode::BAD_REQUEST, "invalid-parameter");
        Self::naming(
            status,
            slug,
            "A parameter is wrong",
            vec![FieldError::new(field, message)],
        )
    }

    /// 422: well-formed JSON with these fields wrong.
    #[must_use]
    pub fn invalid_content(errors: Vec<FieldError>) -> Self {
        let (status, slug) = (StatusCode::UNPROCESSABLE_ENTITY, "invalid-content");
        Self::naming(status, slug, "The content is wrong", errors)
    }

    /// 404: there is no such thing; `what` names it, as in `no order with this id`.
    #[must_use]
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", what)
    }

    /// 409: right as such, but not in the present state.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "conflict",
            "Not in this state",
            detail,
        )
    }

    /// 422: the `Idempotency-Key` was used before, with another request.
    #[must_use]
    pub fn idempotency_key_reused() -> Self {
        let message = "was used before with another request";
        Self::naming(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The idempotency key belongs to another request",
            vec![FieldError::new("Idempotency-Key", message)],
        )
    }

    /// 503 with `Retry-After`: the same request may succeed later. Rounded up to whole seconds.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Self {
        let (status, slug) = (StatusCode::SERVICE_UNAVAILABLE, "unavailable");
        let mut problem = Self::new(status, slug, "Not available now", detail);
        problem.0.retry_after = Some(retry_after);
        problem
    }

    /// 500: our fault. The cause and its causes go to the log; the answer carries none of it.
    #[must_use]
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let cause = cause.into();
        tracing::error!(cause = chain(cause.as_ref()), "a request failed");
        Self::internal_silently()
    }

    /// 500 whose cause has been logged already, or whose words may hold a payload.
    pub(crate) fn internal_silently() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "the request could not be completed; it may be tried again",
        )
    }

    /// The status it answers with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        let status = self.0.details.status;
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The fields it names.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.0.details.extensions.errors
    }

    /// `detail` repeats the errors in a sentence, for clients that show nothing else.
    fn naming(status: StatusCode, slug: &str, title: &str, errors: Vec<FieldError>) -> Self {
        let sentences: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let mut problem = Self::new(status, slug, title, sentences.join("; "));
        problem.0.details.extensions.errors = errors;
        problem
    }
}

impl FieldError {
    /// A field and what it must be.
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.0.details.detail.as_deref().unwrap_or_default();
        write!(out, "{}: {detail}", self.status())
    }
}

impl StdError for Problem {}

/// 503 where the database is away, full or gave up; else 500. Both are logged, without values.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let cause = database::describe(&error);
        if database::is_outage(&error) {
            tracing::warn!(cause, "the database could not serve a request");
            Self::unavailable("the database is not available", RETRY_AFTER)
        } else {
            tracing::error!(cause, "a request failed in the database");
            Self::internal_silently()
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Content {
            details,
            retry_after,
        } = *self.0;
        let mut response = details.into_response();
        if let Some(wait) = retry_after {
            let seconds = wait
                .as_millis()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX);
            let header = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, header);
        }
        response
    }
}

fn chain(error: &dyn StdError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
