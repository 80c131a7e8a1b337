//! The one who looks, for all who watch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    Error,
    http::{
        stream::{
            client::Line,
            registry::{Shared, Streams, Watch},
            watcher,
        },
        table,
    },
};

/// The least time between two looks, however many clients come.
const SHORTEST: Duration = Duration::from_millis(50);
/// The time between two looks while the database is away.
const OUTAGE: Duration = Duration::from_secs(2);
/// Events in a page of one saga, and in all pages of one look.
const PAGE: i64 = 100;
const LOOK: i64 = 5_000;
/// Of each open status, and of all sagas, so many of the newest are followed.
const FOLLOWED: i64 = 1_000;
/// How long the feed outlives its last follower, who may only have lost the connection.
const LINGER: Duration = Duration::from_secs(30);

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nobody watches.
    Idle,
    /// Everything was seen.
    Whole,
    /// There is more to fetch.
    More,
}

impl Streams {
    /// Serves streams until the shutdown, which ends all of them.
    pub async fn run(self, shutdown: CancellationToken) {
        let _running = self.begin();
        let mut alone_since = None;
        while !shutdown.is_cancelled() {
            let looked = self.look(&mut alone_since).await;
            let (rest, awake) = match looked {
                Ok(Look::Idle) => (Duration::MAX, true),
                Ok(Look::Whole) => (self.0.every, true),
                Ok(Look::More) => (Duration::ZERO, false),
                Err(error) => {
                    warn!(%error, "streams cannot be served");
                    (OUTAGE, false)
                }
            };
            let pause = async {
                sleep(SHORTEST).await;
                let woken = async {
                    match awake {
                        true => self.0.woken.notified().await,
                        false => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = woken => {}
                    () = sleep(rest.saturating_sub(SHORTEST)) => {}
                }
            };
            shutdown.run_until_cancelled(pause).await;
        }
    }

    async fn look(&self, alone_since: &mut Option<Instant>) -> Result<Look, Error> {
        let watched = look_at_histories(&self.0).await?;
        let followed = match follows(&self.0, alone_since) {
            true => look_at_the_list(&self.0).await.map(|()| Look::Whole)?,
            false => Look::Idle,
        };
        Ok(match (watched, followed) {
            (Look::Idle, other) | (other, Look::Idle) => other,
            (Look::More, _) => Look::More,
            (Look::Whole, other) => other,
        })
    }
}

/// One statement for all who watch a saga and have room for a page.
async fn look_at_histories(shared: &Shared) -> Result<Look, Error> {
    let wanted = wanted(shared);
    let (any, wanted) = (wanted.is_some(), wanted.unwrap_or_default());
    if wanted.is_empty() {
        return Ok(match any {
            true => Look::Whole,
            false => Look::Idle,
        });
    }
    let (ids, afters): (Vec<Uuid>, Vec<i64>) = wanted.iter().copied().unzip();
    let found = table::histories(&shared.pool, &ids, &afters, PAGE, LOOK).await?;
    let more = found.len() as i64 == LOOK;
    let mut pages: BTreeMap<(Uuid, i64), (i64, Vec<Line>)> = BTreeMap::new();
    for event in found {
        let (last, lines) = pages.entry((event.saga_id, event.after)).or_default();
        *last = event.recorded.seq;
        lines.extend(watcher::line(&event.recorded));
    }
    let full = pages.values().any(|(_, lines)| lines.len() as i64 == PAGE);
    hand_over(shared, pages);
    Ok(match more || full {
        true => Look::More,
        false => Look::Whole,
    })
}

/// The sagas that are watched and from where on, each once; none if nobody watches.
fn wanted(shared: &Shared) -> Option<Vec<(Uuid, i64)>> {
    let state = shared.state();
    if state.watches.is_empty() {
        return None;
    }
    let has_room = |watch: &&Watch| watch.pages.capacity() > 0;
    let wanted = state.watches.values().filter(has_room);
    let mut wanted: Vec<_> = wanted.map(|watch| (watch.saga_id, watch.after)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    Some(wanted)
}

fn hand_over(shared: &Shared, pages: BTreeMap<(Uuid, i64), (i64, Vec<Line>)>) {
    let pages = pages.into_iter();
    let pages = pages.map(|(key, (last, lines))| (key, (last, Arc::<[Line]>::from(lines))));
    let pages: HashMap<_, _> = pages.collect();
    let mut state = shared.state();
    for watch in state.watches.values_mut() {
        let page = pages.get(&(watch.saga_id, watch.after));
        if let Some((last, page)) = page
            && watch.pages.try_send(Arc::clone(page)).is_ok()
        {
            watch.after = *last;
        }
    }
}

/// Whether anybody follows the list, or did a moment ago.
fn follows(shared: &Shared, alone_since: &mut Option<Instant>) -> bool {
    let mut state = shared.state();
    if state.followers > 0 {
        *alone_since = None;
        return true;
    }
    if !state.feed.has_begun() {
        return false;
    }
    let since = alone_since.get_or_insert_with(Instant::now);
    if since.elapsed() < LINGER {
        return true;
    }
    state.feed.end();
    *alone_since = None;
    false
}

/// One statement for where the followed sagas are, and one for those that have moved.
async fn look_at_the_list(shared: &Shared) -> Result<(), Error> {
    let followed = table::followed(&shared.pool, FOLLOWED).await?;
    let newest = followed.iter().filter(|saga| saga.is_newest);
    let newest: Vec<Uuid> = newest.map(|saga| saga.id).collect();
    let seen: HashMap<Uuid, i64> = followed.iter().map(|saga| (saga.id, saga.seq)).collect();
    let moved = {
        let mut state = shared.state();
        let overrun = newest.len() as i64 == FOLLOWED && state.feed.may_have_missed(&newest);
        if overrun || !state.feed.has_begun() {
            state.feed.begin(seen);
            drop(state);
            shared.turned.send_replace(());
            return Ok(());
        }
        state.feed.moved(&seen)
    };
    if moved.is_empty() {
        return Ok(());
    }
    let moved = table::summaries(&shared.pool, &moved).await?;
    shared.state().feed.turn(seen, moved);
    shared.turned.send_replace(());
    Ok(())
}
