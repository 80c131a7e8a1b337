//! A cursor of another cluster is made anew: what may not have been acknowledged is sent, and nobody is overtaken.
//!
//! Where it was really dumped and restored: `trials::restore`.

use std::{sync::atomic::Ordering, time::Duration};

use outbox::{
    Error,
    operator::{
        parked,
        rebase::{self, Origin, PATIENCE, Rebased, accept_same_xids, check_same_xids},
    },
    outgoing::Config,
};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    operating::{run, somebody_waits},
    scripted::scripted,
    world::{SOON, World, header},
};

/// Says that the cursor was written elsewhere.
const FOREIGN: &str = "update outbox.relay set system_identifier = 1";

async fn rebased(pool: &PgPool) -> Rebased {
    rebase::rebase(pool, SOON, "ann").await.unwrap()
}

/// Why it was refused.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::NotRebased(why) => why,
        error => panic!("{error:?}"),
    }
}

/// Everything that a rebase may change, but for the sequence.
async fn rows(pool: &PgPool) -> String {
    let sql = "select concat_ws(' | ', (select relay from outbox.relay),
                  (select string_agg(log::text, ';' order by seq, xid) from outbox.log),
                  (select string_agg(parked::text, ';' order by seq) from outbox.parked))";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Everything.
async fn state(pool: &PgPool) -> (String, i64, bool) {
    let sql = "select last_value, is_called from outbox.log_seq";
    let (last, called) = sqlx::query_as(sql).fetch_one(pool).await.unwrap();
    (rows(pool).await, last, called)
}

