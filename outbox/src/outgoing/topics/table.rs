//! The statements on `outbox.topic`.

use std::collections::{BTreeMap, HashMap};

use sqlx::{PgConnection, PgPool};

use crate::{
    Error,
    broker::{DEFAULT_MAX_BYTES, OnPoison},
};

/// Inserts or updates the topics' rows. A limit that the broker did not say stays as it was.
pub(super) async fn declare(
    pool: &PgPool,
    policies: &BTreeMap<String, OnPoison>,
    limits: &HashMap<String, Option<usize>>,
) -> Result<(), Error> {
    let names: Vec<_> = policies.keys().cloned().collect();
    let bytes: Vec<_> = names
        .iter()
        .map(|name| limits.get(name).copied().flatten().map(column))
        .collect();
    let policies: Vec<_> = policies.values().map(|p| p.as_str().to_owned()).collect();
    // In the order of their names, so that two who declare at once do not deadlock.
    sqlx::query!(
        r#"insert into outbox.topic as known (name, max_bytes, on_poison, noted_at)
           select name, max_bytes, on_poison, now()
           from unnest($1::text[], $2::integer[], $3::text[]) as declared (name, max_bytes, on_poison)
           order by name
           on conflict on constraint topic_pkey do update
           set max_bytes = coalesce(excluded.max_bytes, known.max_bytes),
               on_poison = excluded.on_poison, noted_at = excluded.noted_at"#,
        &names,
        bytes as Vec<Option<i32>>,
        &policies,
    )
    .execute(pool)
    .await?;
    Ok(())
}

pub(super) async fn names(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(
        sqlx::query_scalar!("select name from outbox.topic order by name")
            .fetch_all(connection)
            .await?,
    )
}

/// Writes down the limits that have changed, and says how many.
pub(super) async fn note_limits(
    connection: &mut PgConnection,
    limits: &[(String, Option<usize>)],
) -> Result<u64, Error> {
    let (names, bytes): (Vec<_>, Vec<_>) = limits
        .iter()
        .filter_map(|(name, limit)| Some((name.clone(), column((*limit)?))))
        .unzip();
    let noted = sqlx::query!(
        r#"update outbox.topic
           set max_bytes = said.max_bytes, noted_at = now()
           from unnest($1::text[], $2::integer[]) as said (name, max_bytes)
           where topic.name = said.name and topic.max_bytes is distinct from said.max_bytes"#,
        &names,
        &bytes,
    )
    .execute(connection)
    .await?;
    Ok(noted.rows_affected())
}

/// Topics that nobody declared have the default, and there may be some.
pub(super) async fn largest_and_smallest_limit(
    connection: &mut PgConnection,
) -> Result<(usize, usize), Error> {
    let row = sqlx::query!(
        r#"select greatest(max(max_bytes), $1) as "largest!", least(min(max_bytes), $1) as "smallest!"
           from outbox.topic"#,
        column(DEFAULT_MAX_BYTES),
    )
    .fetch_one(connection)
    .await?;
    // The table takes positive numbers only.
    let bytes = |column: i32| usize::try_from(column).unwrap_or(DEFAULT_MAX_BYTES);
    Ok((bytes(row.largest), bytes(row.smallest)))
}

/// The column holds what Kafka can say: a positive 32-bit number. (0 takes no message, nor does 1.)
fn column(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX).max(1)
}
