//! The statements on `outbox.inbox` and `outbox.inbox_parked`: no other file has any.

use std::fmt::Write as _;

use sqlx::PgTransaction;
use uuid::Uuid;

use crate::{Error, broker::Record};

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
         select $1, id from unnest($2::uuid[]) as new (id)
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

/// Why a message is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sickness {
    /// One of the words in `inbox_parked_class_is_known`.
    pub(crate) class: &'static str,
    pub(crate) reason: String,
    pub(crate) attempts: i32,
}

/// Keeps a full copy of a message that could not be handled.
pub(crate) async fn park(
    tx: &mut PgTransaction<'_>,
    consumer: &str,
    id: Uuid,
    record: &Record,
    sickness: &Sickness,
) -> Result<(), Error> {
    let headers: Vec<_> = record
        .headers
        .iter()
        .map(|(name, value)| {
            let name = name.replace('\0', "\u{fffd}");
            serde_json::json!([name, value.as_deref().map(hex)])
        })
        .collect();
    sqlx::query!(
        r#"insert into outbox.inbox_parked (consumer, message_id, topic, partition, "offset", key,
                                            payload, headers, class, reason, attempts)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"#,
        consumer,
        id,
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.payload,
        serde_json::Value::Array(headers),
        sickness.class,
        sickness.reason.replace('\0', "\u{fffd}"),
        sickness.attempts,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