/// Kinds of the messages in the log, by their numbers. A message of a test by hand is named by its kind.
async fn kinds(pool: &PgPool) -> Vec<String> {
    let sql = "select kind from outbox.log order by seq";
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn what_the_stored_snapshots_do_not_prove_acknowledged_is_appended_anew_and_nothing_else() {
    let world = World::embedded("rebase_rule").await;
    let pool = &world.pool;
    run(
        pool,
        "update outbox.relay
         set settled = '100:110:100,105', settled_floor = 5, target = '105:130:105,120',
             target_floor = 80, last_seq = 50, written_at = '2026-01-01 12:00Z', system_identifier = 1;
         select setval('outbox.log_seq', 200)",
    )
    .await;
    const BEFORE: &str = "2026-01-01 11:59Z";
    let rows = [
        // (transaction, number, enqueued, kind, whether it is sent again)
        (99, 45, BEFORE, "settled", false),
        (99, 60, BEFORE, "settled-above-the-last-number", false),
        (105, 10, BEFORE, "open-in-both", true),
        (100, 20, BEFORE, "late-and-acknowledged", false),
        (100, 55, BEFORE, "late-and-above-the-last-number", true),
        (112, 50, BEFORE, "in-the-tick-and-acknowledged", false),
        (112, 51, BEFORE, "in-the-tick-above-the-last-number", true),
        (120, 30, BEFORE, "open-in-target", true),
        (130, 46, BEFORE, "began-after-target", true),
        (4_000_000_000_000, 70, BEFORE, "far-ahead", true),
        (90, 80, BEFORE, "at-the-floor", false),
        (90, 81, BEFORE, "enqueued-here-with-an-old-id", true),
        (
            90,
            15,
            "2026-01-01 12:00:00.000001Z",
            "enqueued-here-without-the-sequence",
            true,
        ),
        (
            90,
            16,
            "2026-01-01 12:00Z",
            "enqueued-as-the-cursor-was-written",
            false,
        ),
        (112, 52, BEFORE, "parked", false),
        (112, 53, BEFORE, "another-is-parked-under-its-number", true),
    ];
    // The rows are those of a dump.
    run(
        pool,
        "alter table outbox.log drop constraint log_xid_is_its_own",
    )
    .await;
    for (xid, seq, created_at, kind, _) in rows {
        sqlx::query(
            "insert into outbox.log (xid, seq, message_id, topic, key, kind, payload, traceparent, headers, created_at)
             values ($1::text::xid8, $2, gen_random_uuid(), 't', 'k', $3, $3::bytea, '00-' || $3,
                     jsonb_build_object('h', $3), $4::text::timestamptz)",
        )
        .bind(i64::to_string(&xid))
        .bind(seq)
        .bind(kind)
        .bind(created_at)
        .execute(pool)
        .await
        .unwrap();
    }
    run(
        pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         select seq, case kind when 'parked' then message_id else gen_random_uuid() end, topic, key, kind,
                created_at, 'held', '' from outbox.log where seq in (52, 53)",
    )
    .await;
    let mut expected: Vec<_> = rows
        .iter()
        .filter(|row| row.4)
        .map(|row| (row.1, row.3))
        .collect();
    expected.sort_unstable();
    let (seqs, wanted): (Vec<i64>, Vec<&str>) = expected.into_iter().unzip();
    let content = async || -> Vec<String> {
        let sql =
            "select (message_id, topic, key, kind, payload, traceparent, headers, created_at)::text
                   from outbox.log where kind = any($1) order by seq";
        let query = sqlx::query_scalar(sql).bind(&wanted);
        query.fetch_all(pool).await.unwrap()
    };
    let before = (content().await, state(pool).await);

    let plan = rebase::plan(pool).await.unwrap();
    assert_eq!(before.1, state(pool).await, "a plan changes nothing");
    assert_eq!(plan.origin, Origin::AnotherCluster);
    assert_eq!(plan.messages as usize, wanted.len());
    assert_eq!(plan.dropped as usize, rows.len() - wanted.len());
    assert_eq!(plan.parked, 2);
    assert!(!plan.sequence_is_behind);
    let [topic] = &plan.topics[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (topic.first_seq, topic.last_seq),
        (seqs[0], seqs[seqs.len() - 1])
    );
    assert!(topic.first_at < plan.cursor_written_at && topic.last_at > plan.cursor_written_at);

    let done = rebased(pool).await;
    assert_eq!(kinds(pool).await, wanted, "in their order");
    assert_eq!(
        content().await,
        before.0,
        "the same messages in everything but their numbers"
    );
    assert_eq!(done.topics, plan.topics);
    assert_eq!((done.messages, done.dropped), (plan.messages, plan.dropped));
    let numbers = done.numbers.unwrap();
    assert_eq!(numbers, (201, 200 + done.messages));
    let unread = "select count(*) from outbox.log cross join outbox.relay
                  where not pg_visible_in_snapshot(xid, settled) and settled::text = target::text
                    and seq > settled_floor and seq > target_floor and last_seq = 0";
    assert_eq!(
        world.count(unread).await,
        done.messages,
        "the cursor is below them"
    );
    assert_eq!(world.count("select count(*) from outbox.parked").await, 2);

    let again = refusal(rebase::rebase(pool, SOON, "ann").await);
    assert!(again.contains("nothing to rebase"), "{again}");
    let again = refusal(rebase::plan(pool).await);
    assert!(again.contains("nothing to rebase"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_sends_what_was_not_acknowledged_then_what_comes_and_one_twice() {
    let world = World::embedded("rebase_relay").await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    // Numbers lower than what is acknowledged.
    let mut open = world.pool.begin().await.unwrap();
    let late = [world.message("late", 0), world.message("late", 1)];
    outbox::enqueue_all(&mut open, &late).await.unwrap();
    let first: Vec<_> = (0..50)
        .map(|n| world.message(&format!("k{}", n % 5), n))
        .collect();
    world.send(&first).await;
    oracle.wait_for(50).await;
    testbed::until(SOON, "the cursor's floor is all but the last", async || {
        let behind = "select 51 - target_floor from outbox.relay";
        (world.count(behind).await == 0).then_some(())
    })
    .await;
    relay.stop().await;
    open.commit().await.unwrap();
    let second: Vec<_> = (50..100)
        .map(|n| world.message(&format!("k{}", n % 5), n))
        .collect();
    world.send(&second).await;
    run(&world.pool, FOREIGN).await;

    let done = rebased(&world.pool).await;
    // The newest one that was acknowledged cannot be told from one enqueued here.
    assert_eq!((done.messages, done.dropped), (2 + 50 + 1, 49));
    let relay = world.relay(Config::default());
    world.send(&[world.message("k0", 100)]).await;
    oracle.wait_for(103).await;
    assert_eq!(oracle.of_key("late"), [0, 1]);
    for key in 0..5 {
        let wanted: Vec<_> = (0..=100).filter(|n| n % 5 == key).collect();
        assert_eq!(oracle.of_key(&format!("k{key}")), wanted);
    }
    for message in late.iter().chain(&first).chain(&second) {
        let arrived = oracle
            .seen
            .iter()
            .any(|r| header(r, "ce_id") == message.id.to_string());
        assert!(arrived, "under its own id");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_survives_and_what_follows_it_still_waits_behind_it() {
    let (world, script) = scripted("rebase_parked").await;
    let pool = &world.pool;
    script.sicken(1);
    let messages: Vec<_> = (0..4).map(|n| world.message("sick", n)).collect();
    world.send(&messages).await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(1).await;
    world
        .wait_for_unsent(&[("blocked", 2), ("poison", 1)])
        .await;
    relay.stop().await;
    let before: Vec<(i64, Uuid)> =
        sqlx::query_as("select seq, message_id from outbox.parked order by seq")
            .fetch_all(pool)
            .await
            .unwrap();
    world
        .send(&[world.message("sick", 4), world.message("well", 5)])
        .await;
    // The dump left the sequence out, and 3 more were enqueued under numbers that exist.
    run(pool, FOREIGN).await;
    run(pool, "select setval('outbox.log_seq', 1, false)").await;
    assert!(rebase::plan(pool).await.unwrap().sequence_is_behind);
    for n in [6, 7] {
        world.send(&[world.message("well", n)]).await;
    }
    world.send(&[world.message("sick", 8)]).await;

    rebased(pool).await;
    let after: Vec<(i64, Uuid)> =
        sqlx::query_as("select seq, message_id from outbox.parked order by seq")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(after, before);
    let collisions =
        "select count(*) from outbox.log where seq <= (select max(seq) from outbox.parked)";
    assert_eq!(world.count(collisions).await, 0);
    let relay = world.relay(Config::default());
    world
        .wait_for_unsent(&[("blocked", 4), ("poison", 1)])
        .await;
    oracle.wait_for(4).await;
    assert_eq!(
        oracle.of_key("well"),
        [5, 6, 7],
        "by their times, since the numbers lie"
    );

    script.heal(1);
    let refused = script.refusals.load(Ordering::SeqCst);
    parked::request_replay(pool, &[before[0].0], "test")
        .await
        .unwrap();
    world.wait_for_unsent(&[]).await;
    oracle.wait_for(9).await;
    assert_eq!(oracle.of_key("sick"), [0, 1, 2, 3, 4, 8]);
    assert_eq!(script.refusals.load(Ordering::SeqCst), refused);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_anew_goes_over_the_end_of_a_partition() {
    let world = World::embedded("rebase_ring").await;
    run(
        &world.pool,
        "select setval('outbox.log_seq', (1 << 20) - 20)",
    )
    .await;
    let messages: Vec<_> = (0..15).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    run(&world.pool, FOREIGN).await;
    rebased(&world.pool).await;
    let rows = "select count(distinct tableoid) from outbox.log";
    assert_eq!(world.count(rows).await, 2, "in two partitions");
    let relay = world.relay(Config {
        page: 4,
        ..Config::default()
    });
    let mut oracle = world.oracle();
    oracle.wait_for(15).await;
    assert_eq!(oracle.numbers(), (0..15).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_who_commits_while_the_rebase_waits_for_the_log_is_not_lost() {
    let world = World::embedded("rebase_race").await;
    let pool = &world.pool;
    run(pool, FOREIGN).await;
    let mut early = pool.begin().await.unwrap();
    outbox::enqueue(&mut early, &world.message("early", 1))
        .await
        .unwrap();
    // One that has an id already and has written elsewhere only.
    let mut idle = pool.begin().await.unwrap();
    sqlx::query("insert into effect values (0)")
        .execute(&mut *idle)
        .await
        .unwrap();

    let (own, patience) = (pool.clone(), SOON);
    let rebase = tokio::spawn(async move { rebase::rebase(&own, patience, "ann").await });
    somebody_waits(pool).await;
    // Transactions begin and end above the rebase's own.
    for n in 0..20 {
        run(pool, format!("insert into effect values ({n})")).await;
    }
    early.commit().await.unwrap();
    let done = rebase.await.unwrap().unwrap();
    assert_eq!(
        done.messages, 1,
        "committed after the snapshot, before the lock"
    );
    outbox::enqueue(&mut idle, &world.message("idle", 2))
        .await
        .unwrap();
    idle.commit().await.unwrap();
    world.send(&[world.message("new", 3)]).await;

    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(3).await;
    assert_eq!(
        (oracle.of_key("early"), oracle.of_key("idle")),
        (vec![1], vec![2])
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_rebases_at_once_one_is_done_and_the_other_finds_nothing() {
    let world = World::embedded("rebase_twice").await;
    let pool = &world.pool;
    world.send(&[world.message("k", 1)]).await;
    run(pool, FOREIGN).await;
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("select from outbox.log")
        .execute(&mut *reader)
        .await
        .unwrap();
    let start = || {
        let own = pool.clone();
        tokio::spawn(async move { rebase::rebase(&own, SOON, "ann").await })
    };
    let (one, other) = (start(), start());
    testbed::until(SOON, "both wait", async || {
        let sql = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'";
        (world.count(sql).await >= 2).then_some(())
    })
    .await;
    reader.commit().await.unwrap();
    let results = [one.await.unwrap(), other.await.unwrap()];
    assert_eq!(
        results.iter().filter(|result| result.is_ok()).count(),
        1,
        "{results:?}"
    );
    let failed = results.into_iter().find(Result::is_err).unwrap();
    assert!(refusal(failed).contains("nothing to rebase"));
    assert_eq!(kinds(pool).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebase_killed_before_its_commit_has_changed_nothing() {
    let world = World::embedded("rebase_killed").await;
    let pool = &world.pool;
    let messages: Vec<_> = (0..10).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    run(pool, FOREIGN).await;
    let before = rows(pool).await;
    // Its last statement waits for us.
    run(
        pool,
        "create function wait() returns trigger language plpgsql as $$
         begin perform pg_advisory_xact_lock(4711); return new; end $$;
         create trigger wait before update on outbox.relay for each row execute function wait()",
    )
    .await;
    let mut gate = PgConnection::connect_with(&world.database.options().unwrap())
        .await
        .unwrap();
    let lock = sqlx::query("select pg_advisory_lock(4711)");
    lock.execute(&mut gate).await.unwrap();
    let own = pool.clone();
    let rebase = tokio::spawn(async move { rebase::rebase(&own, SOON, "ann").await });
    somebody_waits(pool).await;
    let killed = "select count(*) from (
                      select pg_terminate_backend(pid) as killed from pg_stat_activity
                      where datname = current_database() and wait_event_type = 'Lock'
                        and backend_type = 'client backend'
                  ) as session where killed";
    assert_eq!(world.count(killed).await, 1, "the fault fired");
    let error = rebase.await.unwrap().unwrap_err();
    assert!(error.is_database_outage(), "{error}");
    let unlock = sqlx::query("select pg_advisory_unlock(4711)");
    unlock.execute(&mut gate).await.unwrap();
    assert_eq!(rows(pool).await, before, "all or nothing");

    assert_eq!(rebased(pool).await.messages, 10, "and it can be repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebase_is_refused_where_it_is_not_needed_or_not_safe() {
    let world = World::embedded("rebase_refused").await;
    let pool = &world.pool;
    world.send(&[world.message("k", 1)]).await;
    for native in [
        refusal(rebase::plan(pool).await),
        refusal(rebase::rebase(pool, PATIENCE, "ann").await),
        refusal(accept_same_xids(pool, PATIENCE, "ann").await),
        refusal(check_same_xids(pool).await),
    ] {
        assert!(native.contains("nothing to rebase"), "{native}");
    }

    // A leader that is alive, of whatever cluster.
    let mut relay = world.relay(Config {
        lease: SOON * 10,
        ..Config::default()
    });
    relay.leading().await;
    let needless = refusal(rebase::plan(pool).await);
    assert!(
        needless.contains("nothing to rebase"),
        "nobody stops a relay for that: {needless}"
    );
    run(pool, FOREIGN).await;
    for alive in [
        refusal(rebase::plan(pool).await),
        refusal(rebase::rebase(pool, PATIENCE, "ann").await),
        refusal(accept_same_xids(pool, PATIENCE, "ann").await),
        refusal(check_same_xids(pool).await),
    ] {
        assert!(alive.contains("holds the lease for another"), "{alive}");
    }
    let epoch = world.count("select epoch from outbox.relay").await;
    relay.crash().await;
    run(
        pool,
        "update outbox.relay set lease_until = clock_timestamp() - interval '1 ms'",
    )
    .await;

    // Somebody writes, or holds the relay's row.
    let short = Duration::from_millis(100);
    let mut writer = pool.begin().await.unwrap();
    outbox::enqueue(&mut writer, &world.message("k", 2))
        .await
        .unwrap();
    let before = state(pool).await;
    let busy = refusal(rebase::rebase(pool, short, "ann").await);
    assert!(busy.contains("still open"), "{busy}");
    assert!(rebase::plan(pool).await.is_ok(), "a plan waits for nobody");
    writer.rollback().await.unwrap();
    let mut holder = pool.begin().await.unwrap();
    let lock = sqlx::query("select from outbox.relay for update");
    lock.execute(&mut *holder).await.unwrap();
    for busy in [
        refusal(rebase::rebase(pool, short, "ann").await),
        refusal(accept_same_xids(pool, short, "ann").await),
    ] {
        assert!(busy.contains("the relay's row"), "{busy}");
    }
    holder.rollback().await.unwrap();
    assert_eq!(state(pool).await, before, "refused, nothing is changed");

    let done = rebased(pool).await;
    assert_eq!(done.epoch, epoch + 1, "a former leader is fenced");
    assert_eq!(
        outbox::outgoing::lease(pool).await.unwrap(),
        None,
        "and nobody has to be waited for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_ids_were_set_back_is_rebased_too_and_a_pause_stands() {
    let world = World::embedded("rebase_rewound").await;
    world.send(&[world.message("k", 1)]).await;
    let rewound = "update outbox.relay set settled = '4000000000:4000000000:', target = '4000000000:4000000000:',
                   settled_floor = 1, target_floor = 1, written_at = clock_timestamp()";
    run(&world.pool, rewound).await;
    // An id that looks acknowledged, as all will for a long time.
    world.send(&[world.message("k", 2)]).await;
    outbox::operator::pause(&world.pool, "ann").await.unwrap();
    assert_eq!(
        rebase::plan(&world.pool).await.unwrap().origin,
        Origin::Rewound
    );
    let done = rebased(&world.pool).await;
    assert_eq!(
        (done.origin, done.messages, done.paused),
        (Origin::Rewound, 1, true)
    );
    outbox::operator::resume(&world.pool, "ann").await.unwrap();
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(1).await;
    assert_eq!(oracle.numbers(), [2]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_same_xids_only_the_identifier_is_accepted_and_only_if_they_can_be_the_same() {
    let world = World::embedded("rebase_upgrade").await;
    let pool = &world.pool;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    world.send(&[world.message("k", 1)]).await;
    oracle.wait_for(1).await;
    relay.stop().await;
    world.send(&[world.message("k", 2)]).await;
    run(pool, FOREIGN).await;

    run(
        pool,
        "alter table outbox.log drop constraint log_xid_is_its_own",
    )
    .await;
    let before = state(pool).await;
    for (ahead, back) in [
        (
            "update outbox.relay set target = '4000000000:4000000000:'",
            "update outbox.relay set target = settled",
        ),
        (
            "insert into outbox.log (xid, seq, message_id, topic, key, kind)
             values ('4000000000', 1000, gen_random_uuid(), 't', 'k', 'kind')",
            "create temp table kept as select * from outbox.log where seq < 1000;
             truncate outbox.log; insert into outbox.log select * from kept; drop table kept",
        ),
    ] {
        run(pool, ahead).await;
        for refused in [
            refusal(check_same_xids(pool).await),
            refusal(accept_same_xids(pool, PATIENCE, "ann").await),
        ] {
            assert!(refused.contains("has not reached"), "{refused}");
        }
        run(pool, back).await;
    }
    assert_eq!(state(pool).await, before, "refused, nothing is changed");

    check_same_xids(pool).await.unwrap();
    assert_eq!(state(pool).await, before, "a look changes nothing");
    let cursor =
        "select concat_ws(' ', settled, target, settled_floor, target_floor, last_seq, written_at)
                  from outbox.relay";
    let stands: String = sqlx::query_scalar(cursor).fetch_one(pool).await.unwrap();
    let epoch = world.count("select epoch from outbox.relay").await;
    let accepted = accept_same_xids(pool, PATIENCE, "ann").await.unwrap();
    assert_eq!(accepted.epoch, epoch + 1);
    let after: String = sqlx::query_scalar(cursor).fetch_one(pool).await.unwrap();
    assert_eq!(after, stands, "the cursor is where it was");
    assert_eq!(kinds(pool).await.len(), 2, "and so is the log");
    let relay = world.relay(Config::default());
    oracle.wait_for(2).await;
    assert_eq!(oracle.duplicates, 0);
    relay.stop().await;
}
