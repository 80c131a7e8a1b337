//! A database of the version before, with unsent, held and parked messages, under the migrations
//! of today.

use std::{borrow::Cow, sync::Arc};

use outbox::{
    Relay,
    broker::{Broker, Embedded, Topic},
    operator::parked,
    outgoing,
};
use sqlx::{PgPool, migrate::Migrator};
use testbed::Database;

use crate::world::{Oracle, Running, SOON};

/// The last migration of the version before.
const LAST: i64 = 5;

async fn upgraded(database: &Database) -> PgPool {
    let pool = database.pool(8).await.unwrap();
    let before = outbox::MIGRATOR.iter().filter(|m| m.version <= LAST);
    let before = Migrator {
        migrations: Cow::Owned(before.cloned().collect()),
        table_name: outbox::MIGRATOR.table_name.clone(),
        create_schemas: outbox::MIGRATOR.create_schemas.clone(),
        ..Migrator::DEFAULT
    };
    before.run(&pool).await.unwrap();
    // The rows that saga/tests/it/upgrading.rs goes on with: of the same database, this schema's.
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../saga/tests/it/version_before.sql"
    );
    let rows = std::fs::read_to_string(file).unwrap();
    let ours = rows.lines().filter(|line| line.contains("outbox."));
    let ours = ours.collect::<Vec<_>>().join("\n");
    sqlx::raw_sql(sqlx::AssertSqlSafe(ours))
        .execute(&pool)
        .await
        .unwrap();
    outbox::migrate(&pool).await.unwrap();
    pool
}

#[tokio::test]
async fn messages_of_the_version_before_are_sent_and_its_parked_ones_can_be_discarded() {
    let database = Database::fresh("upgraded").await;
    let pool = upgraded(&database).await;
    let broker = Arc::new(Embedded::start().unwrap());
    let topics = [
        "trip.commands",
        "orders.replies",
        "orders.events",
        "missing",
    ];
    broker
        .ensure_topics(&topics.map(|name| Topic::new(name, 1)))
        .await
        .unwrap();
    let unsent: i64 = sqlx::query_scalar("select count(*) from outbox.log where topic = $1")
        .bind("trip.commands")
        .fetch_one(&pool)
        .await
        .unwrap();
    let relay = Running::start(Relay::new(
        database.options().unwrap(),
        Arc::clone(&broker) as Arc<dyn Broker>,
        outgoing::Config::default(),
    ));
    let mut commands = Oracle::new(&*broker, "trip.commands");
    commands.wait_for(usize::try_from(unsent).unwrap()).await;
    // What was held is sent when its topic takes messages.
    Oracle::new(&*broker, "missing").wait_for(1).await;
    // The head goes, and its follower is sent.
    parked::discard(&pool, &[900_001], "ann").await.unwrap();
    Oracle::new(&*broker, "orders.events").wait_for(1).await;
    testbed::until(SOON, "nothing to be parked", || async {
        let parked: i64 = sqlx::query_scalar("select count(*) from outbox.parked")
            .fetch_one(&pool)
            .await
            .unwrap();
        (parked == 0).then_some(())
    })
    .await;
    let kept: i64 = sqlx::query_scalar("select count(*) from outbox.inbox_parked")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(kept, 2, "what consumers have parked waits for a person");
    relay.stop().await;
}
