//! What a service says of its schema when it starts.

use std::time::Duration;

use chassis::database;
use outbox::{
    broker::{Broker, Kafka},
    service::check_schema,
};
use sqlx::{Executor, PgPool};
use testbed::{Database, free_port, until};
use tokio_util::sync::CancellationToken;

async fn said(pool: &PgPool) -> Result<bool, String> {
    let (schemas, shutdown) = ([&outbox::MIGRATOR], CancellationToken::new());
    let checked = check_schema(pool, &schemas, &shutdown);
    let checked = tokio::time::timeout(Duration::from_secs(60), checked).await;
    checked.expect("an end").map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_missing_schema_a_missing_migration_and_a_missing_privilege_are_three_things() {
    let database = Database::fresh("starting_schema").await;
    let pool = database::pool(&database.url.parse().unwrap(), 2, "starting-test");
    let reason = said(&pool).await.unwrap_err();
    assert!(
        reason.starts_with("the schema outbox is missing") && reason.contains("--migrate"),
        "{reason}"
    );

    outbox::migrate(&pool).await.unwrap();
    assert_eq!(said(&pool).await, Ok(true));

    let newest = outbox::MIGRATOR.iter().last().unwrap();
    let forget = format!(
        "delete from outbox._sqlx_migrations where version = {}",
        newest.version
    );
    pool.execute(sqlx::AssertSqlSafe(forget)).await.unwrap();
    let reason = said(&pool).await.unwrap_err();
    let named = format!(
        "migration {} ({}) was not applied",
        newest.version, newest.description
    );
    assert!(reason.contains(&named), "{reason}");
    assert!(
        reason.contains("recompense migrate --schema outbox"),
        "{reason}"
    );

    let role = format!("starting_{}", database.name.rsplit('_').next().unwrap());
    let grant = format!("create role {role} login; grant usage on schema outbox to {role}");
    pool.execute(sqlx::AssertSqlSafe(grant)).await.unwrap();
    let options = database.options().unwrap().username(&role);
    let theirs = sqlx::postgres::PgPoolOptions::new().connect_lazy_with(options);
    let reason = said(&theirs).await.unwrap_err();
    assert!(reason.contains(&format!("the user {role}")), "{reason}");
    assert!(
        reason.contains("SELECT") && !reason.contains("--migrate"),
        "{reason}"
    );
    theirs.close().await;
    let drop = format!("drop owned by {role}; drop role {role}");
    pool.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let url = format!("postgres://nobody@127.0.0.1:{}/nothing", free_port());
    let pool = database::pool(&url.parse().unwrap(), 1, "starting-test");
    let shutdown = CancellationToken::new();
    let schemas = [&outbox::MIGRATOR];
    let checked = check_schema(&pool, &schemas, &shutdown);
    let mut checked = std::pin::pin!(checked);
    let waited = tokio::time::timeout(Duration::from_secs(2), &mut checked).await;
    assert!(waited.is_err(), "it ended: {waited:?}");
    shutdown.cancel();
    assert!(!checked.await.unwrap());
}

/// About a name that no topic may have: the answer is as short as an answer can be, whatever the cluster holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_probed_without_a_topic() {
    let there = Kafka::new(testbed::kafka().await.bootstrap()).unwrap();
    let answered = until(
        Duration::from_secs(30),
        "the broker to answer",
        async || there.ping().await.ok(),
    );
    answered.await;
    let away = Kafka::new(format!("127.0.0.1:{}", free_port())).unwrap();
    assert!(away.ping().await.is_err());
}
