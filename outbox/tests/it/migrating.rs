//! A migration on a database that others are at work in.

use std::time::Duration;

use chassis::database;
use outbox::run_migrations;
use sqlx::{
    Executor, PgPool,
    migrate::{Migration, MigrationType, Migrator},
};
use testbed::{Database, until};

const SOON: Duration = Duration::from_secs(60);

/// Two migrations: a table, and what this test is about.
fn migrator(second: &'static str) -> Migrator {
    let migration = |version, sql: &'static str| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(version, "test".into(), MigrationType::Simple, sql, false)
    };
    let table = migration(1, "create table shelf (id int)");
    Migrator::with_migrations(vec![table, migration(2, second)])
}

async fn busy(name: &str) -> (Database, PgPool) {
    let database = Database::fresh(name).await;
    let pool = database::pool(&database.url.parse().unwrap(), 4, "migrating-test");
    pool.execute("create table shelf_of_others (id int)")
        .await
        .unwrap();
    (database, pool)
}

#[tokio::test]
async fn nobody_waits_behind_a_migration_that_waits_for_its_lock() {
    let (_database, pool) = busy("migrating_lock").await;
    // Somebody reads for long.
    let mut reader = pool.begin().await.unwrap();
    reader
        .execute("select * from shelf_of_others")
        .await
        .unwrap();
    let migrating = tokio::spawn({
        let pool = pool.clone();
        let migrator = migrator("alter table shelf_of_others add column name text");
        async move { run_migrations(&pool, &migrator).await }
    });
    let waits = "select count(*) from pg_locks where not granted and locktype = 'relation'
                 and database = (select oid from pg_database where datname = current_database())";
    until(SOON, "the migration to wait", async || {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&pool).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    // Who comes later is let through while the reader is still there.
    let read = pool.execute("select * from shelf_of_others");
    tokio::time::timeout(SOON / 3, read)
        .await
        .expect("it waits behind the migration")
        .unwrap();
    assert!(!migrating.is_finished(), "it must go on trying");
    reader.commit().await.unwrap();
    migrating.await.unwrap().unwrap();
    pool.execute("select name from shelf_of_others")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_migration_may_take_longer_than_a_statement_of_its_service() {
    let database = Database::fresh("migrating_long").await;
    let options = database.options().unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .connect_with(options.options([("statement_timeout", "200")]))
        .await
        .unwrap();
    let long = "select pg_sleep(1)";
    assert!(pool.execute(long).await.is_err(), "the timeout is on");
    run_migrations(&pool, &migrator(long)).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_is_wrong_fails_at_once() {
    let (_database, pool) = busy("migrating_wrong").await;
    let migrator = migrator("alter table nowhere add column x int");
    let wrong = run_migrations(&pool, &migrator);
    let error = tokio::time::timeout(SOON, wrong)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}
