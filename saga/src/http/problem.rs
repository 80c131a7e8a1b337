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

/// A kind of problem. Each has a section in `docs/problems.md`, under its slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The last part of the `type`.
    pub slug: &'static str,
    /// The statuses it answers with.
    pub statuses: &'static [u16],
    /// What every problem of the kind is called.
    pub title: &'static str,
}

macro_rules! kinds {
    ($($name:ident = ($slug:literal, $statuses:expr, $title:literal);)+) => {
        impl Kind {
            $(const $name: Self = Self { slug: $slug, statuses: &$statuses, title: $title };)+

            /// Every kind that these routes answer with.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

// Those that every service has stand in `chassis::http::Kind` in the same words.
kinds! {
    MALFORMED_BODY = ("malformed-body", [400], "The body is not well-formed");
    INVALID_PARAMETER = ("invalid-parameter", [400], "A part of the URL or a header is wrong");
    FORBIDDEN = ("forbidden", [403], "Not allowed for this caller");
    NOT_FOUND = ("not-found", [404], "Not found");
    NOT_ALLOWED = ("not-allowed", [409], "The saga's state does not allow it");
    CHANGED = ("changed", [409, 412], "It has changed meanwhile");
    IN_PROGRESS = ("idempotency-key-in-progress", [409], "The same request is under way");
    TOO_LARGE = ("content-too-large", [413], "The body is too large");
    MEDIA_TYPE = ("unsupported-media-type", [415], "Not declared as JSON");
    INVALID_CONTENT = ("invalid-content", [422], "The content is wrong");
    UNREADABLE = ("unreadable", [409], "The stored state cannot be read");
    KEY_REUSED = ("idempotency-key-reused", [422], "The idempotency key belongs to another request");
    INTERNAL = ("internal", [500], "Internal error");
    UNAVAILABLE = ("unavailable", [503], "Not available now");
}

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
    /// 403: who asks may do something else, not this.
    Forbidden(String),
    /// 404: there is no such saga.
    UnknownSaga,
    /// 404: there is no such bulk operation.
    UnknownBulk,
    /// 409: the saga's state does not allow it.
    NotAllowed(String),
    /// 409: the saga's row cannot be read by this replica.
    Unreadable(String),
    /// 409: not what the client saw.
    Conflict(String),
    /// 412: not what the client saw, and it said so in `If-Match`.
    Precondition(String),
    /// 422: the key belongs to another request.
    KeyReused,
    /// 409: a request under the same key has not ended.
    InProgress,
    /// 503: more streams are open than this replica has room for, or none can be served.
    NoRoom(&'static str),
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
            Error::Corrupt { .. } => Self::Unreadable(error.to_string()),
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
            Self::Field { field, detail } => naming(Kind::INVALID_PARAMETER, field, detail),
            Self::Content { field, detail } => naming(Kind::INVALID_CONTENT, field, detail),
            Self::KeyReused => {
                let detail = "was used before with another request";
                naming(
                    Kind::KEY_REUSED,
                    IDEMPOTENCY_KEY.to_owned(),
                    detail.to_owned(),
                )
            }
            Self::Internal(error) => internal(&error),
            Self::Panicked => problem(Kind::INTERNAL).into_response(),
            Self::Elsewhere(detail) => later(Kind::UNAVAILABLE, &detail),
            Self::NoRoom(detail) => later(Kind::UNAVAILABLE, detail),
            Self::InProgress => {
                let detail = "a request with this Idempotency-Key has not ended yet; ask again";
                later(Kind::IN_PROGRESS, detail)
            }
            other => other.plain().into_response(),
        }
    }
}

impl Problem {
    /// Those that name no field and no time.
    fn plain(self) -> ProblemDetails {
        let (kind, detail) = match self {
            Self::Malformed(detail) => (Kind::MALFORMED_BODY, detail),
            Self::MediaType => (
                Kind::MEDIA_TYPE,
                "send JSON, with the content type application/json".to_owned(),
            ),
            Self::TooLarge => (
                Kind::TOO_LARGE,
                format!("it may have at most {BODY_LIMIT} bytes"),
            ),
            Self::UnknownBulk => (
                Kind::NOT_FOUND,
                "there is no bulk operation with this id".to_owned(),
            ),
            Self::Forbidden(detail) => (Kind::FORBIDDEN, detail),
            Self::NotAllowed(detail) => (Kind::NOT_ALLOWED, detail),
            Self::Unreadable(detail) => (Kind::UNREADABLE, detail),
            Self::Conflict(detail) => (Kind::CHANGED, detail),
            Self::Precondition(detail) => {
                let changed = problem(Kind::CHANGED).with_detail(detail);
                return changed.with_status(StatusCode::PRECONDITION_FAILED);
            }
            _ => (Kind::NOT_FOUND, "there is no saga with this id".to_owned()),
        };
        problem(kind).with_detail(detail)
    }
}

fn internal(error: &Error) -> Response {
    error!(%error, "a request about sagas failed");
    match error.is_transient() {
        true => later(Kind::UNAVAILABLE, "the database is not available"),
        false => problem(Kind::INTERNAL).into_response(),
    }
}

fn later(kind: Kind, detail: &str) -> Response {
    let problem = problem(kind).with_detail(detail);
    ([(RETRY_AFTER, "1")], problem).into_response()
}

fn naming(kind: Kind, field: String, detail: String) -> Response {
    let message = detail.clone();
    problem(kind)
        .with_detail(format!("{field}: {detail}"))
        .with_extensions(Errors {
            errors: [FieldError { field, message }],
        })
        .into_response()
}

fn problem(kind: Kind) -> ProblemDetails {
    let status = kind.statuses.first().copied().map(StatusCode::from_u16);
    let status = status.and_then(Result::ok);
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = ProblemDetails::from_status_code(status).with_title(kind.title);
    match format!("/problems/{}", kind.slug).parse::<Uri>() {
        Ok(uri) => problem.with_type(uri),
        Err(_) => problem,
    }
}
