//! The statements on `outbox.inbox` and what is noted of its consumers: no other file has any.

use std::time::Duration;

use sqlx::{
    Connection as _, PgConnection, PgPool, PgTransaction, Postgres, pool::PoolConnection,
    postgres::types::PgInterval,
};
use uuid::Uuid;

use crate::{Error, fault::Fault};

/// How transactions of this side begin.
///
/// READ COMMITTED, whatever the database's default: each statement sees what others have committed
/// while the one before it waited. The inbox and the parking protocol rely on it. And
/// `synchronous_commit` where it was off: the offset is committed at the broker after the transaction,
/// and a transaction that a crash then loses would never be made up for.
const BEGIN: &str = "begin isolation level read committed;
     select set_config('synchronous_commit', 'on', true)
     where current_setting('synchronous_commit') = 'off'";

/// Begins a transaction on a connection of the pool.
pub(crate) async fn begin(pool: &PgPool) -> Result<PgTransaction<'static>, Error> {
    Ok(pool.begin_with(BEGIN).await?)
}

/// A connection of the pool that is not given back when it can do no more.
pub(crate) struct Session(PoolConnection<Postgres>);

impl Session {
    pub(crate) async fn open(pool: &PgPool) -> Result<Self, Error> {
        Ok(Self(pool.acquire().await?))
    }

    pub(crate) async fn begin(&mut self) -> Result<PgTransaction<'_>, Error> {
        Ok(self.0.begin_with(BEGIN).await?)
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.0
    }

    /// After a failure. A session whose plans or statements are gone, or whose server has become
    /// read-only, would fail the next one too.
    ///
    /// Returns whether it was the session's fault, so that another one helps.
    pub(crate) fn failed(&mut self, error: &Error) -> bool {
        let is_stale = error.fault() == Some(Fault::Connection);
        if is_stale {
            self.0.close_on_drop();
        }
        is_stale
    }
}

/// Whether the database does what each batch asks of it: a row of the inbox, here rolled back. For
/// failures of which nobody can say whose they are.
pub(crate) async fn is_well(pool: &PgPool, consumer: &str) -> bool {
    let asking = async {
        let mut tx = begin(pool).await?;
        accept(&mut tx, consumer, &[Uuid::now_v7()]).await?;
        tx.rollback().await?;
        Ok::<_, Error>(())
    };
    asking.await.is_ok()
}

/// Gives a consumer its number, which rows of the inbox have instead of its name, and notes how long
/// they must be kept. In a transaction of its own, so that no batch waits for another one's commit to
/// have it.
pub(crate) async fn register(
    pool: &PgPool,
    consumer: &str,
    retention: Option<Duration>,
) -> Result<(), Error> {
    sqlx::query!(
        "select outbox.note_retention($1, $2)",
        consumer,
        retention.map(interval),
    )
    .fetch_one(pool)
    .await?;
    Ok(())
}

/// Whether a partition was read from another topic of this name before.
pub(crate) async fn is_other_topic(
    pool: &PgPool,
    consumer: &str,
    (topic, partition): (&str, i32),
    id: &str,
) -> Result<bool, Error> {
    let noted = sqlx::query_scalar!(
        "select topic_id from outbox.consumer_topic
         where consumer = $1 and topic = $2 and partition = $3",
        consumer,
        topic,
        partition,
    )
    .fetch_optional(pool)
    .await?;
    Ok(noted.is_some_and(|noted| noted != id))
}

/// Notes which topic a partition is read from.
pub(crate) async fn note_topic(
    pool: &PgPool,
    consumer: &str,
    (topic, partition): (&str, i32),
    id: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "insert into outbox.consumer_topic (consumer, topic, partition, topic_id)
         values ($1, $2, $3, $4)
         on conflict on constraint consumer_topic_pkey
         do update set topic_id = excluded.topic_id, noted_at = now()
         where consumer_topic.topic_id <> excluded.topic_id",
        consumer,
        topic,
        partition,
        id,
    )
    .execute(pool)
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

/// Adds days ahead and forgets what is older than `retention`, and than what any other consumer has
/// noted.
pub(crate) async fn keep(pool: &PgPool, retention: Option<Duration>) -> Result<Kept, Error> {
    Ok(sqlx::query_as!(
        Kept,
        r#"select created as "created!", dropped as "dropped!", deleted as "deleted!"
           from outbox.keep_inbox($1)"#,
        retention.map(interval),
    )
    .fetch_one(pool)
    .await?)
}

fn interval(time: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(time.as_micros()).unwrap_or(i64::MAX),
    }
}
