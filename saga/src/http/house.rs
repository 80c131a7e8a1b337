//! What handlers work with.

use axum::{
    extract::{
        FromRef, Path, Query,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderName, header::ETAG},
};
use sqlx::PgPool;
use tracing::{Instrument, error};

use crate::{
    Coordinator,
    http::{problem::Problem, reads::Reads, stream::Streams},
};

/// What every handler has.
#[derive(Clone)]
pub(crate) struct House {
    pub(crate) pool: PgPool,
    pub(crate) coordinator: Coordinator,
    pub(crate) streams: Streams,
    pub(crate) reads: Reads,
}

impl FromRef<House> for PgPool {
    fn from_ref(house: &House) -> Self {
        house.pool.clone()
    }
}

pub(crate) type RawId = Result<Path<String>, PathRejection>;
pub(crate) type RawQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// A saga's state is known by the number of its last event.
pub(crate) fn etag(seq: i64) -> [(HeaderName, String); 1] {
    [(ETAG, format!("\"{seq}\""))]
}

/// Runs what writes to its end, whether or not the client still waits: a transaction that is
/// dropped half begun would be the next request's.
pub(crate) async fn in_task<T, F>(work: F) -> Result<T, Problem>
where
    F: Future<Output = Result<T, Problem>> + Send + 'static,
    T: Send + 'static,
{
    match tokio::spawn(work.in_current_span()).await {
        Ok(outcome) => outcome,
        // Not the panic's words: they may quote a payload. The panic hook has told the place.
        Err(_) => {
            error!("a request's task panicked");
            Err(Problem::Panicked)
        }
    }
}

/// Cuts off the one that was read too many; whether there was one.
pub(crate) fn keep<T>(page: &mut Vec<T>, limit: i64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = page.len() > limit;
    page.truncate(limit);
    more
}
