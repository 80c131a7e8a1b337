//! `recompense migrate`.

use crate::room::Room;

#[tokio::test]
async fn schemas_are_made_in_the_order_given_and_a_repetition_changes_nothing() {
    let room = Room::empty("migrate").await;
    for _ in 0..2 {
        let said = room
            .says("migrate --schema outbox --schema saga --schema orders")
            .await;
        assert_eq!(
            said,
            "outbox: up to date\nsaga: up to date\norders: up to date\n"
        );
    }
    let made = "select count(*) from pg_namespace where nspname in ('outbox', 'saga', 'orders', 'payments')";
    assert_eq!(room.number(made).await, 3);
    let applied = room
        .number("select count(*) from outbox._sqlx_migrations")
        .await;
    assert_eq!(applied, outbox::MIGRATOR.iter().count() as i64);
}

#[tokio::test]
async fn two_at_once_make_it_once() {
    let room = Room::empty("migrate_twice").await;
    let (one, other) = tokio::join!(
        room.says("migrate --schema outbox"),
        room.says("migrate --schema outbox")
    );
    assert_eq!(one, other);
    let applied = room
        .number("select count(*) from outbox._sqlx_migrations")
        .await;
    assert_eq!(applied, outbox::MIGRATOR.iter().count() as i64);
}

#[tokio::test]
async fn the_size_of_the_ring_is_chosen_once() {
    let room = Room::empty("migrate_ring").await;
    room.refuses(
        "migrate --schema outbox --partition-bits 40",
        2,
        "--partition-bits",
    )
    .await;
    room.refuses(
        "migrate --schema saga --partition-bits 12",
        1,
        "--schema outbox",
    )
    .await;
    for _ in 0..2 {
        room.says("migrate --schema outbox --partition-bits 12")
            .await;
    }
    assert_eq!(
        room.number("select outbox.partition_bits()::bigint").await,
        12
    );
    let second = "insert into outbox.log (seq, message_id, topic, key, kind)
                  values (1 << 12, gen_random_uuid(), 't', 'k', 'kind')";
    room.run(second).await;
    assert_eq!(room.number("select count(*) from outbox.log_1").await, 1);
    room.refuses(
        "migrate --schema outbox --partition-bits 13",
        1,
        "cannot be changed",
    )
    .await;
}

#[tokio::test]
async fn what_cannot_be_migrated_is_said_in_a_line() {
    let room = Room::empty("migrate_bad").await;
    room.refuses("migrate", 2, "missing setting: --schema")
        .await;
    room.refuses(
        "migrate --schema nonsense",
        2,
        "--schema: must be one of outbox, saga",
    )
    .await;
    room.run("create schema outbox; create table outbox.log (n int)")
        .await;
    room.refuses(
        "migrate --schema outbox",
        1,
        "schema outbox was not migrated",
    )
    .await;
    let left = "select count(*) from pg_class where relnamespace = 'outbox'::regnamespace and relname = 'relay'";
    assert_eq!(room.number(left).await, 0, "nothing was kept");
    let ran = room
        .recompense(["migrate", "--schema", "saga", "--roles", "Not A Prefix"])
        .await;
    assert_eq!(
        (ran.status, ran.stderr.lines().count()),
        (Some(1), 1),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("the roles were not made"),
        "{}",
        ran.stderr
    );
}
