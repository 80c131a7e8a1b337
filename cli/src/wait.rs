//! `--wait`: where something is only asked for, stay until it has happened.

use std::{fmt, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{print::age, service::Failure};

/// Between two looks, at first and after a while.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether to wait, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Stay until it has happened. Exits with 1 if something else happened, with 3 if it takes longer
    /// than --timeout.
    #[arg(long)]
    pub(crate) wait: bool,

    /// How long --wait may take: 90s, 10m, 2h. What was asked for goes on without us.
    #[arg(long, default_value = "60s", value_name = "DURATION", requires = "wait",
          value_parser = chassis::config::duration)]
    timeout: Duration,
}

impl Wait {
    /// Looks until there is something to see; `None` when time is up. A service that is away for a
    /// moment is asked again.
    ///
    /// # Errors
    ///
    /// What a look says, if that does not pass.
    pub(crate) async fn until<T>(
        &self,
        mut look: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = SHORTEST_PAUSE;
        loop {
            match look().await {
                Ok(None) => {}
                Ok(seen) => return Ok(seen),
                Err(error) if Failure::may_pass(&error) => {}
                Err(error) => return Err(error),
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            sleep(pause.min(deadline - now)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Time is up, and this is how it stands.
    pub(crate) fn in_vain(&self, stands: impl fmt::Display) -> anyhow::Error {
        let waited = age(self.timeout.as_secs_f64());
        TimedOut(format!("not after {waited}: {stands}")).into()
    }
}

/// It has not happened in time. The program exits with 3.
#[derive(Debug)]
pub(crate) struct TimedOut(String);

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn wait(timeout: Duration) -> Wait {
        Wait {
            wait: true,
            timeout,
        }
    }

    #[tokio::test]
    async fn it_looks_until_there_is_something_and_once_at_least() {
        let mut looks = 0;
        let (long, none) = (wait(Duration::from_secs(30)), wait(Duration::ZERO));
        let seen = long.until(async || {
            looks += 1;
            Ok((looks == 3).then_some("it"))
        });
        assert_eq!((seen.await.unwrap(), looks), (Some("it"), 3));
        let seen = none.until(async || Ok(Some(1)));
        assert_eq!(seen.await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn it_ends_in_time_and_with_what_does_not_pass() {
        let (short, long) = (
            wait(Duration::from_millis(120)),
            wait(Duration::from_secs(30)),
        );
        let nothing = short.until(async || Ok(None::<()>));
        assert_eq!(nothing.await.unwrap(), None);
        let mut looks = 0;
        let seen = long.until(async || {
            looks += 1;
            match looks {
                1 => Err(Failure::Away("away".to_owned()).into()),
                2 => Err(Failure::Refused {
                    status: 503,
                    text: "busy".to_owned(),
                }
                .into()),
                _ => bail!("gone for good"),
            }
        });
        let error = seen.await.map(|_: Option<()>| ()).unwrap_err();
        assert_eq!((error.to_string(), looks), ("gone for good".to_owned(), 3));
    }
}
