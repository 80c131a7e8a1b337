//! How long the inbox remembers: checked against the broker at start, seen to every minute; and with
//! it how long is remembered what people did.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, audit,
    broker::{self, Broker},
    incoming::{Config, table},
};

const EVERY: Duration = Duration::from_secs(60);
/// Between two pieces of work, so that there is something left for others.
const BREATH: Duration = Duration::from_millis(50);
/// How soon a broker that does not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks the broker how long it keeps the topics, waiting for it if need be, and fails when the
/// inbox would forget a message that can still come again.
pub(super) async fn check(
    broker: &dyn Broker,
    topics: &[String],
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    while !shutdown.is_cancelled() {
        match broker.retention(topics).await {
            Ok(kept) => return suffices(config, topics, &kept),
            Err(error) => {
                tracing::warn!(%error, ?topics, "cannot ask how long the broker keeps topics");
            }
        }
        shutdown.run_until_cancelled(sleep(PAUSE)).await;
    }
    Ok(())
}

/// Whether the inbox remembers longer than each topic's messages can come.
fn suffices(config: &Config, topics: &[String], kept: &[broker::Retention]) -> Result<(), Error> {
    let Some(retention) = config.retention else {
        return Ok(());
    };
    let window = config.replay_window;
    for (topic, kept) in topics.iter().zip(kept) {
        let (mine, window) = (days(retention), days(window));
        match kept {
            broker::Retention::Unknown => {
                tracing::info!(
                    topic,
                    "the broker does not say how long it keeps this topic"
                );
            }
            broker::Retention::Forever => {
                return Err(Error::permanent(format!(
                    "the inbox remembers messages for {mine}, but the broker keeps topic {topic} for ever: \
                     set its retention.ms, or the consumer's retention to None (for ever)"
                )));
            }
            broker::Retention::For(time) if *time + config.replay_window >= retention => {
                return Err(Error::permanent(format!(
                    "the inbox remembers messages for {mine}, but the broker keeps topic {topic} for {kept} \
                     and the replay window is {window}: set the consumer's retention to more than {least}, \
                     or shorten the topic's retention.ms or the consumer's replay_window",
                    kept = days(*time),
                    least = days(*time + config.replay_window),
                )));
            }
            broker::Retention::For(_) => {}
        }
    }
    Ok(())
}

fn days(time: Duration) -> String {
    let hours = time.as_secs_f64() / 3600.0;
    if hours >= 48.0 {
        format!("{:.1} days", hours / 24.0)
    } else {
        format!("{hours:.2} hours")
    }
}

/// Adds and drops until there is nothing to do. Failures are logged: they are no reason not to
/// consume, the inbox takes ids without a day of their own too.
pub(super) async fn keep(pool: &PgPool, consumer: &str, config: &Config) {
    // Before anything is forgotten, what this one needs.
    if let Err(error) = table::register(pool, consumer, config.retention).await {
        tracing::debug!(%error, consumer, "cannot note how long the inbox must remember");
    }
    loop {
        match table::keep(pool, config.retention).await {
            Ok(done) if done.created + done.dropped + done.deleted > 0 => {
                tracing::debug!(?done, "kept the inbox");
                sleep(BREATH).await;
            }
            Ok(_) => break,
            Err(error) => {
                tracing::warn!(%error, "cannot keep the inbox's partitions; its days are not added or dropped");
                return;
            }
        }
    }
    let Some(retention) = config.audit_retention else {
        return;
    };
    loop {
        match audit::forget(pool, retention).await {
            Ok(audit::Kept::Forgotten(rows)) => {
                tracing::info!(rows, "forgot what people did long ago");
                sleep(BREATH).await;
            }
            Ok(audit::Kept::All) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot forget what people did long ago");
                return;
            }
        }
    }
}

/// Keeps the inbox until `stop`.
pub(super) async fn run(
    pool: PgPool,
    consumer: Arc<str>,
    config: Arc<Config>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
        stop.run_until_cancelled(keep(&pool, &consumer, &config))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn the_inbox_must_remember_longer_than_a_message_can_come() {
        let check = |retention, kept| {
            let config = Config {
                retention,
                ..Config::default()
            };
            suffices(&config, &["orders".to_owned()], &[kept])
        };
        assert!(check(Some(15 * DAY), broker::Retention::For(7 * DAY)).is_ok());
        let error = check(Some(14 * DAY), broker::Retention::For(7 * DAY)).unwrap_err();
        let text = error.to_string();
        for part in ["14.0 days", "7.0 days", "orders", "retention"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(check(Some(15 * DAY), broker::Retention::Forever).is_err());
        assert!(check(None, broker::Retention::Forever).is_ok());
        assert!(check(Some(DAY), broker::Retention::Unknown).is_ok());
    }
}
