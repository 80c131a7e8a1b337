//! One question and its answer.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::FromRequestParts,
    http::{Method, Request, header, request::Parts},
};
use chassis::http::auth::{self, Caller, Role};
use reqwest::Url;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tower::ServiceExt;

/// The largest answer that is read, in bytes.
const ANSWER: usize = 16 * 1024 * 1024;
/// How long a neighbour may take: a page waits for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// A service's REST API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    name: String,
    door: Door,
}

#[derive(Debug, Clone)]
enum Door {
    Here(Router),
    Away { url: Url, client: reqwest::Client },
}

/// Who looks at a page; asked for in his name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visitor {
    /// Who he is, where he had to say it.
    caller: Option<Caller>,
    /// What he said it with, for the neighbours.
    token: Option<String>,
}

impl Visitor {
    /// His name, where he had to say it.
    pub(crate) fn name(&self) -> Option<String> {
        self.caller.as_ref().map(|caller| caller.name.clone())
    }

    /// Whether the API would let him. Where nobody is asked everybody may everything.
    pub(crate) fn may(&self, role: Role) -> bool {
        self.caller
            .as_ref()
            .is_none_or(|caller| caller.role >= role)
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            caller: parts.extensions.get().cloned(),
            token: auth::presented(&parts.headers).map(str::to_owned),
        })
    }
}

/// What the API answered instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The status of the answer.
    pub(crate) status: u16,
    /// The kind of problem.
    pub(crate) title: String,
    /// What is wrong with this request, if that was said.
    pub(crate) detail: String,
}

/// What of a problem is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
    message: String,
}

impl Api {
    pub(crate) fn here(name: &str, router: Router) -> Self {
        Self {
            name: name.to_owned(),
            door: Door::Here(router),
        }
    }

