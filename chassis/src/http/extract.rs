//! Extractors that answer with problems: the body, the query, the path.

use axum::body::Bytes;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::http::decode::{field_error, plainly};
use crate::http::problem::{Kind, Problem};

/// A JSON body, coming or going.
///
/// Coming: 415 when not declared as JSON, 413 when too large, 400 when absent or not JSON, 422
/// naming the field when JSON but not a `T`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

/// The query string. 400 naming the parameter when it is not a `T`. Use no `serde(flatten)` in
/// `T`: it turns numbers into strings here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<T>(pub T);

/// The path's parameters: one value, a tuple or a struct. 400 naming the parameter when they are
/// not a `T`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<T>(pub T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "Content-Type must be application/json";
            return Err(Problem::new(Kind::MEDIA_TYPE, detail));
        }
        let body =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection| match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => {
                        let detail = "the body is over the limit of this service";
                        Problem::new(Kind::TOO_LARGE, detail)
                    }
                    _ => Problem::malformed_body("the body could not be read to its end"),
                })?;
        parse(&body).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.query().unwrap_or_default().as_bytes();
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(text));
        serde_path_to_error::deserialize(pairs)
            .map(Self)
            .map_err(|error| {
                let wrong = field_error(&error.path().to_string(), error.inner(), "query");
                Problem::invalid_parameter(wrong.field, wrong.message)
            })
    }
}

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                let names = names(parts, state).await;
                Err(wrong_path(error.into_kind(), &names))
            }
            Err(error) => Err(Problem::internal(error)),
        }
    }
}

/// `application/json` or `application/*+json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(declared)) = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str())
    else {
        return false;
    };
    let media_type = declared.split(';').next().unwrap_or_default().trim();
    let media_type = media_type.to_ascii_lowercase();
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.is_empty() {
        return Err(Problem::malformed_body(
            "the body is empty; JSON is expected",
        ));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // A wrong field may stand before the place where the text stops being JSON.
        match serde_json::from_slice::<IgnoredAny>(body) {
            Err(malformed) => not_json(&malformed),
            Ok(IgnoredAny) => {
                let path = error.path().to_string();
                Problem::invalid_content(vec![field_error(&path, error.inner(), "body")])
            }
        }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::malformed_body(format!("the body is not JSON: {error}"))
}

async fn names<S: Send + Sync>(parts: &mut Parts, state: &S) -> Vec<String> {
    match RawPathParams::from_request_parts(parts, state).await {
        Ok(params) => params.iter().map(|(name, _)| name.to_owned()).collect(),
        Err(_) => Vec::new(),
    }
}

/// The reason, with the parameter's name even where axum knows only its position.
fn wrong_path(kind: ErrorKind, names: &[String]) -> Problem {
    let at = |index: usize| names.get(index).map_or("path", String::as_str).to_owned();
    let must_be = |expected| format!("must be {}", plainly(expected));
    let (field, message) = match kind {
        ErrorKind::ParseErrorAtKey {
            key, expected_type, ..
        } => (key, must_be(expected_type)),
        ErrorKind::ParseErrorAtIndex {
            index,
            expected_type,
            ..
        } => (at(index), must_be(expected_type)),
        ErrorKind::ParseError { expected_type, .. } => (at(0), must_be(expected_type)),
        ErrorKind::InvalidUtf8InPathParam { key } => (key, "must be UTF-8".to_owned()),
        ErrorKind::DeserializeError { key, message, .. } => (key, message),
        ErrorKind::Message(message) => (at(0), message),
        other => return Problem::internal(other.to_string()),
    };
    let wrong = field_error(&field, &message, "path");
    Problem::invalid_parameter(wrong.field, wrong.message)
}
