//! Each check is broken, sees it, and where a statement mends it, that is run and the check is well again.

use std::{sync::Arc, time::Duration};

use outbox::{
    broker::{Broker, Kafka, Topic},
    operator::{
        self, AtBroker,
        doctor::{Finding, Limits, Report, Verdict, examine},
    },
    outgoing::Config,
};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use sqlx::{Connection, PgConnection, PgPool};
use testbed::{Database, Postgres, postgres::Options};
use uuid::Uuid;

use crate::{
    operating::run,
    world::{SOON, World},
};

async fn look_with(pool: &PgPool, limits: &Limits) -> Report {
    examine(pool, None, limits).await.unwrap()
}

fn of<'a>(report: &'a Report, check: &str) -> &'a Finding {
    let mut found = report
        .findings
        .iter()
        .filter(|finding| finding.check == check);
    let first = found
        .next()
        .unwrap_or_else(|| panic!("{check} says nothing"));
    assert!(
        found.next().is_none(),
        "{check} says one thing: {report:#?}"
    );
    first
}

/// What a check says now, if it says one thing.
async fn ask(pool: &PgPool, check: &str, limits: &Limits) -> Finding {
    of(&look_with(pool, limits).await, check).clone()
}

async fn is_ok(pool: &PgPool, check: &str, limits: &Limits) {
    let finding = ask(pool, check, limits).await;
    assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
}

