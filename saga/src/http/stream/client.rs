//! From what was seen to what goes out.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    http::{HeaderMap, header::CACHE_CONTROL},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    http::{
        body::one,
        problem::Problem,
        stream::{
            feed::{self, Taken},
            registry::Streams,
            watcher::Watcher,
        },
    },
    operator::Selection,
};

/// Sent where nothing else is, so that nobody on the way takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After how long a client comes back.
const RETRY: Duration = Duration::from_secs(2);
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// One event as it goes out. Clones share its text.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    #[cfg(test)]
    id: String,
    event: Event,
}

impl Line {
    pub(crate) fn new(name: &str, id: String, data: String) -> Self {
        // JSON has no line breaks, and neither have these ids.
        let event = Event::default().event(name).id(&id).data(data);
        Self {
            #[cfg(test)]
            id,
            event,
        }
    }

    #[cfg(test)]
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

/// Streams a saga's history, from after `after` or from where the client was.
pub(crate) fn watch(
    streams: &Streams,
    headers: &HeaderMap,
    saga_id: Uuid,
    after: i64,
) -> Result<Response, Problem> {
    let after = match one(headers, LAST_EVENT_ID)? {
        None | Some("") => after,
        Some(id) => {
            let seq = id.parse().ok().filter(|seq| *seq >= 0);
            seq.ok_or_else(|| Problem::field(LAST_EVENT_ID, "not the id of an event of a saga"))?
        }
    };
    let place = streams.place()?;
    let watcher = streams.watch(saga_id, after);
    let start = (watcher, place, true);
    let events = stream::unfold(start, |(mut watcher, place, first)| async move {
        let event = match first {
            true => hello(),
            false => Watcher::next(&mut watcher).await?.event,
        };
        Some((Ok(event), (watcher, place, false)))
    });
    Ok(answer(events))
}

/// Streams the list's changes, from where the client was.
pub(crate) fn follow(
    streams: &Streams,
    headers: &HeaderMap,
    wanted: Selection,
) -> Result<Response, Problem> {
    let at = match one(headers, LAST_EVENT_ID)? {
        None | Some("") => None,
        Some(id) => {
            let wrong = || Problem::field(LAST_EVENT_ID, "not the id of an event of this list");
            Some(feed::Place::parse(id).ok_or_else(wrong)?)
        }
    };
    let place = streams.place()?;
    let follower = Follower::new(streams.clone(), wanted, at);
    let start = (follower, place, true);
    let events = stream::unfold(start, |(mut follower, place, first)| async move {
        let event = match first {
            true => hello(),
            false => Follower::next(&mut follower).await?,
        };
        Some((Ok(event), (follower, place, false)))
    });
    Ok(answer(events))
}

/// Something at once, so that the client knows it is heard.
fn hello() -> Event {
    Event::default().retry(RETRY).comment("here")
}

fn answer(
    events: impl futures::Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies that gather answers would keep it to themselves.
    let live = [
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    (live, events).into_response()
}

/// One client that follows the list.
struct Follower {
    streams: Streams,
    wanted: Selection,
    at: Option<feed::Place>,
    lines: VecDeque<Line>,
    turned: watch::Receiver<()>,
}

impl Follower {
    fn new(streams: Streams, wanted: Selection, at: Option<feed::Place>) -> Self {
        let turned = streams.0.turned.subscribe();
        streams.0.state().followers += 1;
        streams.0.woken.notify_one();
        Self {
            streams,
            wanted,
            at,
            lines: VecDeque::new(),
            turned,
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.streams.0.ended.is_cancelled() {
                return None;
            }
            if let Some(line) = self.lines.pop_front() {
                return Some(line.event);
            }
            self.turned.mark_unchanged();
            let taken = self.streams.0.state().feed.after(self.at, &self.wanted);
            match taken {
                Taken::Lost(place) => {
                    self.at = Some(place);
                    let reload = Event::default().event("reload").id(place.to_id());
                    return Some(reload.data("{}"));
                }
                Taken::Changes(lines, place) => {
                    self.at = Some(place);
                    self.lines = lines.into();
                }
                Taken::NotYet => {}
            }
            if self.lines.is_empty() {
                let ended = &self.streams.0.ended;
                let turned = self.turned.changed();
                ended.run_until_cancelled(turned).await?.ok()?;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.streams.0.state().followers -= 1;
    }
}
