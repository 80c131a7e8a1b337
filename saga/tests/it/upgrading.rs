//! A database of the version before, with sagas in every state, messages parked, locks held and an
//! external effect under way, goes on under the migrations of today.
//!
//! `version_before.sql` holds rows as the programs of that version wrote them.

use std::borrow::Cow;

use saga::{Operation, Phase, Status, intervention::What, locks::Filter, wire::Outcome};
use sqlx::{PgPool, migrate::Migrator};
use testbed::Database;
use uuid::Uuid;

use crate::{operating_support::*, support::*};

/// The last migrations of the version before.
const OUTBOX: i64 = 5;
const SAGA: i64 = 4;

/// The first `last` migrations of a schema.
fn up_to(migrator: &Migrator, last: i64) -> Migrator {
    let migrations = migrator.iter().filter(|m| m.version <= last).cloned();
    Migrator {
        migrations: Cow::Owned(migrations.collect()),
        table_name: migrator.table_name.clone(),
        create_schemas: migrator.create_schemas.clone(),
        ..Migrator::DEFAULT
    }
}

async fn upgraded() -> PgPool {
    let database = Database::fresh("upgraded").await;
    let pool = database.pool(8).await.unwrap();
    up_to(&outbox::MIGRATOR, OUTBOX).run(&pool).await.unwrap();
    up_to(&saga::MIGRATOR, SAGA).run(&pool).await.unwrap();
    let rows = include_str!("version_before.sql");
    sqlx::raw_sql(rows).execute(&pool).await.unwrap();
    database_of(&database).await
}

async fn of_status(pool: &PgPool, definition: &str, status: &str) -> Vec<Uuid> {
    let sql = "select id from saga.instance where definition = $1 and status = $2 order by id";
    let ids = sqlx::query_scalar(sql).bind(definition).bind(status);
    ids.fetch_all(pool).await.unwrap()
}

/// The participants answer every command of a saga until it has ended.
async fn answered_to_its_end(pool: &PgPool, coordinator: &saga::Coordinator, id: Uuid) -> Status {
    testbed::until(PATIENCE, "the saga to end", || async {
        let status = instance(pool, id).await.status;
        if status.is_terminal() {
            return Some(status);
        }
        let commands = commands_of(pool, id).await;
        let outcome = match commands.last()?.operation.phase {
            Phase::Action => Outcome::Succeeded,
            Phase::Compensation => Outcome::Compensated,
        };
        reply(pool, coordinator, id, outcome).await;
        None
    })
    .await
}

#[tokio::test]
async fn sagas_of_the_version_before_go_on_to_their_ends() {
    let pool = upgraded().await;
    let coordinator = coordinator();
    coordinator.register(&pool).await.unwrap();
    // The reply that was kept for a replica with its version is taken up.
    assert_eq!(count(&pool, "saga.pending").await, 1);
    coordinator.timers(pool.clone()).run_once().await.unwrap();
    assert_eq!(count(&pool, "saga.pending").await, 0);
    let ended = ["completed", "compensated", "abandoned"];
    for status in ended {
        assert_eq!(of_status(&pool, "trip", status).await.len(), 1, "{status}");
    }
    for id in of_status(&pool, "trip", "parked").await {
        done(&pool, &coordinator, id, What::Retry { step: None }).await;
    }
    for id in of_status(&pool, "trip", "running").await {
        if instance(&pool, id).await.paused {
            done(&pool, &coordinator, id, What::Resume {}).await;
        }
        let status = answered_to_its_end(&pool, &coordinator, id).await;
        assert_eq!(status, Status::Completed);
    }
    for id in of_status(&pool, "trip", "compensating").await {
        let status = answered_to_its_end(&pool, &coordinator, id).await;
        assert_eq!(status, Status::Compensated);
    }
    assert_eq!(of_status(&pool, "trip", "completed").await.len(), 6);
    assert_eq!(of_status(&pool, "trip", "compensated").await.len(), 4);
}

#[tokio::test]
async fn locks_of_the_version_before_are_still_held_and_waited_for() {
    let pool = upgraded().await;
    let locks = saga::locks::list(&pool, &Filter::default()).await.unwrap();
    let [room] = &locks[..] else {
        panic!("{locks:?}")
    };
    assert_eq!(
        (room.resource.as_str(), room.holding, room.waiting),
        ("room", 1, 1)
    );
    let next = room.waiters[0].saga_id;
    let mut tx = pool.begin().await.unwrap();
    let holder = [room.holders[0].saga_id];
    let granted = saga::locks::release(&mut tx, &holder).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(granted[0].saga_id, next);
}

#[tokio::test]
async fn operations_of_the_version_before_are_not_carried_out_again() {
    let pool = upgraded().await;
    let rows: Vec<(Uuid, String, String, String)> = sqlx::query_as(
        "select saga_id, phase, state, coalesce(outcome, '') from saga.barrier order by 1, 2",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let named = |state: &str, outcome: &str| {
        let row = rows
            .iter()
            .find(|row| (&*row.2, &*row.3) == (state, outcome));
        Operation {
            saga_id: row.unwrap().0,
            step: "hold".to_owned(),
            phase: Phase::Action,
            round: 1,
        }
    };
    let before = outcomes(&pool).await.len();
    for (outcome, answer) in [
        ("succeeded", Outcome::Succeeded),
        ("tombstoned", Outcome::Tombstoned),
    ] {
        let command = command(&named("answered", outcome), "");
        deliver(&pool, &participant(), &command).await.unwrap();
        assert_eq!(outcomes(&pool).await.last(), Some(&answer));
    }
    assert_eq!(outcomes(&pool).await.len(), before + 2);
    assert!(
        effects(&pool).await.is_empty(),
        "nothing is done a second time"
    );
    assert_eq!(rows.iter().filter(|row| row.2 == "running").count(), 1);
}
