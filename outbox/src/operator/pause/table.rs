//! The statements of [`pause`](crate::operator::pause) and [`resume`](crate::operator::resume).

use sqlx::PgExecutor;

use crate::{Error, operator::status::Pause};

/// Sets the pause, unless there is one.
pub(in crate::operator) async fn pause(
    executor: impl PgExecutor<'_>,
    by: &str,
) -> Result<Option<Pause>, Error> {
    Ok(sqlx::query_as!(
        Pause,
        r#"update outbox.relay set paused_at = clock_timestamp(), paused_by = $1
           where paused_at is null
           returning paused_at as "since!", paused_by as "by!""#,
        by,
    )
    .fetch_optional(executor)
    .await?)
}

pub(in crate::operator) async fn paused(
    executor: impl PgExecutor<'_>,
) -> Result<Option<Pause>, Error> {
    Ok(sqlx::query_as!(
        Pause,
        r#"select paused_at as "since!", paused_by as "by!" from outbox.relay
           where paused_at is not null"#
    )
    .fetch_optional(executor)
    .await?)
}

/// Ends the pause and returns what it was.
pub(in crate::operator) async fn resume(
    executor: impl PgExecutor<'_>,
) -> Result<Option<Pause>, Error> {
    Ok(sqlx::query_as!(
        Pause,
        r#"update outbox.relay as relay set paused_at = null, paused_by = null
           from (select paused_at, paused_by from outbox.relay
                 where paused_at is not null for update) as former
           returning former.paused_at as "since!", former.paused_by as "by!""#
    )
    .fetch_optional(executor)
    .await?)
}
