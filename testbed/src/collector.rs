//! A collector of spans for tests: speaks OTLP as protobuf over HTTP, and keeps what it gets.
//!
//! *What passes here*: what processes export to [`Collector::url`]. *Promised*: every request is decoded or answered 400 and
//! counted as garbage. *If we die*, so does it.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
pub use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::status::StatusCode as Status,
};
use prost::Message;
use tokio::net::TcpListener;

/// How it treats who posts to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Takes,
    /// Answers 500.
    Refuses,
    /// Takes the request and never answers.
    Hangs,
}

/// A collector on a free port. Clones are the same collector.
#[derive(Debug, Clone)]
pub struct Collector {
    address: SocketAddr,
    mood: Mood,
    got: Arc<Mutex<Got>>,
}

/// A span with the process that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The resource's `service.name`.
    pub service: String,
    /// The span.
    pub span: Span,
}

#[derive(Debug, Default)]
struct Got {
    requests: usize,
    garbage: usize,
    headers: Option<HeaderMap>,
    raw: Vec<u8>,
    services: Vec<String>,
    made: Vec<Made>,
}

impl Collector {
    /// Listens until the runtime ends.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(mood: Mood) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let collector = Self {
            address: listener.local_addr()?,
            mood,
            got: Arc::default(),
        };
        let router = Router::new()
            .route("/v1/traces", post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(collector)
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests came.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.got().requests
    }

    /// How many of them were not OTLP.
    #[must_use]
    pub fn garbage(&self) -> usize {
        self.got().garbage
    }

    /// The value of a header of the last request.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let got = self.got();
        let value = got.headers.as_ref()?.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// Whether the text occurs in anything received.
    #[must_use]
    pub fn has_seen(&self, text: &str) -> bool {
        let got = self.got();
        got.raw
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// The `service.name` of each request.
    #[must_use]
    pub fn services(&self) -> Vec<String> {
        self.got().services.clone()
    }

    /// Every span, with who made it.
    #[must_use]
    pub fn made(&self) -> Vec<Made> {
        self.got().made.clone()
    }

    /// Every span.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let got = self.got();
        got.made.iter().map(|made| made.span.clone()).collect()
    }

    /// All with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.name == name);
        spans
    }

    fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take(
    State(collector): State<Collector>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    if !collector.got().keep(headers, &body) {
        return (StatusCode::BAD_REQUEST, Vec::new());
    }
    match collector.mood {
        Mood::Takes => {
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            (StatusCode::OK, answer)
        }
        Mood::Refuses => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
        Mood::Hangs => pending().await,
    }
}

impl Got {
    /// Whether it could be read.
    fn keep(&mut self, headers: HeaderMap, body: &Bytes) -> bool {
        self.requests += 1;
        self.headers = Some(headers);
        self.raw.extend_from_slice(body);
        let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else {
            self.garbage += 1;
            return false;
        };
        for spans in request.resource_spans {
            let resource = spans.resource.unwrap_or_default();
            let service = attribute(&resource.attributes, "service.name").unwrap_or_default();
            self.services.push(service.clone());
            let scopes = spans.scope_spans.into_iter();
            let made = scopes.flat_map(|scope| scope.spans).map(|span| Made {
                service: service.clone(),
                span,
            });
            self.made.extend(made);
        }
        true
    }
}

/// Questions to a span.
pub trait Ask {
    /// An attribute as text; an integer with an `i` behind it.
    fn attribute(&self, name: &str) -> Option<String>;
    /// Whether it failed.
    fn failed(&self) -> bool;
    /// The spans it is linked to.
    fn linked(&self) -> Vec<Vec<u8>>;
}

impl Ask for Span {
    fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.attributes, name)
    }

    fn failed(&self) -> bool {
        let status = self.status.as_ref();
        status.is_some_and(|status| status.code == Status::Error as i32)
    }

    fn linked(&self) -> Vec<Vec<u8>> {
        self.links.iter().map(|link| link.span_id.clone()).collect()
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match attribute.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => format!("{number}i"),
        other => format!("{other:?}"),
    })
}
