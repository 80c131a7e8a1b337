//! The statements on `outbox.inbox`: no other file has any.

use std::time::Duration;

use sqlx::{PgPool, PgTransaction, postgres::types::PgInterval};
use uuid::Uuid;

use crate::Error;

/// A transaction that sees in each statement what others have committed while the one before it
/// waited: READ COMMITTED, whatever the database's default. The inbox and the parking protocol rely
/// on it.
pub(crate) async fn begin(pool: &PgPool) -> Result<PgTransaction<'static>, Error> {
    Ok(pool
        .begin_with("begin isolation level read committed")
        .await?)
}

/// Gives a consumer its number, which rows of the inbox have instead of its name. In a transaction of
/// its own, so that no batch waits for another one's commit to have it.
pub(crate) async fn register(pool: &PgPool, consumer: &str) -> Result<(), Error> {
    sqlx::query_scalar!("select outbox.consumer_id($1)", consumer)
        .fetch_one(pool)
        .await?;
    Ok(())
}

/// Notes messages as handled by `consumer` and returns the ids that were not handled before.
///
/// `on conflict do nothing` waits for a concurrent transaction that inserts the same id: when it
/// commits, the id is a duplicate here; when it rolls back, it is new.
pub(crate) async fn accept(
    tx: &mut PgTransaction<'_>,
    consumer: &str,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, Error> {
    // Sorted, so that two batches with the same ids wait for each other in one order.
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    Ok(sqlx::query_scalar!(
        "insert into outbox.inbox (consumer, message_id)
         select (select outbox.consumer_id($1)), id from unnest($2::uuid[]) as new (id)
         on conflict on constraint inbox_pkey do nothing
         returning message_id",
        consumer,
        &ids,
    )
    .fetch_all(&mut **tx)
    .await?)
}

/// Fails when a statement of the transaction failed and its error was swallowed: PostgreSQL would
/// answer the commit with a rollback, and nobody would hear of it.
pub(crate) async fn must_be_alive(tx: &mut PgTransaction<'_>) -> Result<(), Error> {
    sqlx::query_scalar!("select 1 as alive")
        .fetch_one(&mut **tx)
        .await?;
    Ok(())
}

/// What a call of `outbox.keep_inbox` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Days added.
    pub(crate) created: i32,
    /// Days dropped.
    pub(crate) dropped: i32,
    /// Old rows deleted outside of the days.
    pub(crate) deleted: i32,
}

/// Adds days ahead and forgets what is older than `retention`.
pub(crate) async fn keep(pool: &PgPool, retention: Option<Duration>) -> Result<Kept, Error> {
    let retention = retention.map(|retention| PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(retention.as_micros()).unwrap_or(i64::MAX),
    });
    Ok(sqlx::query_as!(
        Kept,
        r#"select created as "created!", dropped as "dropped!", deleted as "deleted!"
           from outbox.keep_inbox($1)"#,
        retention,
    )
    .fetch_one(pool)
    .await?)
}
