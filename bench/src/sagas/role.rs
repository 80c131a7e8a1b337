//! What would be a process of its own: a runtime of its own, on threads with its name.

use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A part of the system that runs until it is told to stop.
pub(crate) struct Role {
    name: String,
    stop: CancellationToken,
    thread: JoinHandle<Result<()>>,
}

impl Role {
    /// Starts it, and returns when it says that it is ready.
    pub(crate) async fn start<F>(
        name: impl Into<String>,
        work: impl FnOnce(oneshot::Sender<()>, CancellationToken) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>>,
    {
        let name = name.into();
        let stop = CancellationToken::new();
        let (ready, readiness) = oneshot::channel();
        let (named, token) = (name.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_name(named)
                    .enable_all()
                    .build()?
                    .block_on(work(ready, token))
            })?;
        let role = Self { name, stop, thread };
        if readiness.await.is_err() {
            role.end().await?;
            return Err(anyhow!("it ended before it was ready"));
        }
        Ok(role)
    }

    /// Stops it, and says what it ended with.
    pub(crate) async fn end(self) -> Result<()> {
        self.stop.cancel();
        let Self { name, thread, .. } = self;
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        let ended = ended.map_err(|_| anyhow!("it panicked"));
        ended.and_then(|ended| ended).with_context(|| name)
    }
}
