//! Work that must not be dropped half way.

use tracing::Instrument;

use crate::http::problem::Problem;

/// Runs `work` in a task of its own and waits for it. When the client disconnects, or the request
/// runs out of time, axum drops the handler but not the task: a transaction in it commits or
/// rolls back by its own logic. Every handler that writes does so in here. The request's span
/// goes along.
///
/// # Errors
/// What `work` returns; 500 when it panics.
pub async fn in_task<T, F>(work: F) -> Result<T, Problem>
where
    F: Future<Output = Result<T, Problem>> + Send + 'static,
    T: Send + 'static,
{
    match tokio::spawn(work.in_current_span()).await {
        Ok(outcome) => outcome,
        // Not the panic's words: they may quote a payload. The panic hook has told the place.
        Err(_) => {
            tracing::error!("a request's task panicked");
            Err(Problem::internal_silently())
        }
    }
}
