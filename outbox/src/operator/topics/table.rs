//! The statements of [`topics`](crate::operator::topics).

use sqlx::PgPool;

use crate::{Error, operator::topics::Topic};

/// Topics as they were declared.
pub(in crate::operator) async fn declared(pool: &PgPool) -> Result<Vec<Topic>, Error> {
    let rows =
        sqlx::query!("select name, on_poison, max_bytes, noted_at from outbox.topic order by name")
            .fetch_all(pool)
            .await?;
    let topics = rows.into_iter().map(|row| Topic {
        name: row.name,
        on_poison: row.on_poison,
        max_bytes: row.max_bytes,
        noted_at: row.noted_at,
        broker: None,
    });
    Ok(topics.collect())
}
