//! How a consumer stands with its group, for those who watch: whether it has joined, and what it is refused.

use std::sync::Arc;

use tokio::sync::watch;

use crate::telemetry;

/// Told by the pump, watched by readiness.
#[derive(Clone)]
pub(super) struct Membership {
    consumer: Arc<str>,
    joined: watch::Sender<bool>,
    refused: watch::Sender<Option<String>>,
}

impl Membership {
    pub(super) fn new(consumer: Arc<str>) -> Self {
        Self {
            consumer,
            joined: watch::Sender::new(false),
            refused: watch::Sender::new(None),
        }
    }

    pub(super) fn joined(&self) {
        self.joined
            .send_if_modified(|joined| !std::mem::replace(joined, true));
    }

    /// What the broker refuses now, if anything. Said once for each new reason.
    pub(super) fn refused(&self, reason: Option<String>) {
        self.refused.send_if_modified(|known| {
            if *known == reason {
                return false;
            }
            let consumer = &*self.consumer;
            match &reason {
                Some(reason) => {
                    tracing::error!(consumer, reason, "the broker refuses this consumer");
                    telemetry::consumer_refused(Arc::clone(&self.consumer));
                }
                None => tracing::info!(consumer, "the broker refuses this consumer nothing more"),
            }
            *known = reason;
            true
        });
    }

    pub(super) fn watch_joined(&self) -> watch::Receiver<bool> {
        self.joined.subscribe()
    }

    pub(super) fn watch_refused(&self) -> watch::Receiver<Option<String>> {
        self.refused.subscribe()
    }
}
