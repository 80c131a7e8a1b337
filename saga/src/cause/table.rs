//! What is read of a history to say why a saga turned back. Nothing here locks or writes.

use sqlx::PgTransaction;
use uuid::Uuid;

/// The last event before compensation began that a saga may turn back for.
pub(super) async fn before_compensation(
    tx: &mut PgTransaction<'_>,
    saga_id: Uuid,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select body::text as "body!" from saga.event
           where saga_id = $1
             and kind in ('action_failed', 'attempt_timed_out', 'lock_refused', 'deadline_passed',
                          'intervened')
             and seq < (select max(seq) from saga.event
                        where saga_id = $1 and kind = 'compensation_started')
           order by seq desc limit 1"#,
        saga_id
    )
    .fetch_optional(&mut **tx)
    .await
}
