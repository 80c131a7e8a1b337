//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// The pause between two looks: short against any deadline, long against the cost of a look.
const STEP: Duration = Duration::from_millis(15);

/// Looks until `condition` answers `Some`, and returns that answer. For tests: `until(deadline, "…", async || …).await`.
///
/// The condition may borrow but not change what is around it; in return the wait can run in a task of its own.
///
/// # Panics
/// After `deadline`, naming `what` was waited for.
pub async fn until<T, Look>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Look,
) -> T
where
    Look: Future<Output = Option<T>>,
{
    let look = || {
        let look = condition();
        async move { Ok(look.await) }
    };
    let answer = wait_for(deadline, what, look).await;
    answer.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Like [`until`], as a `Result`: `Ok(None)` looks again, an error ends the wait at once.
///
/// # Errors
/// The condition's own, or that the deadline passed. A look that hangs is dropped at the deadline.
pub async fn wait_for<T, Look>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Look,
) -> Result<T>
where
    Look: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + deadline;
    loop {
        match timeout_at(end, condition()).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) if Instant::now() < end => sleep(STEP).await,
            Ok(Err(error)) => return Err(error),
            Ok(Ok(None)) | Err(_) => bail!("waited {deadline:?} in vain for: {what}"),
        }
    }
}
