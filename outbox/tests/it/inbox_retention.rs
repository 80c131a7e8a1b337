//! The inbox by days: a duplicate meets its first copy, days come and go whole, nobody waits for it.

use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveTime, Utc};
use outbox::{
    Error,
    broker::{Broker, Kafka, Retention},
    incoming::{Config, OnPoison},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::{NoContext, Timestamp, Uuid};

use crate::{
    reading::{Effects, Reading, config},
    world::World,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A message id made at that time.
fn id_of(time: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(time.timestamp()).unwrap();
    Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        seconds,
        time.timestamp_subsec_nanos(),
    ))
}

/// A time of today or of another day.
fn at(days_ago: u64, hour: u32, minute: u32) -> DateTime<Utc> {
    let day = Utc::now().date_naive() - Days::new(days_ago);
    day.and_time(NaiveTime::from_hms_opt(hour, minute, 30).unwrap())
        .and_utc()
}

fn partition(days_ago: u64) -> String {
    format!("outbox.inbox_{}", at(days_ago, 0, 0).format("%Y%m%d"))
}

/// Until there is nothing left to do.
async fn keep(pool: &PgPool, retention: &'static str) {
    loop {
        let sql = "select created + dropped + deleted from outbox.keep_inbox($1::text::interval)";
        let done: i32 = sqlx::query_scalar(sql)
            .bind(retention)
            .fetch_one(pool)
            .await
            .unwrap();
        if done == 0 {
            return;
        }
    }
}

async fn insert(pool: &PgPool, id: Uuid, days_ago: i32) {
    sqlx::query("insert into outbox.inbox values (outbox.consumer_id('c'), $1, now() - $2 * interval '1 day')")
        .bind(id)
        .bind(days_ago)
        .execute(pool)
        .await
        .unwrap();
}

