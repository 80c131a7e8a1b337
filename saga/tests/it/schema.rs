//! The words and the tables.

use std::collections::BTreeSet;

use saga::{
    Phase,
    http::AnomalyKind,
    instance::{Status, WaitingFor},
    intervention::OperationName,
    locks::ClaimState,
    operator::bulk::{BulkStatus, ItemResult},
    participant::State,
    wire::Outcome,
};
use sqlx::PgPool;

use crate::support::*;

/// The words a check constraint allows.
async fn allowed(pool: &PgPool, constraint: &str) -> BTreeSet<String> {
    let definition: String = sqlx::query_scalar(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = $1",
    )
    .bind(constraint)
    .fetch_one(pool)
    .await
    .unwrap();
    let quoted = definition.split('\'').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

fn words<T: ToString>(all: &[T]) -> BTreeSet<String> {
    all.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_database_knows_the_same_words_as_the_program() {
    let pool = database("words").await;
    assert_eq!(
        allowed(&pool, "instance_status_known").await,
        words(Status::ALL)
    );
    assert_eq!(
        allowed(&pool, "instance_waiting_known").await,
        words(WaitingFor::ALL)
    );
    assert_eq!(
        allowed(&pool, "barrier_phase_known").await,
        words(Phase::ALL)
    );
    assert_eq!(
        allowed(&pool, "intervention_operation_known").await,
        words(OperationName::ALL)
    );
    assert_eq!(
        allowed(&pool, "bulk_status_known").await,
        words(BulkStatus::ALL)
    );
    assert_eq!(
        allowed(&pool, "bulk_item_result_known").await,
        words(ItemResult::ALL)
    );
    assert_eq!(
        allowed(&pool, "anomaly_kind_known").await,
        words(AnomalyKind::ALL)
    );
    assert_eq!(
        allowed(&pool, "lock_claim_state_known").await,
        words(ClaimState::ALL)
    );
    assert_eq!(
        allowed(&pool, "barrier_state_known").await,
        words(State::ALL)
    );
    let mut outcomes = words(Outcome::ALL);
    outcomes.extend(words(Phase::ALL));
    assert_eq!(allowed(&pool, "barrier_outcome_fits").await, outcomes);
}

#[tokio::test]
async fn migrating_again_changes_nothing_and_the_schema_keeps_its_own_account() {
    let pool = database("migrate").await;
    saga::migrate(&pool).await.unwrap();
    let migrations = i64::try_from(saga::MIGRATOR.iter().count()).unwrap();
    assert_eq!(count(&pool, "saga._sqlx_migrations").await, migrations);
}
