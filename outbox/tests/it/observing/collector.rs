//! A collector of spans: speaks OTLP as protobuf over HTTP, and keeps what it gets.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value::Value,
    trace::v1::{Span, status::StatusCode as Status},
};
use prost::Message;
use tokio::net::TcpListener;

/// How it treats who posts to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Takes,
    Refuses,
    /// Takes the request and never answers.
    Hangs,
}

#[derive(Clone)]
pub(crate) struct Collector {
    address: SocketAddr,
    mood: Mood,
    got: Arc<Mutex<Got>>,
}

#[derive(Default)]
struct Got {
    requests: usize,
    headers: Option<HeaderMap>,
    raw: Vec<u8>,
    services: Vec<String>,
    spans: Vec<Span>,
}

impl Collector {
    pub(crate) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let collector = Self {
            address: listener.local_addr().unwrap(),
            mood,
            got: Arc::default(),
        };
        let router = Router::new()
            .route("/v1/traces", post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.got.lock().unwrap().requests
    }

    /// The value of a header of the last request.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let got = self.got.lock().unwrap();
        let value = got.headers.as_ref()?.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }

    /// Whether the bytes occur in anything received.
    pub(crate) fn has_seen(&self, text: &str) -> bool {
        let got = self.got.lock().unwrap();
        got.raw
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// The `service.name` of each request.
    pub(crate) fn services(&self) -> Vec<String> {
        self.got.lock().unwrap().services.clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.got.lock().unwrap().spans.clone()
    }

    /// All with this name.
    pub(crate) fn named(&self, name: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.name == name);
        spans
    }
}

async fn take(
    State(collector): State<Collector>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    {
        let mut got = collector.got.lock().unwrap();
        got.requests += 1;
        got.headers = Some(headers);
        got.raw.extend_from_slice(&body);
        let request = ExportTraceServiceRequest::decode(body).expect("is protobuf of OTLP");
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let name = attributes.iter().find(|a| a.key == "service.name").unwrap();
            let name = text(name.value.clone().unwrap().value.unwrap());
            got.services.push(name);
            let scopes = resource.scope_spans.into_iter();
            got.spans.extend(scopes.flat_map(|scope| scope.spans));
        }
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

fn text(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => format!("{number}i"),
        other => format!("{other:?}"),
    }
}

/// Questions to a span.
pub(crate) trait Ask {
    /// An attribute as text; an integer with an `i` behind it.
    fn attribute(&self, name: &str) -> Option<String>;
    /// Whether it failed.
    fn failed(&self) -> bool;
    /// The spans it is linked to.
    fn linked(&self) -> Vec<Vec<u8>>;
}

impl Ask for Span {
    fn attribute(&self, name: &str) -> Option<String> {
        let attribute = self.attributes.iter().find(|a| a.key == name)?;
        Some(text(attribute.value.clone()?.value?))
    }

    fn failed(&self) -> bool {
        let status = self.status.as_ref();
        status.is_some_and(|status| status.code == Status::Error as i32)
    }

    fn linked(&self) -> Vec<Vec<u8>> {
        self.links.iter().map(|link| link.span_id.clone()).collect()
    }
}
