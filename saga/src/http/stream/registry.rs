//! Who watches, and what each is to get next.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    http::{
        problem::Problem,
        stream::{
            feed::Feed,
            watcher::{Page, Watcher},
        },
    },
    telemetry,
};

/// How many clients one process serves, unless said.
const CLIENTS: usize = 1_000;
/// How often the poller looks while somebody watches, unless said.
const EVERY: Duration = Duration::from_millis(500);

/// The live streams of one process. Clones are the same streams: one goes to the
/// [`router`](crate::http::router), another is [run](Streams::run). Where none runs, streams are answered with 503.
#[derive(Clone)]
pub struct Streams(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) pool: PgPool,
    pub(crate) every: Duration,
    clients: usize,
    places: Arc<Semaphore>,
    running: AtomicBool,
    /// A client came: look now.
    pub(crate) woken: Notify,
    /// No stream goes on after this.
    pub(crate) ended: CancellationToken,
    /// Followers of the list wake when it changes.
    pub(crate) turned: watch::Sender<()>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    next_watch: u64,
    pub(crate) watches: HashMap<u64, Watch>,
    pub(crate) followers: usize,
    pub(crate) feed: Feed,
}

/// A client that watches one saga.
pub(crate) struct Watch {
    pub(crate) saga_id: Uuid,
    /// The last event that was handed over.
    pub(crate) after: i64,
    pub(crate) pages: mpsc::Sender<Page>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Streams")
            .field("clients", &self.0.clients)
            .field("every", &self.0.every)
            .finish_non_exhaustive()
    }
}

impl Streams {
    /// Of the sagas in this database. The pool should be the poller's own; one connection is
    /// enough.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self::with(pool, CLIENTS, EVERY)
    }

    /// For at most `clients` at once, a thousand otherwise; looking `every` so often, twice a second
    /// otherwise. More clients are answered with 503.
    #[must_use]
    pub fn with(pool: PgPool, clients: usize, every: Duration) -> Self {
        Self(Arc::new(Shared {
            pool,
            every,
            clients,
            places: Arc::new(Semaphore::new(clients)),
            running: AtomicBool::new(false),
            woken: Notify::new(),
            ended: CancellationToken::new(),
            turned: watch::Sender::new(()),
            state: Mutex::default(),
        }))
    }

    /// How many clients there are now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.clients - self.0.places.available_permits()
    }

    /// A place for one more client, to be given up by dropping it.
    pub(crate) fn place(&self) -> Result<Place, Problem> {
        if !self.0.running.load(Ordering::Acquire) || self.0.ended.is_cancelled() {
            return Err(Problem::NoRoom("no streams are served here"));
        }
        let permit = Arc::clone(&self.0.places).try_acquire_owned();
        let permit = permit.map_err(|_| Problem::NoRoom("too many streams are open"))?;
        telemetry::stream_opened();
        Ok(Place { _permit: permit })
    }

    pub(crate) fn watch(&self, saga_id: Uuid, after: i64) -> Watcher {
        // One page waits; a client that does not take it is not asked for.
        let (pages, taken) = mpsc::channel(1);
        let watch = Watch {
            saga_id,
            after,
            pages,
        };
        let mut state = self.0.state();
        let key = state.next_watch;
        state.next_watch += 1;
        state.watches.insert(key, watch);
        drop(state);
        self.0.woken.notify_one();
        Watcher::new(self.clone(), key, taken)
    }

    pub(crate) fn forget(&self, key: u64) {
        self.0.state().watches.remove(&key);
    }

    /// The poller's life: streams are served meanwhile, and not afterwards.
    pub(crate) fn begin(&self) -> Running<'_> {
        self.0.running.store(true, Ordering::Release);
        Running(&self.0)
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While this lives, the poller does.
pub(crate) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
        self.0.ended.cancel();
    }
}

/// A client's place.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        telemetry::stream_closed();
    }
}
