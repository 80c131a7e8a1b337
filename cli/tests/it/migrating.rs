//! `recompense migrate`.

use crate::room::{Room, column, command, recompense};

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
        2,
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
async fn up_is_what_migrate_alone_means() {
    let room = Room::empty("migrate_up").await;
    let said = room.says("migrate up --schema saga").await;
    assert_eq!(said, "saga: up to date\n");
    let json = room.json("migrate up --schema saga").await;
    assert_eq!(
        (&json["up_to_date"], &json["migrations"][0]["state"]),
        (&true.into(), &"applied".into())
    );
    room.refuses("migrate up", 2, "missing setting: --schema")
        .await;
    room.refuses("migrate --schema saga status", 2, "").await;
}

#[tokio::test]
async fn status_tells_what_is_applied_pending_changed_or_unknown() {
    let room = Room::empty("migrate_status").await;
    room.refuses(
        "migrate status",
        2,
        "none of the schemas is in this database",
    )
    .await;
    let status = async |more: &str, expected: i32| {
        let arguments = format!("migrate status {more}");
        let ran = room.recompense(arguments.split_whitespace()).await;
        assert_eq!((ran.status, &*ran.stderr), (Some(expected), ""), "{more}");
        ran.stdout
    };
    let pending = status("--schema orders", 3).await;
    let states = column(&pending, "state");
    assert!(!states.is_empty() && states.iter().all(|state| state == "pending"));
    assert!(column(&pending, "applied").iter().all(String::is_empty));

    room.says("migrate up --schema outbox --schema saga").await;
    let there = status("", 0).await;
    let all = (
        outbox::MIGRATOR.iter().count(),
        saga::MIGRATOR.iter().count(),
    );
    let schemas = column(&there, "schema");
    assert_eq!(
        schemas,
        [vec!["outbox"; all.0], vec!["saga"; all.1]].concat()
    );
    assert!(
        column(&there, "state")
            .iter()
            .all(|state| state == "applied")
    );
    assert!(
        column(&there, "applied")
            .iter()
            .all(|at| at.starts_with("20"))
    );

    room.run(
        "update outbox._sqlx_migrations set checksum = '\\x00' where version = 2;
              delete from saga._sqlx_migrations where version = 4;
              insert into saga._sqlx_migrations values (99, 'from the future', now(), true, '', 0)",
    )
    .await;
    let told = status("--output json", 3).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["up_to_date"], false);
    let migrations = told["migrations"].as_array().unwrap().iter();
    let wrong = migrations.filter(|migration| migration["state"] != "applied");
    let wrong: Vec<_> = wrong
        .map(|one| {
            format!("{} {} {}", one["schema"], one["version"], one["state"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        wrong,
        ["outbox 2 changed", "saga 4 pending", "saga 99 unknown"]
    );
    let text = status("--schema saga", 3).await;
    assert_eq!(column(&text, "state").last().unwrap(), "unknown here");
    // What `up` refuses has no script either.
    room.refuses("migrate sql", 1, "migration 2 of schema outbox is changed")
        .await;
    room.refuses("migrate sql --schema saga", 1, "is unknown here")
        .await;
}

#[tokio::test]
async fn the_script_does_what_up_does_and_either_goes_on_where_the_other_has_been() {
    let room = Room::empty("migrate_sql").await;
    let up = Room::empty("migrate_sql_up").await;
    let all = "--schema outbox --schema saga --schema payments";
    // Everything but what is psql's own.
    let script = async |arguments: &str| {
        let script = room.says(arguments).await;
        let sql = script.strip_prefix("\\set ON_ERROR_STOP on\n");
        sql.unwrap_or_else(|| panic!("{script}")).to_owned()
    };
    let pending = script(&format!("migrate sql {all} --partition-bits 12")).await;
    room.run(&pending).await;
    up.says(&format!("migrate up {all} --partition-bits 12"))
        .await;
    assert_eq!(
        room.number("select outbox.partition_bits()::bigint").await,
        12
    );
    let of = async |room: &Room, sql: &'static str| -> Vec<String> {
        sqlx::query_scalar(sql).fetch_all(&room.pool).await.unwrap()
    };
    for same in [
        "select table_schema || table_name || column_name || data_type || coalesce(column_default, '')
           from information_schema.columns where table_schema in ('outbox', 'saga', 'payments') order by 1",
        "select conrelid::regclass::text || pg_get_constraintdef(oid) from pg_constraint
          where connamespace::regnamespace::text in ('outbox', 'saga', 'payments') order by 1",
        "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'outbox'::regnamespace order by 1",
        "select version || description || success || checksum::text from outbox._sqlx_migrations
          union all select version || description || success || checksum::text from payments._sqlx_migrations
          order by 1",
    ] {
        let made = of(&room, same).await;
        assert_eq!(made, of(&up, same).await);
        assert!(made.len() > 2, "{same}");
    }
    // Nothing is left to do, for whoever looks.
    room.says("migrate status").await;
    room.says(&format!("migrate up {all}")).await;
    assert_eq!(
        script("migrate sql").await,
        "-- outbox: up to date\n-- saga: up to date\n-- payments: up to date\n"
    );
    // A second run fails and leaves nothing behind.
    let again = sqlx::raw_sql(sqlx::AssertSqlSafe(pending))
        .execute(&room.pool)
        .await;
    let again = again.unwrap_err().to_string();
    assert!(again.contains("_sqlx_migrations_pkey"), "{again}");
    room.says("migrate status").await;

    // Only what is pending; everything, without a database.
    let other = Room::empty("migrate_sql_rest").await;
    other.says("migrate up --schema outbox").await;
    let rest = other
        .says("migrate sql --schema outbox --schema orders")
        .await;
    assert!(rest.contains("-- outbox: up to date\n") && rest.contains("create table orders."));
    assert!(!rest.contains("create table outbox.log"));
    // Nobody listens there.
    let nowhere = "postgres://ann@127.0.0.1:9/nowhere";
    let everything = recompense(nowhere, ["migrate", "sql", "--all"]).await;
    assert_eq!(everything.status, Some(0), "{}", everything.stderr);
    for schema in [
        "outbox",
        "saga",
        "orders",
        "payments",
        "deliveries",
        "notifications",
    ] {
        let make = format!("create schema if not exists {schema};");
        assert!(everything.stdout.contains(&make), "{schema}");
    }
    let mut without = command("");
    without.env_remove("DATABASE_URL").args(["migrate", "sql"]);
    let without = without.output().await.unwrap();
    let said = String::from_utf8(without.stderr).unwrap();
    assert_eq!(without.status.code(), Some(2), "{said}");
    assert!(said.contains("by --database-url, or --all"), "{said}");
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
