//! A poll costs what is new, whatever is retained and whatever the statistics say.
//!
//! Judged by the index entries the server read for the relay, not by time.

use std::time::{Duration, Instant};

use outbox::outgoing::Config;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::{
    scripted::scripted,
    world::{SOON, World},
};

/// Published rows that the ring still holds.
const RETAINED: i64 = 100_000;
/// Entries that reading about a hundred messages may cost, in some hundred polls.
const CHEAP: i64 = 20_000;

impl World {
    /// Fills the log in transactions of `each` rows and lets the cursor say that all is published.
    async fn retain(&self, each: i64) {
        sqlx::raw_sql(
            "create procedure fill(rows bigint, each bigint) language plpgsql as $$
             begin
                 for batch in 1 .. rows / each loop
                     insert into outbox.log (message_id, topic, key, kind, payload)
                     select gen_random_uuid(), 'old', 'k', 'test.counted.v1', '{}'
                     from generate_series(1, each);
                     commit;
                 end loop;
             end $$",
        )
        .execute(&self.pool)
        .await
        .unwrap();
        sqlx::query("call fill($1, $2)")
            .bind(RETAINED)
            .bind(each)
            .execute(&self.pool)
            .await
            .unwrap();
        sqlx::query(
            "update outbox.relay set settled = pg_current_snapshot(), settled_floor = $1,
                    target = pg_current_snapshot(), target_floor = $1",
        )
        .bind(RETAINED)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// Index entries and rows read so far, by everyone. A session hands its counts in when it ends.
    async fn entries(&self) -> i64 {
        self.count(
            "select sum(idx_tup_read)::bigint from pg_stat_user_indexes
             where schemaname = 'outbox' and relname like 'log\\_%'",
        )
        .await
    }

    /// A hundred messages while a transaction is open and ends in the middle; what it cost.
    async fn cost_of_a_hundred(&self) -> i64 {
        let before = self.entries().await;
        let relay = self.relay(Config::default());
        let mut oracle = self.oracle();
        let mut late = self.pool.begin().await.unwrap();
        outbox::enqueue(&mut late, &self.message("late", 1000))
            .await
            .unwrap();
        for n in 0..50 {
            self.send(&[self.message("k", n)]).await;
        }
        late.commit().await.unwrap();
        for n in 50..100 {
            self.send(&[self.message("k", n)]).await;
        }
        oracle.wait_for(101).await;
        relay.stop().await;
        self.entries().await - before
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_statistics_a_poll_does_not_walk_over_what_is_retained() {
    let world = World::embedded("absent").await;
    sqlx::raw_sql("alter table outbox.log_0 set (autovacuum_enabled = off)")
        .execute(&world.pool)
        .await
        .unwrap();
    world.retain(100).await;
    let cost = world.cost_of_a_hundred().await;
    assert!((100..CHEAP).contains(&cost), "{cost} entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_statistics_of_a_few_large_transactions_neither() {
    let world = World::embedded("bulk").await;
    world.retain(RETAINED / 2).await;
    sqlx::raw_sql("analyze outbox.log")
        .execute(&world.pool)
        .await
        .unwrap();
    let cost = world.cost_of_a_hundred().await;
    assert!((100..CHEAP).contains(&cost), "{cost} entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_with_many_rows_is_walked_over_a_few_times_and_not_in_each_poll() {
    let world = World::embedded("open").await;
    let mut open = world.pool.begin().await.unwrap();
    sqlx::query(
        "insert into outbox.log (message_id, topic, key, kind, payload)
         select gen_random_uuid(), 'old', 'k', 'test.counted.v1', '{}'
         from generate_series(1, $1)",
    )
    .bind(RETAINED)
    .execute(&mut *open)
    .await
    .unwrap();
    let cost = world.cost_of_a_hundred().await;
    assert!((100..RETAINED * 5).contains(&cost), "{cost} entries");
    open.rollback().await.unwrap();
}

// ---- three hundred thousand ----

const MANY: i64 = 300_000;

impl World {
    /// Appends rows of a topic in one transaction.
    async fn append(&self, topic: &str, rows: i64) {
        sqlx::query(
            "insert into outbox.log (message_id, topic, key, kind, payload)
             select gen_random_uuid(), $1, '', 'test.counted.v1', '{}' from generate_series(1, $2)",
        )
        .bind(topic)
        .bind(rows)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    async fn parked_entries(&self) -> i64 {
        self.count(
            "select sum(idx_tup_read)::bigint from pg_stat_user_indexes
             where schemaname = 'outbox' and relname in ('parked', 'blocked_key')",
        )
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_refuses_costs_what_it_has_once_and_then_nothing() {
    let (world, script) = scripted("many").await;
    let refusing = format!("{}.refusing", world.topic);
    script.refuse_topics(Some(&refusing));
    world.append(&refusing, MANY).await;
    world.send(&[world.message("k", 1)]).await;
    let relay = world.relay(Config::default());
    // It comes after all the others.
    let (mut oracle, began) = (world.oracle(), Instant::now());
    while oracle.seen.is_empty() {
        assert!(began.elapsed() < SOON * 10, "nothing arrives");
        oracle.poll().await;
    }
    eprintln!("others wait for {:?}", began.elapsed());
    let epoch = world.count("select epoch from outbox.relay").await;
    relay.stop().await;
    assert_eq!(epoch, 1, "the lease was kept meanwhile");
    let cost = world.parked_entries().await;
    assert!(cost < MANY, "{cost} entries to put {MANY} messages aside");

    // A relay that finds them, and looks for what heals each second.
    let mut relay = world.relay(Config::default());
    relay.leading().await;
    let refused = || script.refusals.load(std::sync::atomic::Ordering::SeqCst);
    let before = refused();
    testbed::until(SOON, "it was tried three times", async || {
        (refused() >= before + 3).then_some(())
    })
    .await;
    relay.stop().await;
    let more = world.parked_entries().await - cost;
    assert!(more < 2_000, "{more} entries to look for what heals");
    // Not before: to count them is to read them.
    let held = "select count(*) from outbox.parked where class = 'held'";
    assert_eq!(world.count(held).await, MANY);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_page_of_a_range_does_not_read_what_came_after_it() {
    let (world, script) = scripted("lastpage").await;
    let (range, later) = (world.topic.clone(), format!("{}.later", world.topic));
    // Nothing of what comes later is acknowledged: it is read as far as there is room.
    script.silence(Some(&later));
    world.append(&range, 5_000).await;
    // A relay was in the middle of this range when much more was committed.
    let sql = "update outbox.relay set target = pg_current_snapshot(),
                      target_ceiling = (select max(seq) from outbox.log)";
    sqlx::raw_sql(sql).execute(&world.pool).await.unwrap();
    world.append(&later, MANY).await;
    let before = world.entries().await;
    let config = Config {
        max_in_flight: 2_000,
        ..Config::default()
    };
    let relay = world.relay(config);
    world.oracle().wait_for(5_000).await;
    testbed::until(SOON, "the range is settled", async || {
        let settled = "select count(*) from outbox.relay where last_seq = 0 or settled_floor > 0";
        (world.count(settled).await == 1).then_some(())
    })
    .await;
    relay.crash().await;
    let read = testbed::until(SOON, "the session has handed its counts in", async || {
        let sessions = "select count(*) from pg_stat_activity
                        where datname = current_database() and application_name = 'outbox relay'";
        let ended = world.count(sessions).await == 0;
        Some(world.entries().await - before).filter(|read| ended && *read > 5_000)
    })
    .await;
    assert!(read < 60_000, "{read} entries for 5,000 messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_payloads_leaves_those_that_have_no_room_where_they_are() {
    let (world, script) = scripted("bytes").await;
    script.silence(Some(&world.topic));
    for partition in 0..4 {
        let sql = format!("alter table outbox.log_{partition} alter payload set storage external");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&world.pool)
            .await
            .unwrap();
    }
    let mut session = world.pool.acquire().await.unwrap();
    sqlx::query(
        "insert into outbox.log (message_id, topic, key, kind, payload)
         select gen_random_uuid(), $1, '', 'test.counted.v1', convert_to(repeat('x', 1 << 20), 'UTF8')
         from generate_series(1, 90)",
    )
    .bind(&world.topic)
    .execute(&mut *session)
    .await
    .unwrap();
    // What this session has read is counted by the server before anything else is.
    sqlx::raw_sql("select pg_stat_force_next_flush()")
        .execute(&mut *session)
        .await
        .unwrap();
    drop(session);
    let blocks = "select sum(toast_blks_read + toast_blks_hit)::bigint from pg_statio_user_tables
                  where schemaname = 'outbox' and relname like 'log\\_%'";
    let before = world.count(blocks).await;
    let config = Config {
        max_in_flight_bytes: 4 << 20,
        ..Config::default()
    };
    let mut relay = world.relay(config);
    relay.leading().await;
    let written =
        "select count(*) from outbox.relay where written_at > clock_timestamp() - interval '10 s'
                   and epoch = 1 and target_ceiling is not null";
    testbed::until(SOON, "it has read", async || {
        (world.count(written).await == 1).then_some(())
    })
    .await;
    relay.stop().await;
    let read = world.count(blocks).await - before;
    // A mebibyte has some 530 pieces of 2 kB, four in a block; an index leads to them.
    assert!(
        (1..40_000).contains(&read),
        "{read} blocks, of some 50,000 for all"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relays_row_is_written_where_it_is_however_many_versions_an_old_snapshot_keeps() {
    let world = World::embedded("versions").await;
    let mut old = sqlx::PgConnection::connect_with(&world.database.options().unwrap())
        .await
        .unwrap();
    sqlx::raw_sql("begin isolation level repeatable read; select 1 from outbox.relay")
        .execute(&mut old)
        .await
        .unwrap();
    sqlx::raw_sql(
        "create procedure age() language plpgsql as $$
         declare place tid := (select ctid from outbox.relay);
         begin
             set synchronous_commit = off;
             for n in 1 .. 20000 loop
                 update outbox.relay set written_at = clock_timestamp() where ctid = place
                 returning ctid into place;
                 commit;
             end loop;
         end $$",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    // What it has read is counted by the server before anything else is.
    let mut session = world.pool.acquire().await.unwrap();
    for statement in ["call age()", "select pg_stat_force_next_flush()"] {
        let told = sqlx::raw_sql(statement).execute(&mut *session).await;
        told.unwrap();
    }
    drop(session);
    let blocks = "select (heap_blks_read + heap_blks_hit)::bigint from pg_statio_user_tables
                  where schemaname = 'outbox' and relname = 'relay'";
    let config = Config {
        lease: Duration::from_millis(600),
        ..Config::default()
    };
    let relay = world.relay(config);
    let mut oracle = world.oracle();
    let before = world.count(blocks).await;
    let mut writes = 0;
    for n in 0..60 {
        world.send(&[world.message("k", n)]).await;
        oracle.wait_for(n as usize + 1).await;
        writes += 1;
    }
    relay.stop().await;
    let read = world.count(blocks).await - before;
    let table = world
        .count("select pg_relation_size('outbox.relay') / current_setting('block_size')::bigint")
        .await;
    assert!(table > 200, "there are {table} blocks of old versions");
    // To begin with, and to measure, a few statements look for the row.
    assert!(
        read < table * 30,
        "{read} blocks of {table} for {writes} writes"
    );
    sqlx::raw_sql("rollback").execute(&mut old).await.unwrap();
}
