//! Shutdown: one token that everything listens to, and the tasks that must have ended.
//!
//! **What passes here**: the wish to stop, from a signal or from a task that failed.
//! **Promised**: a task that fails or panics is logged by name and takes its service down with an
//! error, never silently; after the wish every task has a deadline; a second signal exits at once.
//! **Not promised**: that a task ends cleanly. One that overruns the deadline is cut off, which
//! every task here must survive anyway: it is what a crash does.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task's error becomes when its type no longer matters.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// A token that is cancelled by SIGTERM or SIGINT. The second signal ends the process at once,
/// with status 130.
///
/// # Errors
/// When the operating system does not let the process listen for signals.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let told = shutdown.clone();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = name,
            "shutting down; a second signal exits at once"
        );
        told.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "exiting at once");
        std::process::exit(130);
    });
    Ok(shutdown)
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// The first task that failed. The others were asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("task `{task}` failed: {cause}")]
pub struct Failed {
    /// The task's name.
    pub task: String,
    /// What it said, or that it panicked.
    #[source]
    pub cause: Cause,
}

/// A service's tasks, by name. Clones are the same tasks, so that a task may start others.
#[derive(Debug, Clone)]
pub struct Tasks {
    service: &'static str,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    started: u64,
    running: BTreeMap<u64, Running>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Running {
    name: String,
    abort: AbortHandle,
}

impl Tasks {
    /// No tasks yet. They are asked to stop by `shutdown`, which the first failure cancels: give a
    /// child token where a failure must not stop the neighbours.
    #[must_use]
    pub fn new(service: &'static str, shutdown: CancellationToken) -> Self {
        Self {
            service,
            shutdown,
            tracker: TaskTracker::new(),
            state: Arc::default(),
        }
    }

    /// The token the tasks are asked to stop by.
    #[must_use]
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Starts a task. It may end with `Ok` at any time; an error or a panic shuts the service down.
    pub fn spawn<F, E>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Cause>,
    {
        let name = name.into();
        let mut state = self.state();
        state.started += 1;
        let id = state.started;
        let tasks = self.clone();
        let watched = async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            tasks.ended(
                id,
                match outcome {
                    Ok(ended) => ended.map_err(Into::into),
                    Err(_) => Err("panicked".into()),
                },
            );
        };
        let abort = self.tracker.spawn(watched).abort_handle();
        state.running.insert(id, Running { name, abort });
    }

    /// Waits for the shutdown, then until all tasks have ended or `deadline` has passed; what still
    /// runs then is named in the log and cut off.
    ///
    /// # Errors
    /// The first task that failed, before the shutdown or during it.
    pub async fn finish(&self, deadline: Duration) -> Result<(), Failed> {
        self.shutdown.cancelled().await;
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_err()
        {
            self.cut_off(deadline);
        }
        self.state().failed.take().map_or(Ok(()), Err)
    }

    fn ended(&self, id: u64, outcome: Result<(), Cause>) {
        let mut state = self.state();
        let Some(Running { name: task, .. }) = state.running.remove(&id) else {
            return;
        };
        match outcome {
            Ok(()) => tracing::debug!(service = self.service, task, "task ended"),
            Err(cause) => {
                tracing::error!(service = self.service, task, error = %cause, "task failed; shutting down");
                state.failed.get_or_insert(Failed { task, cause });
                self.shutdown.cancel();
            }
        }
    }

    fn cut_off(&self, deadline: Duration) {
        for Running { name, abort } in self.state().running.values() {
            tracing::warn!(
                service = self.service,
                task = name,
                ?deadline,
                "task did not end in time; cutting it off"
            );
            abort.abort();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