/// Runs what a finding prints.
async fn mend(pool: &PgPool, finding: &Finding) {
    assert!(!finding.fix.is_empty(), "{finding:?}");
    for statement in &finding.fix {
        run(pool, statement.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_schema_is_noticed_and_mended_by_the_printed_statements() {
    let world = World::embedded("doctor_schema").await;
    let pool = &world.pool;
    let limits = &Limits::default();
    world
        .send(&[world.message("k", 1), world.message("k", 2)])
        .await;
    run(
        pool,
        "create function nothing() returns trigger language plpgsql as $$ begin return null; end $$",
    )
    .await;
    for (check, breaking, says) in [
        (
            "sequence",
            "alter sequence outbox.log_seq cache 20",
            "cache 20",
        ),
        (
            "sequence",
            "alter sequence outbox.log_seq increment by 2",
            "increment 2",
        ),
        ("sequence", "alter sequence outbox.log_seq cycle", "cycles"),
        (
            "sequence",
            "select setval('outbox.log_seq', 1)",
            "holds number 2",
        ),
        (
            "log_columns",
            "alter table outbox.log alter column seq drop default",
            "is missing",
        ),
        (
            "log_columns",
            "alter table outbox.log alter column xid set default '7'",
            "instead of pg_current_xact_id()",
        ),
        (
            "log_columns",
            "alter table outbox.log alter column created_at set default now()",
            "created_at is now()",
        ),
        (
            "log_triggers",
            "create trigger \"my \"\"own\" before insert on outbox.log for each row execute function nothing()",
            "has a trigger",
        ),
        (
            "log_triggers",
            "create trigger one before insert on outbox.log_2 for each row execute function nothing()",
            "outbox.log_2 has a trigger",
        ),
        (
            "log_triggers",
            "create rule swallow as on insert to outbox.log do instead nothing",
            "has a rule",
        ),
        (
            "log_triggers",
            "alter table outbox.log enable row level security",
            "row security",
        ),
        (
            "log_storage",
            "alter table outbox.log_1 set unlogged",
            "outbox.log_1 is unlogged",
        ),
        (
            "log_storage",
            "update pg_index set indisvalid = false where indexrelid = 'outbox.log_3_seq_idx'::regclass",
            "log_3_seq_idx is not valid",
        ),
        (
            "privileges",
            "grant select on outbox.parked to public",
            "everybody",
        ),
    ] {
        is_ok(pool, check, limits).await;
        run(pool, breaking).await;
        let finding = ask(pool, check, limits).await;
        assert_eq!(finding.verdict, Verdict::Problem, "{breaking}: {finding:?}");
        assert!(
            finding.explanation.contains(says),
            "{breaking}: {finding:?}"
        );
        mend(pool, &finding).await;
        is_ok(pool, check, limits).await;
    }
    assert_eq!(
        look_with(pool, limits).await.worst(),
        Verdict::Problem,
        "nobody relays"
    );

    // Not to be mended by a statement.
    run(pool, "alter table outbox.log rename column xid to a; alter table outbox.log rename column seq to xid;
               alter table outbox.log rename column a to seq").await;
    // With sessions that have no plans of before.
    let report = look_with(&world.database.pool(2).await.unwrap(), limits).await;
    let order = report
        .findings
        .iter()
        .find(|finding| finding.explanation.contains("does not stand before"));
    assert_eq!(order.unwrap().verdict, Verdict::Problem);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_and_a_newer_schema_are_noticed() {
    let world = World::embedded("doctor_migrations").await;
    let pool = &world.pool;
    let limits = &Limits::default();
    is_ok(pool, "migrations", limits).await;
    run(
        pool,
        "update outbox._sqlx_migrations set version = 99990101 where version = 2",
    )
    .await;
    let report = look_with(pool, limits).await;
    let found: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.check == "migrations")
        .collect();
    let verdicts: Vec<_> = found.iter().map(|finding| finding.verdict).collect();
    assert_eq!(verdicts, [Verdict::Problem, Verdict::Warning]);
    assert_eq!(found[0].fix, ["recompense migrate up --schema outbox"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_the_log_are_noticed() {
    let world = World::embedded("doctor_edits").await;
    let pool = &world.pool;
    world.send(&[world.message("k", 1)]).await;
    let limits = &Limits::default();
    is_ok(pool, "log_edits", limits).await;
    // A row that is edited is another transaction's, which the log refuses by itself.
    run(
        pool,
        "alter table outbox.log drop constraint log_xid_is_its_own",
    )
    .await;
    let (change, table) = ("update", "outbox.log_0");
    // A session hands its counts in when it ends.
    let other = world.database.pool(1).await.unwrap();
    run(&other, format!("{change} {table} set key = 'other'")).await;
    other.close().await;
    let finding = testbed::until(SOON, "the edit is counted", async || {
        let finding = ask(pool, "log_edits", limits).await;
        (finding.verdict == Verdict::Warning).then_some(finding)
    })
    .await;
    assert!(
        finding.explanation.starts_with("1 rows of outbox.log_0"),
        "{finding:?}"
    );
    mend(pool, &finding).await;
    is_ok(pool, "log_edits", limits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_missing_hangs_or_is_paused_is_noticed() {
    let world = World::embedded("doctor_relay").await;
    let pool = &world.pool;
    let limits = &Limits::default();
    let finding = ask(pool, "relay", limits).await;
    assert_eq!(
        finding.verdict,
        Verdict::Warning,
        "nothing waits: {finding:?}"
    );
    world.send(&[world.message("k", 1)]).await;
    let finding = ask(pool, "relay", limits).await;
    assert_eq!(finding.verdict, Verdict::Problem, "{finding:?}");
    assert!(
        finding.explanation.contains("messages are waiting"),
        "{finding:?}"
    );
    let mut relay = world.relay(Config::default());
    relay.leading().await;
    is_ok(pool, "relay", limits).await;
    relay.stop().await;
    run(
        pool,
        "update outbox.relay set owner = 'hung', lease_until = now() + interval '1 hour', lease_length = interval '1 hour', written_at = now() - interval '1 minute'",
    )
    .await;
    let finding = ask(pool, "relay", limits).await;
    assert_eq!(finding.verdict, Verdict::Problem, "{finding:?}");
    assert!(
        finding.explanation.contains("hung holds the lease"),
        "{finding:?}"
    );

    is_ok(pool, "pause", limits).await;
    outbox::operator::pause(pool, "ann: deploying")
        .await
        .unwrap();
    let finding = ask(pool, "pause", limits).await;
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(
        finding.explanation.contains("ann: deploying"),
        "{finding:?}"
    );
    assert_eq!(finding.fix, ["recompense outbox resume"]);
    outbox::operator::resume(pool, "ann").await.unwrap();
    is_ok(pool, "pause", limits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_cluster_is_noticed() {
    let world = World::embedded("doctor_origin").await;
    let pool = &world.pool;
    let limits = &Limits::default();
    is_ok(pool, "cursor_origin", limits).await;
    for (breaking, says) in [
        (
            "update outbox.relay set target = '99999999:99999999:'",
            "is ahead of",
        ),
        (
            "update outbox.relay set system_identifier = 1",
            "in another database cluster",
        ),
    ] {
        run(pool, breaking).await;
        let finding = ask(pool, "cursor_origin", limits).await;
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(finding.explanation.contains(says), "{finding:?}");
        assert_eq!(finding.fix, ["recompense outbox rebase"]);
    }
    // It mends what it says.
    outbox::operator::rebase::rebase(pool, SOON, "ann")
        .await
        .unwrap();
    is_ok(pool, "cursor_origin", limits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_for_long_is_a_problem() {
    let world = World::embedded("doctor_parked").await;
    let pool = &world.pool;
    let limits = &Limits::default();
    for check in ["parked", "inbox_parked"] {
        is_ok(pool, check, limits).await;
    }
    run(
        pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         values (1, gen_random_uuid(), 't', 'k', 'kind', now(), 'poison', 'r');
         insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\", headers, class,
                                          reason, attempts)
         values ('c', gen_random_uuid(), 't', 0, 0, '[]', 'refused', 'r', 1)",
    )
    .await;
    for (check, says, fix) in [
        (
            "parked",
            "refused by the broker",
            "recompense outbox parked list",
        ),
        (
            "inbox_parked",
            "not be handled by c",
            "recompense inbox parked list --consumer c",
        ),
    ] {
        let finding = ask(pool, check, limits).await;
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.explanation.contains(says), "{finding:?}");
        assert!(finding.fix[0].starts_with(fix), "{finding:?}");
    }
    run(
        pool,
        "update outbox.parked set parked_at = now() - interval '2 days', class = 'held';
         update outbox.inbox_parked set parked_at = now() - interval '2 days'",
    )
    .await;
    for check in ["parked", "inbox_parked"] {
        let finding = ask(pool, check, limits).await;
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(finding.explanation.contains("2.0 days"), "{finding:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ring_s_size_speed_and_dead_rows_are_told() {
    let world = World::embedded("doctor_storage").await;
    let pool = &world.pool;
    let limits = &Limits {
        dead_rows: 300,
        ..Limits::default()
    };
    run(
        pool,
        "alter table outbox.log_0 set (autovacuum_enabled = off)",
    )
    .await;
    for check in ["partitions", "turn", "dead_rows"] {
        is_ok(pool, check, limits).await;
    }
    run(
        pool,
        "insert into outbox.log (message_id, topic, key, kind, created_at)
         select gen_random_uuid(), 't', 'k', 'kind', now() - interval '2 hours' + interval '1.8 s' * n
         from generate_series(1, 4000) as n",
    )
    .await;
    // 2,000 in the last hour: 2^22 of them last 87 days.
    let turn = ask(pool, "turn", limits).await;
    assert!(
        turn.explanation.contains("0.6 messages/s") && turn.explanation.contains("87."),
        "{turn:?}"
    );
    let slow = Limits {
        turn: Duration::from_secs(100 * 86_400),
        ..limits.clone()
    };
    let turn = ask(pool, "turn", &slow).await;
    assert_eq!(turn.verdict, Verdict::Warning, "{turn:?}");

    let other = world.database.pool(1).await.unwrap();
    run(
        &other,
        "begin;
         insert into outbox.log (message_id, topic, key, kind)
         select gen_random_uuid(), 't', 'k', 'kind' from generate_series(1, 1000);
         rollback",
    )
    .await;
    other.close().await;
    let finding = testbed::until(SOON, "the dead rows are counted", async || {
        let finding = ask(pool, "dead_rows", limits).await;
        (finding.verdict == Verdict::Warning).then_some(finding)
    })
    .await;
    assert!(
        finding.explanation.contains("outbox.log_0 has about 1000"),
        "{finding:?}"
    );
    mend(pool, &finding).await;
    testbed::until(SOON, "the dead rows are gone", async || {
        (ask(pool, "dead_rows", limits).await.verdict == Verdict::Ok).then_some(())
    })
    .await;

    run(
        pool,
        &*format!(
            "insert into outbox.log (seq, message_id, topic, key, kind)
             values ({}, gen_random_uuid(), 't', 'k', 'kind')",
            5 + (1 << 22)
        ),
    )
    .await;
    let finding = ask(pool, "partitions", limits).await;
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(
        finding.explanation.contains("outbox.log_0 holds 2 turns"),
        "{finding:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_transaction_open_is_named_without_the_statement_s_values() {
    let world = World::embedded("doctor_horizon").await;
    let pool = &world.pool;
    let at_once = &Limits {
        open_transaction: Duration::ZERO,
        ..Limits::default()
    };
    for (check, says) in [
        ("open_transactions", "what it has enqueued waits"),
        ("idle_in_transaction", "its program has forgotten it"),
    ] {
        is_ok(pool, check, at_once).await;
        let options = world
            .database
            .options()
            .unwrap()
            .application_name("forgetful");
        let mut open = PgConnection::connect_with(&options).await.unwrap();
        let statement = "begin; insert into effect (n) values (4111)";
        sqlx::raw_sql(statement).execute(&mut open).await.unwrap();
        let finding = ask(pool, check, at_once).await;
        assert_eq!(
            finding.verdict,
            Verdict::Problem,
            "beyond ten times nothing: {finding:?}"
        );
        assert!(finding.explanation.contains(says), "{finding:?}");
        assert!(finding.explanation.contains("(forgetful)"), "{finding:?}");
        assert!(!finding.explanation.contains("4111"), "{finding:?}");
        let patient = &Limits::default();
        is_ok(pool, check, patient).await;
        mend(pool, &finding).await;
        testbed::until(SOON, "it is gone", async || {
            (ask(pool, check, at_once).await.verdict == Verdict::Ok).then_some(())
        })
        .await;
    }
}

/// What belongs to a whole server needs one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn settings_slots_and_prepared_transactions_of_the_server_are_noticed_and_mended() {
    let options = Options {
        durable: true,
        settings: vec![("max_prepared_transactions".into(), "5".into())],
        ..Options::default()
    };
    let server = Postgres::start_with(options).await.unwrap();
    let database = Database::fresh_on(&server, "doctor_server").await.unwrap();
    let pool = &database.pool(4).await.unwrap();
    outbox::migrate(pool).await.unwrap();
    let at_once = &Limits {
        prepared_transaction: Duration::ZERO,
        ..Limits::default()
    };
    let name = &database.name;
    for (check, breaking, says) in [
        (
            "settings",
            vec!["alter system set fsync = off".to_owned()],
            "fsync is off",
        ),
        (
            "settings",
            vec!["alter system set full_page_writes = off".to_owned()],
            "full_page_writes is off",
        ),
        (
            "settings",
            vec!["alter system set synchronous_commit = off".to_owned()],
            "synchronous_commit is off",
        ),
        (
            "settings",
            vec![format!(
                "alter database {name} set synchronous_commit = off"
            )],
            "synchronous_commit is off",
        ),
        (
            "settings",
            vec!["alter role postgres set synchronous_commit = off".to_owned()],
            "synchronous_commit is off",
        ),
        (
            "replication_slots",
            vec![
                "select pg_create_physical_replication_slot('it''s', true)"
                    .replace("it''s", "idle"),
            ],
            "slot idle",
        ),
        (
            "prepared_transactions",
            vec!["begin; select pg_current_xact_id(); prepare transaction 'it''s'".to_owned()],
            "has been waiting",
        ),
    ] {
        fresh_is(pool, check, at_once, "").await;
        for statement in breaking {
            run(pool, statement).await;
        }
        run(pool, "select pg_reload_conf()").await;
        let finding = fresh_is(pool, check, at_once, says).await.unwrap();
        assert!(finding.verdict >= Verdict::Warning, "{finding:?}");
        mend(pool, &finding).await;
        fresh_is(pool, check, at_once, "").await;
    }
}

/// Waits until a check, asked in a new session, is well (`says` is empty), or says something.
async fn fresh_is(pool: &PgPool, check: &str, limits: &Limits, says: &str) -> Option<Finding> {
    testbed::until(SOON, &format!("{check}: {says}"), async || {
        let fresh = sqlx::postgres::PgPoolOptions::new()
            .max_connections(3)
            .connect_with((*pool.connect_options()).clone())
            .await
            .unwrap();
        let finding = ask(&fresh, check, limits).await;
        fresh.close().await;
        let is = match says {
            "" => finding.verdict == Verdict::Ok,
            says => finding.explanation.contains(says),
        };
        is.then_some(Some(finding))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_too_much_or_too_little_is_noticed() {
    let world = World::embedded("doctor_roles").await;
    let pool = &world.pool;
    let limits = &Limits::default();
    is_ok(pool, "roles", limits).await;
    // Roles are the whole server's: a prefix of our own.
    let prefix = format!("doctor_{}", Uuid::now_v7().simple());
    run(
        pool,
        format!(
            "create role {prefix}_producer; grant usage on schema outbox to {prefix}_producer;
             grant insert on outbox.log to {prefix}_producer;
             grant usage on sequence outbox.log_seq to {prefix}_producer"
        ),
    )
    .await;
    let finding = ask(pool, "roles", limits).await;
    assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    assert!(finding.explanation.contains(&prefix), "{finding:?}");
    run(
        pool,
        format!("grant truncate on outbox.log to {prefix}_producer"),
    )
    .await;
    let finding = ask(pool, "roles", limits).await;
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(
        finding
            .explanation
            .contains("has truncate on outbox.log beyond its work"),
        "{finding:?}"
    );
    assert_eq!(
        finding.fix,
        [format!("select outbox.make_roles('{prefix}')")]
    );
    run(
        pool,
        format!("revoke usage on sequence outbox.log_seq from {prefix}_producer"),
    )
    .await;
    let finding = ask(pool, "roles", limits).await;
    assert_eq!(finding.verdict, Verdict::Problem);
    assert!(
        finding
            .explanation
            .contains("lacks usage on outbox.log_seq"),
        "{finding:?}"
    );
    run(
        pool,
        format!("drop owned by {prefix}_producer; drop role {prefix}_producer"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_made_before_consumers_had_numbers_is_told_to_be_made_again() {
    let world = World::embedded("doctor_consumer").await;
    let pool = &world.pool;
    let limits = &Limits::default();
    let prefix = format!("doctor_{}", Uuid::now_v7().simple());
    outbox::make_roles(pool, &prefix).await.unwrap();
    is_ok(pool, "roles", limits).await;
    let user = format!("{prefix}_user");
    let login = format!("create role {user} login in role {prefix}_consumer");
    run(pool, login).await;
    let theirs = sqlx::postgres::PgPoolOptions::new()
        .max_connections(2)
        .connect_with(world.database.options().unwrap().username(&user))
        .await
        .unwrap();
    let may = ask(&theirs, "privileges", limits).await.explanation;
    assert!(may.contains("may: consume"), "{may}");

    for privilege in ["insert", "select"] {
        let revoked = format!("revoke {privilege} on outbox.consumer from {prefix}_consumer");
        run(pool, revoked).await;
        let finding = ask(pool, "roles", limits).await;
        assert_eq!(finding.verdict, Verdict::Problem, "{finding:?}");
        let lacks = format!("{privilege} on outbox.consumer");
        assert!(finding.explanation.contains(&lacks), "{finding:?}");
        assert_eq!(
            finding.fix,
            [format!("select outbox.make_roles('{prefix}')")]
        );
    }
    let may = ask(&theirs, "privileges", limits).await.explanation;
    assert!(!may.contains("may: consume"), "{may}");
    theirs.close().await;
    outbox::make_roles(pool, &prefix).await.unwrap();
    is_ok(pool, "roles", limits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_look_at_is_unknown_and_the_other_checks_go_on() {
    let world = World::embedded("doctor_blind").await;
    let role = format!("blind_{}", Uuid::now_v7().simple());
    run(
        &world.pool,
        format!(
            "create role {role} login; grant usage on schema outbox to {role};
             grant select on outbox.relay, outbox.topic to {role}"
        ),
    )
    .await;
    let options = world.database.options().unwrap().username(&role);
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(2)
        .connect_with(options)
        .await
        .unwrap();
    let report = look_with(&pool, &Limits::default()).await;
    for check in [
        "sequence",
        "parked",
        "open_transactions",
        "idle_in_transaction",
    ] {
        let finding = of(&report, check);
        assert_eq!(finding.verdict, Verdict::Unknown, "{finding:?}");
    }
    assert_eq!(of(&report, "cursor_origin").verdict, Verdict::Ok);
    assert!(
        of(&report, "privileges")
            .explanation
            .contains("may not: enqueue, relay")
    );
    let fix = of(&report, "open_transactions").fix[0].clone();
    run(&world.pool, fix).await;
    let report = look_with(&pool, &Limits::default()).await;
    assert_eq!(of(&report, "open_transactions").verdict, Verdict::Ok);
    pool.close().await;
    run(
        &world.pool,
        format!("drop owned by {role}; drop role {role}"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_missing_take_less_or_are_written_by_another_partitioner_are_noticed() {
    let kafka = Kafka::new(testbed::kafka().await.bootstrap()).unwrap();
    let world = World::with("doctor_broker", Arc::new(kafka.clone())).await;
    let (pool, topic) = (&world.pool, world.topic.as_str());
    let limits = &Limits::default();
    let look = async || examine(pool, Some(&kafka), limits).await.unwrap();
    let messages: Vec<_> = (0..50)
        .map(|n| world.message(&format!("k{n}"), n))
        .collect();
    world.send(&messages).await;
    let relay = world.relay(Config::default());
    world.oracle().wait_for(50).await;

    let report = look().await;
    for check in [
        "broker",
        "topics",
        "topic_limits",
        "topic_retention",
        "partitioner",
    ] {
        let finding = of(&report, check);
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    }
    assert!(
        of(&report, "topics")
            .explanation
            .contains(&format!("{topic} (4)"))
    );
    assert!(
        of(&report, "partitioner")
            .explanation
            .contains("in 50 keys"),
        "all were looked at"
    );
    assert!(
        of(&report, "topic_retention")
            .explanation
            .contains("7.0 days")
    );

    let missing = format!("{topic}.missing");
    run(
        pool,
        format!(
            "insert into outbox.topic (name, max_bytes) values ('{topic}', 2000000), ('{missing}', null)"
        ),
    )
    .await;
    let report = look().await;
    let finding = of(&report, "topics");
    assert_eq!(finding.verdict, Verdict::Problem);
    assert!(finding.explanation.contains(&missing) && finding.fix[0].contains("--create --topic"));
    let finding = of(&report, "topic_limits");
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(
        finding.explanation.contains("up to 2000000 bytes"),
        "{finding:?}"
    );
    let refresh = "recompense outbox topics --refresh --kafka-brokers …";
    assert_eq!(finding.fix, [refresh]);
    assert_eq!(operator::refresh_topics(pool, &kafka).await.unwrap(), 1);
    kafka
        .ensure_topics(&[Topic::new(missing.clone(), 2)])
        .await
        .unwrap();
    let report = look().await;
    for check in ["topics", "topic_limits"] {
        assert_eq!(of(&report, check).verdict, Verdict::Ok);
    }
    // As if it had been raised since.
    run(
        pool,
        format!("update outbox.topic set max_bytes = 1000 where name = '{topic}'"),
    )
    .await;
    let report = look().await;
    let finding = of(&report, "topic_limits");
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(
        finding.explanation.contains("more than 1000 bytes"),
        "{finding:?}"
    );
    assert_eq!(finding.fix, [refresh]);
    let topics = operator::topics(pool, Some(&kafka)).await.unwrap();
    let told: Vec<_> = topics
        .iter()
        .map(|t| (t.name.as_str(), t.on_poison.as_str(), t.max_bytes, t.broker))
        .collect();
    let there = |partitions| AtBroker {
        partitions: Some(partitions),
        max_bytes: Some(1_048_588),
    };
    let expected = [
        (topic, "block-key", Some(1000), Some(there(4))),
        (&missing, "block-key", None, Some(there(2))),
    ];
    assert_eq!(told, expected);
    // Both now: nobody had asked for the second.
    assert_eq!(operator::refresh_topics(pool, &kafka).await.unwrap(), 2);
    assert_eq!(operator::refresh_topics(pool, &kafka).await.unwrap(), 0);
    // One that nobody declared has a default, which may be too much: a statement says what it takes.
    let narrow = format!("{topic}.narrow");
    world
        .create_topic(&narrow, "max.message.bytes", "5000")
        .await;
    let mut message = world.message("k", 99);
    message.topic = narrow.clone();
    world.send(&[message]).await;
    let report = look().await;
    let finding = of(&report, "topic_limits");
    assert!(finding.explanation.contains("takes 5000"), "{finding:?}");
    mend(pool, finding).await;
    let report = look().await;
    assert_eq!(of(&report, "topic_limits").verdict, Verdict::Ok);

    // Somebody else writes our keys where his partitioner says.
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .create()
        .unwrap();
    for partition in 0..4 {
        let record = FutureRecord::to(topic)
            .key("k0")
            .payload("{}")
            .partition(partition);
        producer
            .send(record, Duration::from_secs(10))
            .await
            .unwrap();
    }
    let report = look().await;
    let found = report
        .findings
        .iter()
        .find(|f| f.check == "partitioner" && f.verdict != Verdict::Ok);
    let finding = found.unwrap();
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(
        finding.explanation.contains("3 of the newest 54 records"),
        "{finding:?}"
    );
    assert!(
        finding.explanation.contains("1 of 50 keys are in several"),
        "{finding:?}"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_a_finding_and_one_that_does_not_tell_is_unknown() {
    let world = World::embedded("doctor_away").await;
    world.send(&[world.message("k", 1)]).await;
    let away = Kafka::new(format!("127.0.0.1:{}", testbed::free_port())).unwrap();
    let report = examine(&world.pool, Some(&away), &Limits::default())
        .await
        .unwrap();
    let finding = of(&report, "broker");
    assert_eq!(finding.verdict, Verdict::Problem, "{finding:?}");
    let report = examine(&world.pool, Some(&*world.broker), &Limits::default())
        .await
        .unwrap();
    assert_eq!(of(&report, "broker").verdict, Verdict::Ok);
    assert_eq!(of(&report, "topics").verdict, Verdict::Ok);
    assert_eq!(of(&report, "topic_limits").verdict, Verdict::Unknown);
    let report = look_with(&world.pool, &Limits::default()).await;
    assert_eq!(of(&report, "broker").verdict, Verdict::Unknown, "not asked");
}
