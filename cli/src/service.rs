//! The way to a service, with one clear line when it is away or refuses.
//!
//! A token goes into one header and nowhere else: it is never printed, and not sent on to wherever an
//! answer redirects to another host.

use std::{fmt, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Error, Result};
use reqwest::{
    ClientBuilder, RequestBuilder, Response, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::Value;

use crate::{
    print::{self, Output, Table},
    usage::Usage,
};

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A stream in which nothing comes for so long is dead: the service says something every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// Holds the token where no file is named.
const TOKEN: &str = "RECOMPENSE_TOKEN";

/// What every command needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The service, `http://host:port` or `https://host:port`. The certificate of an https one must be
    /// known to this machine, or to the file that SSL_CERT_FILE names.
    #[arg(
        long,
        env = "RECOMPENSE_URL",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL"
    )]
    url: Url,

    /// A file with the token that says who asks. Without it the token is what the environment variable
    /// RECOMPENSE_TOKEN holds, if it holds any. Never printed.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// How to print results.
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

impl Common {
    pub(crate) fn service(&self) -> Result<Service> {
        // An error means that there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let token = self.token()?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let client = |builder: ClientBuilder| -> Result<reqwest::Client> {
            let builder = builder.default_headers(headers.clone());
            // Where nothing is encrypted there need be no certificates on this machine.
            let builder = match self.url.scheme() {
                "https" => builder,
                _ => builder.tls_certs_only([]),
            };
            builder.build().context(
                "cannot speak https; has this machine certificates? SSL_CERT_FILE names a file of them",
            )
        };
        Ok(Service {
            url: self.url.clone(),
            has_token: token.is_some(),
            client: client(reqwest::Client::builder().timeout(PATIENCE))?,
            streams: client(
                reqwest::Client::builder()
                    .connect_timeout(PATIENCE)
                    .read_timeout(SILENCE),
            )?,
        })
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// As it is sent. What it is stays out of every error.
    fn token(&self) -> Result<Option<HeaderValue>> {
        let (token, place) = match &self.token_file {
            Some(path) => {
                let token = fs::read_to_string(path)
                    .with_context(|| format!("cannot read --token-file {}", path.display()))?;
                (token, format!("--token-file {}", path.display()))
            }
            None => match std::env::var(TOKEN) {
                Ok(token) if !token.trim().is_empty() => (token, TOKEN.to_owned()),
                _ => return Ok(None),
            },
        };
        let token = token.trim();
        let is_plain = |byte: u8| byte.is_ascii_graphic();
        if token.is_empty() || !token.bytes().all(is_plain) {
            let wrong = Usage::new("a token is one word of plain characters");
            return Err(Error::new(wrong).context(format!("{place} holds none")));
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// A service that is asked.
pub(crate) struct Service {
    url: Url,
    has_token: bool,
    client: reqwest::Client,
    streams: reqwest::Client,
}

/// What is asked for in a URL, those that are given.
pub(crate) type Query = Vec<(&'static str, Option<String>)>;

/// Why there is no answer, or not the one hoped for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody answers, or nobody who could.
    Away(String),
    /// It said no.
    Refused {
        /// The answer's status.
        status: u16,
        /// In words.
        text: String,
    },
}

impl Failure {
    /// Whether it may pass by itself.
    pub(crate) fn may_pass(error: &Error) -> bool {
        match error.downcast_ref::<Self>() {
            Some(Self::Away(_)) => true,
            Some(Self::Refused { status, .. }) => matches!(status, 429 | 502 | 503 | 504),
            None => false,
        }
    }

    /// Whether it cannot be as things stand.
    pub(crate) fn is_conflict(error: &Error) -> bool {
        let refused = error.downcast_ref::<Self>();
        matches!(refused, Some(Self::Refused { status: 409, .. }))
    }

    /// Whether the service has no such thing.
    pub(crate) fn is_not_found(error: &Error) -> bool {
        let refused = error.downcast_ref::<Self>();
        matches!(refused, Some(Self::Refused { status: 404, .. }))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(text) | Self::Refused { text, .. } => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

impl Service {
    pub(crate) async fn get(&self, path: &[&str], query: Query) -> Result<Value> {
        self.send(self.client.get(self.at(path, query)?)).await
    }

    /// What is no JSON.
    pub(crate) async fn text(&self, path: &[&str], query: Query) -> Result<String> {
        let answer = self.asked(self.client.get(self.at(path, query)?)).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        let body = answer.text().await.map_err(reqwest::Error::without_url);
        body.context(Failure::Away("the answer broke off".to_owned()))
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

    /// Server-sent events, from after the one named.
    pub(crate) async fn stream(
        &self,
        path: &[&str],
        query: Query,
        last: Option<&str>,
    ) -> Result<Response> {
        let request = self.streams.get(self.at(path, query)?);
        let request = request.header(ACCEPT, "text/event-stream");
        let request = last.into_iter().fold(request, |request, last| {
            request.header("Last-Event-ID", last)
        });
        let answer = self.asked(request).await?;
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(self.refusal(answer).await),
        }
    }

    /// Where it is, without what a URL may say of who asks.
    pub(crate) fn place(&self) -> String {
        let mut url = self.url.clone();
        // They fail where a URL has no host, and then it has no password either.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string().trim_end_matches('/').to_owned()
    }

    fn at(&self, path: &[&str], query: Query) -> Result<Url> {
        let mut url = self.url.clone();
        let is_http = ["http", "https"].contains(&url.scheme());
        match url.path_segments_mut() {
            Ok(mut segments) if is_http => segments.pop_if_empty().push("v1").extend(path),
            _ => {
                let wrong = Error::new(Usage::new("check --url"));
                return Err(wrong.context(format!("{} is no place of a service", self.place())));
            }
        };
        for (name, value) in query {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        Ok(url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value> {
        let answer = self.asked(request).await?;
        self.read(answer).await
    }

    async fn asked(&self, request: RequestBuilder) -> Result<Response> {
        let away = || {
            let place = self.place();
            Failure::Away(format!(
                "the service at {place} does not answer; check --url"
            ))
        };
        // Its own text has the URL once more, with whatever is in it.
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        answer.with_context(away)
    }

    async fn read(&self, answer: Response) -> Result<Value> {
        let status = answer.status();
        if !status.is_success() {
            return Err(self.refusal(answer).await);
        }
        let body = answer.bytes().await.map_err(reqwest::Error::without_url);
        let body = body.context(Failure::Away("the answer broke off".to_owned()))?;
        let place = self.place();
        let no_json = || format!("{place} answered {status} and no JSON; check --url");
        serde_json::from_slice(&body).with_context(no_json)
    }

    /// What an answer that is no success says, and what to do about it.
    async fn refusal(&self, answer: Response) -> Error {
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = body["detail"].as_str().or(body["title"].as_str());
        let (code, place) = (status.as_u16(), self.place());
        let text = match (code, said) {
            (401, _) if self.has_token => format!(
                "the service at {place} does not accept this token (401); is it still valid, and the \
                 right one for --url?"
            ),
            (401, _) => format!(
                "the service at {place} asks who you are (401); give a token by --token-file or {TOKEN}"
            ),
            (403, said) => format!(
                "{} (403); whoever has this token may not do that",
                said.unwrap_or("the service refused")
            ),
            (404, Some(said)) if said.starts_with("there is nothing at ") => {
                format!("{said} (404); check --url: is {place} the service that has it?")
            }
            (_, Some(said)) => format!("{said} ({code})"),
            (_, None) => format!("{place} answered {status} and no JSON; check --url"),
        };
        Failure::Refused { status: code, text }.into()
    }
}

/// `10000+` where there are more than were counted.
pub(crate) fn at_least(counted: &Value, number: &str) -> String {
    let more = if counted["exact"] == false { "+" } else { "" };
    text(&counted[number]) + more
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

/// The whole answer, or what of it fits on a screen.
pub(crate) fn shown(common: &Common, all: &Value, table: &Table) -> Result<()> {
    if common.is_json() {
        return print::json(all);
    }
    print::table(table)?;
    let next = ["next_cursor", "next_after"].map(|name| text(&all[name]));
    match next.into_iter().find(|next| !next.is_empty()) {
        Some(next) => print::lines(&[format!("there is more after {next}")]),
        None => Ok(()),
    }
}
