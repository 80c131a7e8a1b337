//! What every page has at hand, and the loop that reads the series.

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::Router;
use chrono::{TimeDelta, Utc};
use reqwest::Url;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    api::{Anomalies, Api, Count, Outbox, Refused, Visitor},
    pages,
    series::{INTERVAL, Reading, Series},
    words,
};

/// An order that anyone may place from the overview, to see what becomes of it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What the button says.
    pub label: &'static str,
    /// What is to be seen then.
    pub about: &'static str,
    /// Where it is posted, after `/v1`. The answer's `saga_id` is where the reader is led.
    pub path: &'static str,
    /// What is posted.
    pub body: Value,
}

/// A service whose messages are shown too: `name=url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name.
    pub name: String,
    /// Where its API is.
    pub url: Url,
}

impl FromStr for Neighbour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form name=http://host:port");
        let (name, url) = text.split_once('=').ok_or_else(wrong)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let url: Url = url.parse().map_err(|_| wrong())?;
        let is_web = matches!(url.scheme(), "http" | "https");
        if name.is_empty() || !name.bytes().all(fits) || !url.has_host() || !is_web {
            return Err(wrong());
        }
        let name = name.to_owned();
        Ok(Self { name, url })
    }
}

/// The pages of a service that steers sagas. Clones share everything.
#[derive(Debug, Clone)]
pub struct Dashboard(Arc<House>);

#[derive(Debug, Clone)]
struct House {
    /// The first is the service the pages belong to.
    services: Vec<Api>,
    samples: Vec<Sample>,
    traces: Option<String>,
    series: Arc<Mutex<Series>>,
}

impl Dashboard {
    /// Over the REST API of the service `name`: its routes under `/v1`, without the guard.
    #[must_use]
    pub fn new(name: &str, api: impl Into<Router>) -> Self {
        Self(Arc::new(House {
            services: vec![Api::here(name, api.into())],
            samples: Vec::new(),
            traces: None,
            series: Arc::default(),
        }))
    }

    /// Also shows the messages of a neighbour.
    #[must_use]
    pub fn with_neighbour(self, neighbour: Neighbour) -> Self {
        let api = Api::away(&neighbour.name, neighbour.url);
        self.with(|house| house.services.push(api))
    }

    /// Offers these orders.
    #[must_use]
    pub fn with_samples(self, samples: Vec<Sample>) -> Self {
        self.with(|house| house.samples = samples)
    }

    /// Links to traces: a URL with `{trace_id}` in it.
    #[must_use]
    pub fn with_traces(self, url: Option<String>) -> Self {
        self.with(|house| house.traces = url)
    }

    fn with(self, change: impl FnOnce(&mut House)) -> Self {
        let mut house = Arc::unwrap_or_clone(self.0);
        change(&mut house);
        Self(Arc::new(house))
    }

    /// The pages, described, to be merged with the API's own routes.
    pub fn router(&self) -> OpenApiRouter {
        pages::router(self.clone())
    }

    /// Takes a reading now and then, until the shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            match shutdown.run_until_cancelled(self.read()).await {
                Some(Ok(reading)) => self.series(|series| series.push(reading, Instant::now())),
                Some(Err(refused)) => tracing::debug!(?refused, "no reading for the overview"),
                None => return,
            }
        }
    }

    /// How it is now. Each question costs what is open or recent, not what was ever there.
    pub(crate) async fn read(&self) -> Result<Reading, Refused> {
        let (api, nobody) = (self.own(), Visitor::default());
        let now = Utc::now();
        let since = |ago| words::iso(&(now - ago));
        let count = async |filter: String| {
            let count: Count = api.get(&nobody, &format!("/sagas/count?{filter}")).await?;
            Ok::<_, Refused>(count)
        };
        let recent = count(format!("created_after={}", since(TimeDelta::minutes(10)))).await?;
        let minute = count(format!("created_after={}", since(TimeDelta::minutes(1)))).await?;
        let outbox: Outbox = api.get(&nobody, "/outbox").await?;
        let anomalies: Anomalies = api.get(&nobody, "/anomalies?limit=200").await?;
        Ok(Reading {
            running: count("status=running".to_owned()).await?.total,
            compensating: count("status=compensating".to_owned()).await?.total,
            parked_sagas: count("status=parked".to_owned()).await?.total,
            completed: recent.of("completed"),
            compensated: recent.of("compensated"),
            abandoned: recent.of("abandoned"),
            started: minute.total as f64 / 60.0,
            backlog: outbox.status.backlog.messages,
            oldest_unpublished: outbox.status.oldest_unpublished_seconds.unwrap_or(0.0),
            parked_messages: outbox.status.parked(),
            anomalies: i64::try_from(anomalies.items.len()).unwrap_or(i64::MAX),
        })
    }

    pub(crate) fn series<T>(&self, look: impl FnOnce(&mut Series) -> T) -> T {
        look(&mut self.0.series.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The API of the service the pages belong to.
    pub(crate) fn own(&self) -> &Api {
        &self.0.services[0]
    }

    pub(crate) fn services(&self) -> &[Api] {
        &self.0.services
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Api> {
        self.0.services.iter().find(|api| api.name() == name)
    }

    pub(crate) fn samples(&self) -> &[Sample] {
        &self.0.samples
    }

    /// Where a trace is shown, if that is known.
    pub(crate) fn trace(&self, trace_id: &str) -> Option<String> {
        let url = self.0.traces.as_ref()?;
        Some(url.replace("{trace_id}", trace_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_has_a_name_and_an_address() {
        let neighbour: Neighbour = "payments=http://127.0.0.1:8082".parse().unwrap();
        assert_eq!(neighbour.name, "payments");
        for wrong in [
            "",
            "payments",
            "=http://a",
            "a b=http://a",
            "a=ftp://a",
            "a=http://",
            "a=b",
        ] {
            assert!(wrong.parse::<Neighbour>().is_err(), "{wrong}");
        }
    }
}
