//! The way to the service, with one clear line when it is away or refuses.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{RequestBuilder, Url};
use serde_json::Value;

use crate::print::Output;

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every command needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The service that steers the sagas, over plain HTTP.
    #[arg(
        long,
        env = "RECOMPENSE_URL",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL"
    )]
    url: Url,

    /// How to print results.
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

impl Common {
    pub(crate) fn service(&self) -> Result<Service> {
        // Another crate's features may have turned TLS on, and a client then needs a provider,
        // though it speaks plain HTTP. An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE);
        Ok(Service {
            url: self.url.clone(),
            client: client.build()?,
        })
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// A service with sagas.
pub(crate) struct Service {
    url: Url,
    client: reqwest::Client,
}

/// What is asked for in a URL, those that are given.
pub(crate) type Query = Vec<(&'static str, Option<String>)>;

impl Service {
    pub(crate) async fn get(&self, path: &[&str], query: Query) -> Result<Value> {
        self.send(self.client.get(self.at(path, query)?)).await
    }

    pub(crate) async fn post(
        &self,
        path: &[&str],
        query: Query,
        key: Option<&str>,
        body: &Value,
    ) -> Result<Value> {
        let request = self.client.post(self.at(path, query)?).json(body);
        let request = key.into_iter().fold(request, |request, key| {
            request.header("Idempotency-Key", key)
        });
        self.send(request).await
    }

    fn at(&self, path: &[&str], query: Query) -> Result<Url> {
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().push("v1").extend(path),
            Err(()) => bail!("{} is no place of a service; check --url", self.url),
        };
        for (name, value) in query {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        Ok(url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value> {
        let answer = request
            .send()
            .await
            .with_context(|| format!("the service at {} does not answer; check --url", self.url))?;
        let status = answer.status();
        let body = answer.bytes().await.context("the answer broke off")?;
        let body: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{} answered {status} and no JSON; check --url", self.url))?;
        if status.is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().or(body["title"].as_str());
        bail!(
            "{} ({})",
            detail.unwrap_or("the service refused"),
            status.as_u16()
        )
    }
}

/// A field for eyes: a text as it is, nothing for null.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The items of a page.
pub(crate) fn items(page: &Value) -> impl Iterator<Item = &Value> {
    page["items"].as_array().into_iter().flatten()
}
