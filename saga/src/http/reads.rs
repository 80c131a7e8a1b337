//! Who has looked at a saga's data, for the audit.
//!
//! A saga's data are what its participants know: addresses, amounts. Whoever is known and reads them
//! leaves a row, of each saga once in ten minutes: a page asks again whenever something happens.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::Extension;
use outbox::audit::{self, Author};
use sqlx::PgPool;
use uuid::Uuid;

use crate::http::actor::Actor;

/// How long a reader's row counts for the same saga.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// How many are remembered; of more some are recorded once more.
const REMEMBERED: usize = 10_000;

/// Which reads were recorded lately, by this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reads(Arc<Mutex<HashMap<(String, Uuid), Instant>>>);

impl Reads {
    /// Records that somebody reads a saga's data, if they are known and were not recorded lately.
    pub(crate) async fn record(&self, pool: &PgPool, by: Option<Extension<Actor>>, saga_id: Uuid) {
        let Some(Extension(actor)) = by else { return };
        if self.is_new(&actor.name, saga_id) {
            let author = Author::new(actor.name).with_role(actor.role);
            let subject = format!("sagas/{saga_id}");
            audit::record_read(pool, author, "saga.read", subject).await;
        }
    }

    fn is_new(&self, name: &str, saga_id: Uuid) -> bool {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.len() >= REMEMBERED {
            reads.retain(|_, at| at.elapsed() < AGAIN);
        }
        if reads.len() >= REMEMBERED {
            reads.clear();
        }
        let last = reads.insert((name.to_owned(), saga_id), Instant::now());
        let is_new = last.is_none_or(|at| at.elapsed() >= AGAIN);
        if let Some(at) = last.filter(|_| !is_new) {
            reads.insert((name.to_owned(), saga_id), at);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reader_of_one_saga_is_recorded_once_in_a_while() {
        let reads = Reads::default();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(reads.is_new("ann", a));
        assert!(!reads.is_new("ann", a));
        assert!(reads.is_new("ann", b));
        assert!(reads.is_new("bob", a));
        for saga in 0..REMEMBERED as u128 + 5 {
            reads.is_new("eve", Uuid::from_u128(saga));
        }
        assert!(reads.0.lock().unwrap().len() <= REMEMBERED);
    }
}