    pub(crate) fn away(name: &str, url: Url) -> Self {
        // Another crate's features may have turned TLS on, and a client then needs a provider,
        // though it speaks plain HTTP. An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Tokens travel to the neighbour alone: through no proxy, and to nowhere that it points to.
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        Self {
            name: name.to_owned(),
            door: Door::Away {
                url,
                // Only a broken TLS setting fails here, and there is none.
                client: client.build().unwrap_or_default(),
            },
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `path` begins after `/v1` and holds the query.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        visitor: &Visitor,
        path: &str,
    ) -> Result<T, Refused> {
        parse(self.ask(visitor, Method::GET, path, None, None).await?)
    }

    /// The answer as it is, for a picture.
    pub(crate) async fn text(&self, visitor: &Visitor, path: &str) -> Result<String, Refused> {
        let answer = self.ask(visitor, Method::GET, path, None, None).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        visitor: &Visitor,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<T, Refused> {
        parse(
            self.ask(visitor, Method::POST, path, key, Some(body))
                .await?,
        )
    }

    async fn ask(
        &self,
        visitor: &Visitor,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Vec<u8>, Refused> {
        let (status, answer) = match &self.door {
            Door::Here(router) => here(router, visitor, method, path, key, body).await?,
            Door::Away { url, client } => {
                away(client, url, visitor, method, path, key, body).await?
            }
        };
        match (200..300).contains(&status) {
            true => Ok(answer),
            false => Err(Refused::told(status, &answer)),
        }
    }
}

async fn here(
    router: &Router,
    visitor: &Visitor,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: Option<&Value>,
) -> Result<(u16, Vec<u8>), Refused> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1{path}"))
        .header(header::CONTENT_TYPE, "application/json");
    let request = key.into_iter().fold(request, |request, key| {
        request.header("Idempotency-Key", key)
    });
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let mut request = request.body(body).map_err(Refused::unaskable)?;
    if let Some(caller) = &visitor.caller {
        request.extensions_mut().insert(caller.clone());
    }
    // The error is never: a router answers everything.
    let answer = router
        .clone()
        .oneshot(request)
        .await
        .map_err(Refused::unaskable)?;
    let status = answer.status().as_u16();
    let answer = to_bytes(answer.into_body(), ANSWER).await;
    Ok((status, answer.map_err(Refused::unaskable)?.to_vec()))
}

async fn away(
    client: &reqwest::Client,
    url: &Url,
    visitor: &Visitor,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: Option<&Value>,
) -> Result<(u16, Vec<u8>), Refused> {
    let url = format!("{}/v1{path}", url.as_str().trim_end_matches('/'));
    let mut request = client.request(method, url);
    if let Some(token) = &visitor.token {
        request = request.bearer_auth(token);
    }
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let mut answer = request.send().await.map_err(|error| Refused {
        status: 502,
        title: "It does not answer".to_owned(),
        // Without the address, which may be an inner one.
        detail: error.without_url().to_string(),
    })?;
    let status = answer.status().as_u16();
    let mut all = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(Refused::unaskable)? {
        if all.len() + chunk.len() > ANSWER {
            return Err(Refused {
                status: 502,
                title: "The answer is too long".to_owned(),
                detail: format!("it has more than {ANSWER} bytes; narrow the filter"),
            });
        }
        all.extend_from_slice(&chunk);
    }
    Ok((status, all))
}

fn parse<T: DeserializeOwned>(answer: Vec<u8>) -> Result<T, Refused> {
    serde_json::from_slice(&answer).map_err(|error| Refused {
        status: 502,
        title: "The answer is of another version".to_owned(),
        detail: format!("{error}; are all services of the same release?"),
    })
}

impl Refused {
    fn told(status: u16, answer: &[u8]) -> Self {
        let problem: Problem = serde_json::from_slice(answer).unwrap_or_default();
        let mut detail = problem.detail;
        if detail.is_empty() {
            let errors = problem.errors.iter();
            let errors = errors.map(|error| format!("{}: {}", error.field, error.message));
            detail = errors.collect::<Vec<_>>().join("; ");
        }
        let title = match problem.title.is_empty() {
            true => format!("Answered {status}"),
            false => problem.title,
        };
        Self {
            status,
            title,
            detail,
        }
    }

    fn unaskable(error: impl std::fmt::Display) -> Self {
        Self {
            status: 502,
            title: "It could not be asked".to_owned(),
            detail: error.to_string(),
        }
    }

    /// A form that lacks something.
    pub(crate) fn form(detail: impl Into<String>) -> Self {
        Self {
            status: 422,
            title: "The form is not complete".to_owned(),
            detail: detail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, http::StatusCode, routing::get};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_answer_in_the_process_and_over_http_is_the_same() {
        let router = Router::new()
            .route("/v1/fine", get(async || Json(json!({"n": 1}))))
            .route(
                "/v1/wrong",
                get(async || {
                    let body = json!({"title": "Not so", "errors": [{"field": "limit", "message": "too many"}]});
                    (StatusCode::BAD_REQUEST, Json(body))
                }),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = router.clone();
        tokio::spawn(async move { axum::serve(listener, served).await });
        let url = Url::parse(&format!("http://{address}/")).unwrap();
        for api in [Api::here("here", router), Api::away("away", url)] {
            let visitor = Visitor::default();
            let fine: Value = api.get(&visitor, "/fine").await.unwrap();
            assert_eq!(fine, json!({"n": 1}), "{}", api.name());
            let wrong = api.get::<Value>(&visitor, "/wrong").await.unwrap_err();
            let told = (wrong.status, wrong.title.as_str(), wrong.detail.as_str());
            assert_eq!(told, (400, "Not so", "limit: too many"), "{}", api.name());
            let none = api.get::<Value>(&visitor, "/none").await.unwrap_err();
            assert_eq!(none.status, 404, "{}", api.name());
        }
    }

    #[tokio::test]
    async fn a_neighbour_that_is_away_is_an_answer_too() {
        let api = Api::away("gone", Url::parse("http://127.0.0.1:1").unwrap());
        let refused = api.get::<Value>(&Visitor::default(), "/outbox").await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.status, 502);
        assert!(!refused.detail.contains("127.0.0.1"), "{refused:?}");
    }
}
