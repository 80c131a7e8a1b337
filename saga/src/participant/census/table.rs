//! What is read of the barrier to be counted. Nothing here locks or writes.

use sqlx::PgPool;

/// Effects outside of the database whose answers are not known.
pub(super) struct Running {
    /// Up to `most`.
    pub(super) effects: i64,
    /// How long the oldest is unanswered; 0 if there is none.
    pub(super) oldest_seconds: f64,
}

/// How many there are, at most `most`, and for how long the oldest.
pub(super) async fn running(pool: &PgPool, most: i64) -> Result<Running, sqlx::Error> {
    sqlx::query_as!(
        Running,
        r#"select (select count(*) from (
                       select from saga.barrier where state = 'running' limit $1) as found)
                      as "effects!",
                  coalesce((select greatest(extract(epoch from statement_timestamp() - recorded_at), 0)
                            from saga.barrier
                            where state = 'running' and isfinite(recorded_at)
                            order by recorded_at limit 1), 0)::float8 as "oldest_seconds!""#,
        most
    )
    .fetch_one(pool)
    .await
}
