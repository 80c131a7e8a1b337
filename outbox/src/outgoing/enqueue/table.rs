//! The writers' statements on `outbox.log`.

use sqlx::PgTransaction;

use crate::{
    Error,
    broker::DEFAULT_MAX_BYTES,
    outgoing::enqueue::{Row, largest},
};

/// Inserts one row, if the topic takes a record of its size. Returns whether it did.
///
/// `durable` switches `synchronous_commit` on for this transaction where it is off; as a row source
/// its volatile expression is always evaluated.
pub(super) async fn append(tx: &mut PgTransaction<'_>, row: &Row<'_>) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        r#"insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers)
           select $1, $2, $3, $4, $5, $6, $7
           from (select case when current_setting('synchronous_commit') = 'off'
                             then set_config('synchronous_commit', 'on', true) end) as durable
           where $8 <= coalesce((select max_bytes from outbox.topic where name = $2), $9::bigint)"#,
        row.message.id,
        row.message.topic,
        row.message.key,
        row.message.kind,
        row.message.payload,
        row.traceparent,
        row.headers,
        row.bytes,
        DEFAULT_MAX_BYTES as i64,
    )
    .execute(&mut **tx)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Inserts many rows in the order given, if their topics take records of their sizes; otherwise
/// none. Returns whether it did.
pub(super) async fn append_all(
    tx: &mut PgTransaction<'_>,
    rows: &[Row<'_>],
) -> Result<bool, Error> {
    let messages = || rows.iter().map(|row| row.message);
    let ids: Vec<_> = messages().map(|m| m.id).collect();
    let topics: Vec<_> = messages().map(|m| m.topic.clone()).collect();
    let keys: Vec<_> = messages().map(|m| m.key.clone()).collect();
    let kinds: Vec<_> = messages().map(|m| m.kind.clone()).collect();
    let payloads: Vec<_> = messages().map(|m| m.payload.clone()).collect();
    let traceparents: Vec<_> = rows.iter().map(|row| row.traceparent.clone()).collect();
    let headers: Vec<_> = rows.iter().map(|row| row.headers.clone()).collect();
    let (sized, bytes): (Vec<_>, Vec<_>) = largest(rows)
        .into_iter()
        .map(|(topic, bytes)| (topic.to_owned(), bytes))
        .unzip();
    let inserted = sqlx::query!(
        r#"insert into outbox.log (message_id, topic, key, kind, payload, traceparent, headers)
           select m.message_id, m.topic, m.key, m.kind, m.payload, m.traceparent, m.headers
           from (select case when current_setting('synchronous_commit') = 'off'
                             then set_config('synchronous_commit', 'on', true) end) as durable,
                unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[],
                       $7::jsonb[])
                with ordinality
                as m (message_id, topic, key, kind, payload, traceparent, headers, place)
           where not exists (
               select from unnest($8::text[], $9::bigint[]) as largest (topic, bytes)
               left join outbox.topic on topic.name = largest.topic
               where largest.bytes > coalesce(topic.max_bytes, $10::bigint)
           )
           order by m.place"#,
        &ids,
        &topics,
        &keys,
        &kinds,
        payloads as Vec<Option<Vec<u8>>>,
        traceparents as Vec<Option<String>>,
        headers as Vec<Option<serde_json::Value>>,
        &sized,
        &bytes,
        DEFAULT_MAX_BYTES as i64,
    )
    .execute(&mut **tx)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// The largest record that a topic takes, as far as is known.
pub(super) async fn limit(tx: &mut PgTransaction<'_>, topic: &str) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"select coalesce((select max_bytes from outbox.topic where name = $1), $2::bigint)
                  as "limit!""#,
        topic,
        DEFAULT_MAX_BYTES as i64,
    )
    .fetch_one(&mut **tx)
    .await?)
}

pub(super) async fn lock_key(tx: &mut PgTransaction<'_>, key: &str) -> Result<(), Error> {
    sqlx::query!("select outbox.lock_key($1)", key)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
