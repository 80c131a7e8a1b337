//! `/`: how it is.

use std::time::Instant;

use askama::Template;
use axum::{extract::State, response::Response};
use futures::future::join_all;

use crate::{
    api::{Counted, Outbox, Refused, Visitor},
    house::{Dashboard, Sample},
    pages::{
        filters,
        frame::{Frame, show},
    },
    series::{Reading, Series},
    words,
};

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    samples: Vec<Sample>,
    now: Now,
}

/// How it is: asked for again every five seconds.
#[derive(Template)]
#[template(path = "now.html")]
struct Now {
    tiles: Vec<Tile>,
    services: Vec<Service>,
}

/// A figure with its last quarter of an hour.
struct Tile {
    label: &'static str,
    value: String,
    unit: &'static str,
    tone: &'static str,
    link: &'static str,
    line: String,
}

struct Service {
    name: String,
    told: Result<crate::api::OutboxStatus, Refused>,
}

/// The overview
///
/// Counts, throughput, backlog, what is parked, each with its last quarter of an hour; orders to try.
#[utoipa::path(get, path = "/", tag = "pages", operation_id = "overview_page",
    responses((status = 200, description = "A page", content_type = "text/html", body = String)))]
pub(crate) async fn overview(State(dashboard): State<Dashboard>, visitor: Visitor) -> Response {
    show(&Page {
        frame: Frame::new(&dashboard, &visitor, "/"),
        samples: dashboard.samples().to_vec(),
        now: Now::of(&dashboard, &visitor).await,
    })
}

/// The overview's figures
#[utoipa::path(get, path = "/overview/now", tag = "pages", operation_id = "overview_part",
    responses((status = 200, description = "A part of a page", content_type = "text/html",
        body = String)))]
pub(crate) async fn now(State(dashboard): State<Dashboard>, visitor: Visitor) -> Response {
    show(&Now::of(&dashboard, &visitor).await)
}

impl Now {
    async fn of(dashboard: &Dashboard, visitor: &Visitor) -> Self {
        Self {
            tiles: tiles(dashboard).await,
            services: services(dashboard, visitor).await,
        }
    }
}

async fn tiles(dashboard: &Dashboard) -> Vec<Tile> {
    // The first page after a start comes before the first reading; and when readings fail, nobody
    // knows how it is.
    let now = match dashboard.series(|series| series.last(Instant::now())) {
        Some(reading) => Ok(reading),
        None => dashboard.read().await,
    };
    dashboard.series(|series| figures(now.as_ref().ok(), series))
}

fn figures(now: Option<&Reading>, series: &Series) -> Vec<Tile> {
    let whole = |label, link, tone: &'static str, of: fn(&Reading) -> Counted| Tile {
        label,
        value: now.map_or_else(|| "?".to_owned(), |now| words::counted(&of(now))),
        unit: "",
        // What should be nothing calls only when it is something.
        tone: match now.is_some_and(|now| of(now).count > 0) {
            true => tone,
            false => "calm",
        },
        link,
        line: series.line(180.0, 30.0, |reading| of(reading).count as f64),
    };
    let recent = |mut tile: Tile| {
        tile.unit = "of the last 10 min";
        tile
    };
    vec![
        whole("Running", "/sagas?status=running", "going", |now| {
            now.running
        }),
        whole(
            "Compensating",
            "/sagas?status=compensating",
            "back",
            |now| now.compensating,
        ),
        whole("Parked sagas", "/sagas?status=parked", "alarm", |now| {
            now.parked_sagas
        }),
        Tile {
            label: "Started",
            value: now.map_or_else(|| "?".to_owned(), rate),
            unit: "a second",
            tone: "calm",
            link: "/sagas",
            line: series.line(180.0, 30.0, |reading| reading.started),
        },
        recent(whole(
            "Completed",
            "/sagas?status=completed",
            "good",
            |now| now.completed,
        )),
        recent(whole(
            "Compensated",
            "/sagas?status=compensated",
            "back",
            |now| now.compensated,
        )),
        recent(whole(
            "Abandoned",
            "/sagas?status=abandoned",
            "bad",
            |now| now.abandoned,
        )),
        whole("Not yet sent", "", "calm", |now| now.backlog),
        Tile {
            label: "Oldest unsent",
            value: now.map_or_else(
                || "?".to_owned(),
                |now| words::length(now.oldest_unpublished),
            ),
            unit: "",
            tone: match now.is_some_and(|now| now.oldest_unpublished > 60.0) {
                true => "alarm",
                false => "calm",
            },
            link: "",
            line: series.line(180.0, 30.0, |reading| reading.oldest_unpublished),
        },
        whole("Parked messages", "/parked", "alarm", |now| {
            now.parked_messages
        }),
        whole("Anomalies", "/anomalies", "bad", |now| now.anomalies),
    ]
}

fn rate(now: &Reading) -> String {
    let more = if now.started_exact { "" } else { "+" };
    format!("{:.1}{more}", now.started)
}

async fn services(dashboard: &Dashboard, visitor: &Visitor) -> Vec<Service> {
    let asked = dashboard.services().iter().map(async |api| Service {
        name: api.name().to_owned(),
        told: api
            .get::<Outbox>(visitor, "/outbox")
            .await
            .map(|outbox| outbox.status),
    });
    join_all(asked).await
}