async fn lies_in(pool: &PgPool, id: Uuid) -> Vec<String> {
    sqlx::query_scalar("select tableoid::regclass::text from outbox.inbox where message_id = $1")
        .bind(id)
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn exists(pool: &PgPool, table: &str) -> bool {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_across_midnight_meets_its_first_copy() {
    let world = World::embedded("midnight").await;
    // The first copy comes before its day has a partition.
    let early = world.message("k", 1).with_id(id_of(at(1, 23, 59)));
    insert(&world.pool, early.id, 0).await;
    sqlx::query("update outbox.inbox set consumer = outbox.consumer_id($1)")
        .bind(world.reader())
        .execute(&world.pool)
        .await
        .unwrap();
    assert_eq!(lies_in(&world.pool, early.id).await, ["outbox.inbox_other"]);

    let reading = Reading::start(&world, &Effects::default());
    let before = world.message("k", 2).with_id(id_of(at(1, 23, 59)));
    let after = world.message("k", 3).with_id(id_of(at(0, 0, 1)));
    for message in [&before, &after, &early, &after, &before] {
        world.produce(message, 1).await;
    }
    world.produce(&world.message("k", 4), 1).await;
    world.wait_for_effects(&[2, 3, 4]).await;
    assert_eq!(lies_in(&world.pool, early.id).await, [partition(1)]);
    assert_eq!(lies_in(&world.pool, before.id).await, [partition(1)]);
    assert_eq!(lies_in(&world.pool, after.id).await, [partition(0)]);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_added_ahead_and_dropped_whole_once_nothing_in_them_is_young() {
    let world = World::embedded("days").await;
    let pool = &world.pool;
    keep(pool, "30 days").await;
    for ahead in 0..4 {
        let day = (Utc::now() + Days::new(ahead)).format("%Y%m%d");
        assert!(exists(pool, &format!("outbox.inbox_{day}")).await, "{day}");
    }
    let old = id_of(at(12, 12, 0));
    insert(pool, old, 12).await;
    // Made long ago and handled just now: its duplicates are still to come.
    let late = id_of(at(11, 12, 0));
    insert(pool, late, 1).await;
    assert_eq!(lies_in(pool, old).await, [partition(12)]);

    keep(pool, "10 days").await;
    assert!(!exists(pool, &partition(12)).await);
    assert_eq!(lies_in(pool, late).await, [partition(11)]);
    assert!(exists(pool, &partition(10)).await, "still remembered");
    assert!(exists(pool, &partition(0)).await);
    // Its time comes too.
    keep(pool, "20 hours").await;
    assert!(!exists(pool, &partition(11)).await);

    // For ever.
    let old = id_of(at(1, 12, 0));
    insert(pool, old, 400).await;
    let forever: Option<&str> = None;
    sqlx::query("select outbox.keep_inbox($1::text::interval)")
        .bind(forever)
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(lies_in(pool, old).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_without_a_day_are_remembered_elsewhere_and_deleted_by_age() {
    let world = World::embedded("foreign").await;
    let pool = &world.pool;
    keep(pool, "15 days").await;
    let late = id_of(at(40, 12, 0));
    let random = Uuid::parse_str("f47ac10b-58cc-4372-a567-0e02b2c3d479").unwrap();
    let named = Uuid::parse_str("00000000-58cc-5372-a567-0e02b2c3d479").unwrap();
    let places = [
        (late, "outbox.inbox_other"),
        (random, "outbox.inbox_high"),
        (named, "outbox.inbox_low"),
    ];
    for (id, place) in places {
        insert(pool, id, 14).await;
        assert_eq!(lies_in(pool, id).await, [place]);
    }
    // A second copy of each is known.
    let again = sqlx::query(
        "insert into outbox.inbox select outbox.consumer_id('c'), unnest($1::uuid[]) on conflict do nothing",
    )
    .bind(places.map(|(id, _)| id).to_vec())
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(again.rows_affected(), 0);
    keep(pool, "15 days").await;
    assert_eq!(world.count("select count(*) from outbox.inbox").await, 3);
    // More than one bite. All begin with f: of so many at random, one in seven runs has one that falls on a day.
    sqlx::query(
        "insert into outbox.inbox
         select outbox.consumer_id('c'), overlay(gen_random_uuid()::text placing 'f' from 1 for 1)::uuid, now() - interval '16 days'
         from generate_series(1, 25000)",
    )
    .execute(pool)
    .await
    .unwrap();
    let first: i32 = sqlx::query_scalar("select deleted from outbox.keep_inbox('15 days')")
        .fetch_one(pool)
        .await
        .unwrap();
    assert!((1..25_000).contains(&first), "in bounded pieces: {first}");
    keep(pool, "15 days").await;
    assert_eq!(world.count("select count(*) from outbox.inbox").await, 3);
    keep(pool, "13 days").await;
    assert_eq!(world.count("select count(*) from outbox.inbox").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_holds_up_the_days_and_nobody_else() {
    let world = World::embedded("locks").await;
    let pool = &world.pool;
    sqlx::query("select outbox.consumer_id('c')")
        .execute(pool)
        .await
        .unwrap();
    let mut long = pool.begin().await.unwrap();
    sqlx::query("insert into outbox.inbox values (outbox.consumer_id('c'), $1)")
        .bind(id_of(at(0, 12, 0)))
        .execute(&mut *long)
        .await
        .unwrap();
    let keeping = {
        let pool = pool.clone();
        tokio::spawn(async move {
            sqlx::query_scalar::<_, i32>("select created from outbox.keep_inbox('15 days')")
                .fetch_one(&pool)
                .await
        })
    };
    // Behind the request for the lock, if it comes in time to be.
    testbed::until(
        Duration::from_secs(5),
        "keep_inbox waits or has waited",
        async || {
            let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                       and wait_event_type = 'Lock' and query like '%keep_inbox%'";
            (keeping.is_finished() || world.count(waiting).await > 0).then_some(())
        },
    )
    .await;
    let started = Instant::now();
    insert(pool, id_of(at(0, 12, 1)), 0).await;
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(2), "waited {waited:?}");
    assert_eq!(keeping.await.unwrap().unwrap(), 0, "the fault fired");
    long.commit().await.unwrap();
    keep(pool, "15 days").await;
    assert_eq!(
        lies_in(pool, id_of(at(0, 12, 0))).await,
        Vec::<String>::new()
    );
    let in_day =
        "select count(*) from outbox.inbox where tableoid <> 'outbox.inbox_other'::regclass";
    assert_eq!(world.count(in_day).await, 2, "moved into their day");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_owns_nothing_can_keep_the_inbox_when_granted_and_not_otherwise() {
    let world = World::embedded("role").await;
    let role = format!("keeper_{}", Uuid::now_v7().simple());
    let setup = format!("create role {role} login; grant usage on schema outbox to {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(setup))
        .execute(&world.pool)
        .await
        .unwrap();
    let options = world.database.options().unwrap().username(&role);
    let mut keeper = PgConnection::connect_with(&options).await.unwrap();
    let call = "select created from outbox.keep_inbox('15 days')";
    let refused = sqlx::query_scalar::<_, i32>(call)
        .fetch_one(&mut keeper)
        .await;
    let code = refused.unwrap_err().into_database_error().unwrap();
    assert_eq!(code.code().as_deref(), Some("42501"));
    let grant = format!("grant execute on function outbox.keep_inbox(interval, integer) to {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(grant))
        .execute(&world.pool)
        .await
        .unwrap();
    let created: i32 = sqlx::query_scalar(call)
        .fetch_one(&mut keeper)
        .await
        .unwrap();
    assert!(created > 0);
    keeper.close().await.unwrap();
    let cleanup = format!("drop owned by {role}; drop role {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(cleanup))
        .execute(&world.pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_inbox_forgets_too_early_does_not_start() {
    let world = World::kafka("forgets").await;
    let start = async |retention: Option<Duration>| {
        let config = Config {
            retention,
            ..config(OnPoison::BlockKey)
        };
        Reading::with(&world, Effects::default(), config)
    };
    // The broker's default is seven days, the window of replays seven more.
    let error = start(Some(14 * DAY)).await.ended().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Permanent(_)), "{error:?}");
    for part in [world.topic.as_str(), "14.0 days", "7.0 days", "retention"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let enough = start(Some(15 * DAY)).await;
    world.produce(&world.message("k", 1), 1).await;
    world.wait_for_effects(&[1]).await;
    enough.stop().await;

    let bootstrap = testbed::kafka().await.bootstrap();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap();
    let set = async |name: &str, value: &str| {
        let change = AlterConfig::new(ResourceSpecifier::Topic(&world.topic)).set(name, value);
        let changed = admin.alter_configs([&change], &AdminOptions::new()).await;
        changed.unwrap()[0].as_ref().unwrap();
    };
    let kafka = Kafka::new(bootstrap).unwrap();
    let said = async |expected: Retention| {
        let topics = [world.topic.clone(), "no.such.topic".to_owned()];
        testbed::until(
            Duration::from_secs(10),
            &format!("{expected:?}"),
            async || {
                (kafka.retention(&topics).await.unwrap() == [expected, Retention::Unknown])
                    .then_some(())
            },
        )
        .await;
    };
    said(Retention::For(7 * DAY)).await;
    for (name, value) in [("retention.ms", "-1"), ("cleanup.policy", "compact")] {
        set(name, value).await;
        said(Retention::Forever).await;
        let error = start(Some(900 * DAY)).await.ended().await.unwrap_err();
        assert!(error.to_string().contains("for ever"), "{error}");
    }
    let forever = start(None).await;
    world.produce(&world.message("k", 2), 1).await;
    world.wait_for_effects(&[1, 2]).await;
    forever.stop().await;
}

async fn note(pool: &PgPool, consumer: &str, retention: Option<&str>) {
    sqlx::query("select outbox.note_retention($1, $2::text::interval)")
        .bind(consumer)
        .bind(retention)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_remembers_as_long_as_the_consumer_that_wants_it_longest() {
    let world = World::embedded("longest").await;
    let pool = &world.pool;
    keep(pool, "40 days").await;
    let day = id_of(at(12, 12, 0));
    let random = Uuid::parse_str("f47ac10b-58cc-4372-a567-0e02b2c3d479").unwrap();
    for id in [day, random] {
        insert(pool, id, 12).await;
    }
    note(pool, "short", Some("1 day")).await;
    let remembered = "select count(*) from outbox.inbox";
    for long in [Some("15 days"), None] {
        note(pool, "long", long).await;
        keep(pool, "1 day").await;
        assert_eq!(world.count(remembered).await, 2, "{long:?}");
    }
    // One that wants less counts from then on; one that is gone for longer than it wanted does not.
    note(pool, "long", Some("15 days")).await;
    let gone = "update outbox.consumer set retention_noted_at = now() - interval '16 days' where name = 'long'";
    sqlx::query(gone).execute(pool).await.unwrap();
    keep(pool, "1 day").await;
    assert_eq!(world.count(remembered).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_says_how_long_it_must_be_remembered() {
    let world = World::embedded("says").await;
    let forever = Config {
        retention: None,
        ..config(OnPoison::BlockKey)
    };
    for (config, noted) in [(config(OnPoison::BlockKey), 15), (forever, 0)] {
        let reading = Reading::with(&world, Effects::default(), config);
        testbed::until(crate::world::SOON, "it has said so", async || {
            let sql = "select coalesce(extract(day from justify_hours(retention))::bigint, 0) from outbox.consumer
                       where retention_noted_at is not null";
            let said: Option<i64> = sqlx::query_scalar(sql)
                .fetch_optional(&world.pool)
                .await
                .unwrap();
            (said == Some(noted)).then_some(())
        })
        .await;
        reading.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_leaps_makes_the_inbox_forget_nothing_for_a_day() {
    let world = World::embedded("leap").await;
    let pool = &world.pool;
    keep(pool, "40 days").await;
    insert(pool, id_of(at(12, 12, 0)), 12).await;
    let set = async |sql: &'static str| sqlx::query(sql).execute(pool).await.unwrap();
    let remembered = "select count(*) from outbox.inbox";
    // As if it were three days later, or earlier, than a minute ago.
    for leap in [
        "kept_at = now() - interval '3 days'",
        "kept_at = now() + interval '3 days'",
    ] {
        let sql = format!("update outbox.inbox_keeping set {leap}, forgets_from = now()");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(pool)
            .await
            .unwrap();
        keep(pool, "1 day").await;
        assert_eq!(world.count(remembered).await, 1, "{leap}");
    }
    set("update outbox.inbox_keeping set forgets_from = now()").await;
    keep(pool, "1 day").await;
    assert_eq!(world.count(remembered).await, 0);
}
