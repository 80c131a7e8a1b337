//! The seam to the application: what happens to a message that came in.

use std::future::Future;

use sqlx::PgTransaction;

use crate::{Error, message::Received};

/// Handles messages, each inside a READ COMMITTED transaction that already holds its inbox row.
///
/// What it writes through `tx` happens once per message. Whatever it does outside of `tx` may
/// happen again: the transaction can be rolled back after `handle` returned.
pub trait Handler: Send + Sync + 'static {
    /// Called once per transaction with its new messages, before the first is handled: the place
    /// to take row locks in one order, so that two batches cannot deadlock.
    ///
    /// # Errors
    ///
    /// As [`Handler::handle`]; the batch is then redone one message at a time.
    fn prepare(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = (tx, batch);
        async { Ok(()) }
    }

    /// Handles one message.
    ///
    /// # Errors
    ///
    /// A failure of the database ([`Error::is_database_outage`]) is retried for as long as it
    /// lasts; [`Error::is_transient`] is retried with backoff until the budget is spent; anything
    /// else, and a spent budget, parks the message with the error's text.
    fn handle(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}
