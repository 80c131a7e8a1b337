//! The seam to the application: what happens to a message that came in.

use std::future::Future;

use sqlx::{PgPool, PgTransaction};
use tokio_util::sync::CancellationToken;

use crate::{Error, message::Received};

/// Handles messages, each inside a READ COMMITTED transaction that already holds its inbox row.
///
/// What it writes through `tx` happens once per message. Whatever it does outside of `tx` may
/// happen again: the transaction can be rolled back after `handle` returned.
///
/// Who can do better with many messages at once than with one after another implements
/// [`BatchHandler`] instead.
pub trait Handler: Send + Sync + 'static {
    /// Looks at a message before anything is written, without the database: one that it refuses is
    /// parked by itself, and costs its batch nothing. By default nothing is refused.
    ///
    /// # Errors
    ///
    /// Why the message can never be handled.
    fn check(&self, message: &Received) -> Result<(), Error> {
        let _ = message;
        Ok(())
    }

    /// What has to run beside the consumer, from its start to its end: work that messages leave
    /// behind. By default nothing.
    fn beside(&self, pool: PgPool, shutdown: CancellationToken) -> impl Future<Output = ()> + Send {
        let _ = (pool, shutdown);
        async {}
    }

    /// The kinds that it handles; `None`, as by default, is every kind.
    ///
    /// A topic carries what others send too. Where kinds are named, a message of any other kind is
    /// skipped and counted (`inbox_messages_total{outcome="skipped"}`), and holds nothing up. Another
    /// version of a kind that is named (`order.placed.v2` where `order.placed.v1` is) is not skipped:
    /// it is parked, because what it says was asked for.
    fn kinds(&self) -> Option<&[&str]> {
        None
    }

    /// Called once per transaction with its new messages, before the first is handled: the place
    /// to take row locks in one order, so that two batches cannot deadlock.
    ///
    /// # Errors
    ///
    /// As [`Handler::handle`]; the batch is then redone in halves.
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

    /// Called before a message that failed for good is parked, in a new transaction that holds its
    /// inbox row. Whoever has a better place than `outbox.inbox_parked` to keep it, and to show the
    /// failure, writes it there and returns true: the message counts as handled then.
    ///
    /// # Errors
    ///
    /// Any; the message is parked then.
    fn keep_refused(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
        error: &Error,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let _ = (tx, message, error);
        async { Ok(false) }
    }
}

/// Handles the new messages of a transaction together: one `insert … select from unnest(…)` instead
/// of one insert for each. Everything said of [`Handler`] holds; a [`Batched`] one is a [`Handler`].
///
/// ```
/// # use outbox::{BatchHandler, Error, Received};
/// struct Seen;
///
/// impl BatchHandler for Seen {
///     async fn handle_batch(
///         &self,
///         tx: &mut sqlx::PgTransaction<'_>,
///         batch: &[Received],
///     ) -> Result<(), Error> {
///         let keys: Vec<&str> = batch.iter().map(|message| message.key.as_str()).collect();
///         sqlx::query("insert into seen select unnest($1::text[])")
///             .bind(keys)
///             .execute(&mut **tx)
///             .await?;
///         Ok(())
///     }
/// }
/// ```
pub trait BatchHandler: Send + Sync + 'static {
    /// As [`Handler::check`].
    ///
    /// # Errors
    ///
    /// Why the message can never be handled.
    fn check(&self, message: &Received) -> Result<(), Error> {
        let _ = message;
        Ok(())
    }

    /// As [`Handler::beside`].
    fn beside(&self, pool: PgPool, shutdown: CancellationToken) -> impl Future<Output = ()> + Send {
        let _ = (pool, shutdown);
        async {}
    }

    /// As [`Handler::kinds`].
    fn kinds(&self) -> Option<&[&str]> {
        None
    }

    /// Handles messages of one partition, in the order given. There is at least one; duplicates
    /// have been taken out.
    ///
    /// # Errors
    ///
    /// Any error rolls the whole batch back. What may be a message's fault is looked for by halves: an
    /// error of a slice of one is that message's own, see [`Handler::handle`].
    fn handle_batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// As [`Handler::keep_refused`].
    ///
    /// # Errors
    ///
    /// As there.
    fn keep_refused(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
        error: &Error,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let _ = (tx, message, error);
        async { Ok(false) }
    }
}

/// Makes a [`Handler`] of a [`BatchHandler`]: `Consumer::new(…, Batched(handler))`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Batched<B>(pub B);

impl<B: BatchHandler> Handler for Batched<B> {
    fn check(&self, message: &Received) -> Result<(), Error> {
        self.0.check(message)
    }

    async fn beside(&self, pool: PgPool, shutdown: CancellationToken) {
        self.0.beside(pool, shutdown).await;
    }

    fn kinds(&self) -> Option<&[&str]> {
        self.0.kinds()
    }

    /// Does all the work: it is what sees the new messages of a transaction together.
    async fn prepare(&self, tx: &mut PgTransaction<'_>, batch: &[Received]) -> Result<(), Error> {
        self.0.handle_batch(tx, batch).await
    }

    async fn handle(&self, _: &mut PgTransaction<'_>, _: &Received) -> Result<(), Error> {
        Ok(())
    }

    async fn keep_refused(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Received,
        error: &Error,
    ) -> Result<bool, Error> {
        self.0.keep_refused(tx, message, error).await
    }
}
