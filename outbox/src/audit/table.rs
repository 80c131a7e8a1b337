//! The statements on `outbox.audit`: no other file has any.

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgConnection, PgPool, postgres::types::PgInterval};

use crate::{
    Error,
    audit::{Author, Entry, Filter},
};

/// Notes the same act for each of some subjects.
pub(super) async fn insert(
    connection: &mut PgConnection,
    author: &Author,
    action: &str,
    subjects: &[String],
    details: Value,
) -> Result<(), Error> {
    sqlx::query!(
        "insert into outbox.audit (actor, role, action, subject, reason, details)
         select $1, $2, $3, subject, $5, $6 from unnest($4::text[]) as acted (subject)",
        author.actor,
        author.role,
        action,
        subjects,
        author.reason,
        details,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A page, newest first.
pub(super) async fn list(
    pool: &PgPool,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    Ok(sqlx::query_as!(
        Entry,
        "select id, at, actor, role, action, subject, reason, details from outbox.audit
         where ($1::text is null or actor = $1)
           and ($2::text is null or action = $2)
           and ($3::text is null or subject = $3)
           and ($4::timestamptz is null or at >= $4)
           and ($5::bigint is null or id < $5)
         order by id desc
         limit $6",
        filter.actor,
        filter.action,
        filter.subject,
        filter.since,
        before,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Deletes some of what is older. Returns how many.
pub(super) async fn forget(pool: &PgPool, retention: Duration) -> Result<i32, Error> {
    let retention = PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(retention.as_micros()).unwrap_or(i64::MAX),
    };
    Ok(
        sqlx::query_scalar!(r#"select outbox.forget_audit($1) as "gone!""#, retention)
            .fetch_one(pool)
            .await?,
    )
}
