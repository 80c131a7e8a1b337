//! The one shape of an error answer, and every kind of it there is.
//!
//! A kind's `type` is `/problems/<slug>`, which every service answers with the kind's section of
//! `docs/problems.md`.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use problem_details::ProblemDetails;
use serde::Serialize;
use utoipa::ToSchema;

use crate::database;

/// How long a client should wait when we cannot know better.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A kind of problem: what its `type` ends with, its status and its title. Each has a section in
/// `docs/problems.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The last part of the `type`.
    pub slug: &'static str,
    /// The status it answers with.
    pub status: u16,
    /// What every problem of the kind is called.
    pub title: &'static str,
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $name:ident = ($slug:literal, $status:literal, $title:literal);)+) => {
        impl Kind {
            $($(#[$meta])* pub const $name: Self = Self {
                slug: $slug,
                status: $status,
                title: $title,
            };)+

            /// Every kind that services have in common.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

kinds! {
    /// The body is absent or not JSON.
    MALFORMED_BODY = ("malformed-body", 400, "The body is not well-formed");
    /// A part of the URL or a header is wrong; `errors` names it.
    INVALID_PARAMETER = ("invalid-parameter", 400, "A part of the URL or a header is wrong");
    /// Who asks is not known; `WWW-Authenticate` says how to say it.
    UNAUTHENTICATED = ("unauthenticated", 401, "Not authenticated");
    /// Who asks is known, and may not.
    FORBIDDEN = ("forbidden", 403, "Not allowed for this caller");
    /// No such route or thing.
    NOT_FOUND = ("not-found", 404, "Not found");
    /// The route exists for other methods, see `Allow`.
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "Method not allowed");
    /// Right as such, but not in the present state.
    CONFLICT = ("conflict", 409, "Not in this state");
    /// A request under the same `Idempotency-Key` has not ended yet.
    IN_PROGRESS = ("idempotency-key-in-progress", 409, "The same request is under way");
    /// The body is over the limit.
    TOO_LARGE = ("content-too-large", 413, "The body is too large");
    /// The body is not declared as JSON.
    MEDIA_TYPE = ("unsupported-media-type", 415, "Not declared as JSON");
    /// Well-formed JSON with wrong fields; `errors` names them.
    INVALID_CONTENT = ("invalid-content", 422, "The content is wrong");
    /// The same `Idempotency-Key` with another request.
    KEY_REUSED = ("idempotency-key-reused", 422, "The idempotency key belongs to another request");
    /// Our fault; the cause is in the log, not in the answer.
    INTERNAL = ("internal", 500, "Internal error");
    /// The database is away or busy, too much is asked at once, or time ran out; see `Retry-After`.
    UNAVAILABLE = ("unavailable", 503, "Not available now");
}

/// What an error answer holds, for the API's description.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "/problems/invalid-parameter",
    "title": "A part of the URL or a header is wrong",
    "status": 400,
    "detail": "limit: must be from 1 to 200",
    "errors": [{"field": "limit", "message": "must be from 1 to 200"}],
}))]
pub struct ProblemBody {
    /// Which kind: a path of this service that explains it.
    pub r#type: String,
    /// The kind in words.
    pub title: String,
    /// The status, again.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this very request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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
    /// A problem of a kind. `detail` is for the caller's eyes.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(kind.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut details = ProblemDetails::from_status_code(status)
            .with_title(kind.title)
            .with_detail(detail)
            .with_extensions(Extension { errors: Vec::new() });
        // Slugs are literals; one that is no URI leaves `about:blank`, which means the same.
        if let Ok(uri) = format!("/problems/{}", kind.slug).parse::<axum::http::Uri>() {
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
        Self::new(Kind::MALFORMED_BODY, detail)
    }

    /// 400: a part of the path, the query or a header is wrong.
    #[must_use]
    pub fn invalid_parameter(field: impl Into<String>, message: impl Into<String>) -> Self {
        let errors = vec![FieldError::new(field, message)];
        Self::naming(Kind::INVALID_PARAMETER, errors)
    }

    /// 422: well-formed JSON with these fields wrong.
    #[must_use]
    pub fn invalid_content(errors: Vec<FieldError>) -> Self {
        Self::naming(Kind::INVALID_CONTENT, errors)
    }

    /// 404: there is no such thing; `what` names it, as in `no order with this id`.
    #[must_use]
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(Kind::NOT_FOUND, what)
    }

    /// 405: the route exists for other methods.
    pub(in crate::http) fn method_not_allowed(method: &Method) -> Self {
        let detail = format!("{method} is not possible here; the Allow header lists what is");
        Self::new(Kind::METHOD_NOT_ALLOWED, detail)
    }

    /// 409: right as such, but not in the present state.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Kind::CONFLICT, detail)
    }

    /// 422: the `Idempotency-Key` was used before, with another request.
    #[must_use]
    pub fn idempotency_key_reused() -> Self {
        let message = "was used before with another request";
        let errors = vec![FieldError::new("Idempotency-Key", message)];
        Self::naming(Kind::KEY_REUSED, errors)
    }

    /// 409 with `Retry-After`: a request under the same `Idempotency-Key` has not ended yet.
    #[must_use]
    pub fn in_progress() -> Self {
        let detail = "a request with this Idempotency-Key has not ended yet; ask again";
        Self::new(Kind::IN_PROGRESS, detail).after(Duration::from_secs(1))
    }

    /// 503 with `Retry-After`: the same request may succeed later. Rounded up to whole seconds.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Kind::UNAVAILABLE, detail).after(retry_after)
    }

    fn after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
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
        let detail = "the request could not be completed; it may be tried again";
        Self::new(Kind::INTERNAL, detail)
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
    fn naming(kind: Kind, errors: Vec<FieldError>) -> Self {
        let sentences: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let mut problem = Self::new(kind, sentences.join("; "));
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
