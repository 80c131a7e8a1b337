//! For tests: an API that answers what it is told to, and somebody who looks at pages.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, Request, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use chassis::http::auth::{Caller, Role};
use serde_json::Value;
use tower::ServiceExt;

use crate::house::Dashboard;

/// Would run if it were markup.
pub(crate) const HOSTILE: &str =
    r#""><img src=x onerror=window.hostile=1><script>window.hostile=1</script>"#;

/// An API. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    answers: HashMap<String, (u16, Value)>,
    asked: Vec<Question>,
}

/// What it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) uri: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Answers so at a path, or at a path with just this query.
    pub(crate) fn answers(&self, at: &str, status: u16, body: Value) {
        let mut told = self.0.lock().unwrap();
        told.answers.insert(at.to_owned(), (status, body));
    }

    pub(crate) fn asked(&self) -> Vec<Question> {
        self.0.lock().unwrap().asked.clone()
    }

    pub(crate) fn last(&self) -> Question {
        self.asked().pop().expect("it was asked")
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    /// Answers over HTTP, at this URL.
    pub(crate) async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = self.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }
}

async fn answer(
    State(Fake(told)): State<Fake>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let mut told = told.lock().unwrap();
    let key = headers.get("Idempotency-Key");
    told.asked.push(Question {
        uri: uri.to_string(),
        key: key.map(|key| key.to_str().unwrap().to_owned()),
        body: serde_json::from_str(&body).unwrap_or_default(),
    });
    let exactly = told.answers.get(&uri.to_string());
    match exactly.or_else(|| told.answers.get(uri.path())) {
        Some((status, body)) => {
            (StatusCode::from_u16(*status).unwrap(), Json(body.clone())).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Somebody who looks.
pub(crate) struct Probe {
    pages: Router,
    role: Option<Role>,
    has_script: bool,
}

/// What he sees.
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) page: String,
}

impl Probe {
    /// Of whom nobody asks who he is.
    pub(crate) fn of(dashboard: &Dashboard) -> Self {
        Self {
            pages: dashboard.router().into(),
            role: None,
            has_script: false,
        }
    }

    /// Of whom the door knows who he is.
    pub(crate) fn by(self, role: Role) -> Self {
        let role = Some(role);
        Self { role, ..self }
    }

    /// Asks for parts of pages.
    pub(crate) fn with_script(self) -> Self {
        let has_script = true;
        Self { has_script, ..self }
    }

    pub(crate) async fn get(&self, uri: &str) -> Seen {
        self.ask(Request::get(uri), Body::empty()).await
    }

    pub(crate) async fn post(&self, uri: &str, form: &[(&str, &str)]) -> Seen {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let request = Request::post(uri);
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.ask(request, form.into()).await
    }

    async fn ask(&self, request: axum::http::request::Builder, body: Body) -> Seen {
        let request = match self.has_script {
            true => request.header("HX-Request", "true"),
            false => request,
        };
        let mut request = request.body(body).unwrap();
        if let Some(role) = self.role {
            let name = "ann".to_owned();
            request.extensions_mut().insert(Caller { name, role });
        }
        let answer = self.pages.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = to_bytes(body, 10_000_000).await.unwrap();
        Seen {
            status: head.status.as_u16(),
            headers: head.headers,
            page: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}

impl Seen {
    /// The page, which was answered so.
    pub(crate) fn is(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.page);
        self.page
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}
