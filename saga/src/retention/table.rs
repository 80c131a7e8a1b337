//! Every statement that forgets. One function per table with rows of a saga; a test counts them.

use std::time::Duration;

use sqlx::PgTransaction;
use uuid::Uuid;

/// Locks sagas that ended longer ago than `keep` and claim nothing, the longest ended first.
/// The status is asked too: whatever a wrong `ended_at` says, an open saga stays.
pub(super) async fn lock_ended(
    tx: &mut PgTransaction<'_>,
    keep: Duration,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from saga.instance i
         where ended_at < clock_timestamp() - make_interval(secs => $1)
           and status in ('completed', 'compensated', 'abandoned')
           and not exists (select from saga.lock_claim c where c.saga_id = i.id)
         order by ended_at limit $2
         for update skip locked",
        keep.as_secs_f64(),
        limit
    )
    .fetch_all(&mut **tx)
    .await
}

/// Removes the histories of these sagas.
pub(super) async fn delete_events(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from saga.event where saga_id = any($1)", sagas)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Takes these sagas off the list of anomalies.
pub(super) async fn delete_anomalies(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from saga.anomaly where saga_id = any($1)", sagas)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Removes what people did to these sagas; whoever asks again under the same key asks anew.
pub(super) async fn delete_interventions(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from saga.intervention where saga_id = any($1)",
        sagas
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes replies to these sagas that no replica could read while they lived.
pub(super) async fn delete_pending(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from saga.pending where saga_id = any($1)", sagas)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Removes these sagas.
pub(super) async fn delete_instances(
    tx: &mut PgTransaction<'_>,
    sagas: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from saga.instance where id = any($1)", sagas)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
