//! Status, lag, tail, pause.

use outbox::{
    operator::{self, Filter, Follow, Paused, Resumed, State, parked::Class},
    outgoing::Config,
};
use sqlx::{PgConnection, PgPool};

use crate::{
    operating::run,
    world::{SOON, World},
};

/// A snapshot with its floor, taken as the relay does: number, then an id of one's own, then snapshot.
async fn cut(pool: &PgPool) -> (String, i64) {
    let mut connection = pool.acquire().await.unwrap();
    let floor: i64 = sqlx::query_scalar("select last_value - 1 from outbox.log_seq")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    sqlx::query("select pg_current_xact_id()")
        .execute(&mut *connection)
        .await
        .unwrap();
    let snapshot = sqlx::query_scalar("select pg_current_snapshot()::text")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    (snapshot, floor)
}

async fn set_cursor(pool: &PgPool, settled: &(String, i64), target: &(String, i64), last: i64) {
    sqlx::query(
        "update outbox.relay set settled = $1::pg_snapshot, settled_floor = $2,
                target = $3::pg_snapshot, target_floor = $4, last_seq = $5",
    )
    .bind(&settled.0)
    .bind(settled.1)
    .bind(&target.0)
    .bind(target.1)
    .bind(last)
    .execute(pool)
    .await
    .unwrap();
}

async fn add(connection: &mut PgConnection, topic: &str, rows: i32) {
    sqlx::query(
        "insert into outbox.log (message_id, topic, key, kind, payload)
         select gen_random_uuid(), $1, 'k', 'test.counted.v1', 'secret' from generate_series(1, $2)",
    )
    .bind(topic)
    .bind(rows)
    .execute(connection)
    .await
    .unwrap();
}

/// What the relay's rule says, by reading everything.
async fn naive(pool: &PgPool) -> Vec<(String, i64)> {
    sqlx::query_as(
        "select l.topic, count(*) from outbox.log as l, outbox.relay as r
         where not pg_visible_in_snapshot(l.xid, r.settled)
           and not (pg_visible_in_snapshot(l.xid, r.target) and l.seq <= r.last_seq)
         group by l.topic order by count(*) desc, l.topic",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn lag(pool: &PgPool) -> Vec<(String, i64)> {
    let lag = operator::lag(pool, 1_000).await.unwrap();
    let total: i64 = lag.topics.iter().map(|topic| topic.messages).sum();
    assert_eq!((lag.messages, lag.at_least), (total, false));
    assert_eq!(lag.oldest_seconds.is_some(), total > 0);
    lag.topics
        .into_iter()
        .map(|topic| (topic.topic, topic.messages))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_exactly_what_the_relay_s_rule_says_wherever_the_cursor_stands() {
    let world = World::embedded("lag_exact").await;
    let pool = &world.pool;
    assert_eq!(lag(pool).await, [], "an empty log has no lag");
    // One transaction for each way of lying to the two cuts.
    let mut ended_between = pool.begin().await.unwrap();
    let mut ended_after = pool.begin().await.unwrap();
    let mut never_ended = pool.begin().await.unwrap();
    let mut aborted = pool.begin().await.unwrap();
    for tx in [
        &mut ended_between,
        &mut ended_after,
        &mut never_ended,
        &mut aborted,
    ] {
        add(tx, "old", 2).await;
    }
    add(&mut pool.acquire().await.unwrap(), "before", 3).await;
    let settled = cut(pool).await;
    // Numbers between a cut's floor and its snapshot exist too.
    add(&mut pool.acquire().await.unwrap(), "tick", 3).await;
    add(&mut ended_between, "tick late", 2).await;
    ended_between.commit().await.unwrap();
    let mut began_between = pool.begin().await.unwrap();
    add(&mut began_between, "between", 4).await;
    let target = {
        let (_, floor) = cut(pool).await;
        add(&mut pool.acquire().await.unwrap(), "tick", 2).await;
        add(&mut ended_after, "late", 1).await;
        (cut(pool).await.0, floor)
    };
    let mut began_after = pool.begin().await.unwrap();
    add(&mut began_after, "after", 3).await;
    add(&mut ended_after, "late", 3).await;
    began_after.commit().await.unwrap();
    began_between.commit().await.unwrap();
    ended_after.commit().await.unwrap();
    aborted.rollback().await.unwrap();

    let newest: i64 = world.count("select last_value from outbox.log_seq").await;
    let mut lags = Vec::new();
    for last in 0..=newest + 1 {
        set_cursor(pool, &settled, &target, last).await;
        let (mine, theirs) = (lag(pool).await, naive(pool).await);
        assert_eq!(mine, theirs, "last_seq {last}");
        lags.push(mine.iter().map(|topic| topic.1).sum::<i64>());
    }
    assert!(lags[0] > *lags.last().unwrap(), "the tick counts: {lags:?}");
    for at in [&settled, &target] {
        set_cursor(pool, at, at, 0).await;
        assert_eq!(lag(pool).await, naive(pool).await, "between two ticks");
    }
    never_ended.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_and_status_stop_counting_somewhere() {
    let world = World::embedded("lag_bounded").await;
    add(&mut world.pool.acquire().await.unwrap(), "t", 5_000).await;
    let lag = operator::lag(&world.pool, 300).await.unwrap();
    assert_eq!((lag.messages, lag.at_least), (300, true));
    let lag = operator::lag(&world.pool, 5_001).await.unwrap();
    assert_eq!((lag.messages, lag.at_least), (5_000, false));
    let backlog = operator::status(&world.pool).await.unwrap().backlog;
    assert_eq!((backlog.messages, backlog.exact), (5_000, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_costs_what_is_not_published_and_not_what_is() {
    let world = World::embedded("looks").await;
    let entries = async || {
        world
            .count(
                "select sum(idx_tup_read)::bigint from pg_stat_user_indexes
                 where schemaname = 'outbox' and relname like 'log\\_%'",
            )
            .await
    };
    let mut connection = world.pool.acquire().await.unwrap();
    let mut open = world.pool.begin().await.unwrap();
    add(&mut open, "open", 1).await;
    for _ in 0..10 {
        add(&mut connection, "published", 10_000).await;
    }
    let published = cut(&world.pool).await;
    set_cursor(&world.pool, &published, &published, 0).await;
    add(&mut connection, "new", 100).await;
    let filter = Filter {
        topic: Some("new".to_owned()),
        ..Filter::default()
    };
    // A session hands its counts in when it ends.
    let before = entries().await;
    let pool = world.database.pool(1).await.unwrap();
    assert_eq!(operator::lag(&pool, 1_000_000).await.unwrap().messages, 100);
    assert!(operator::status(&pool).await.unwrap().backlog.exact);
    assert_eq!(
        operator::tail(&pool, &filter, 100).await.unwrap().len(),
        100
    );
    pool.close().await;
    let cost = testbed::until(SOON, "the session's counts", async || {
        let cost = entries().await - before;
        (cost >= 300).then_some(cost)
    })
    .await;
    assert!(cost < 2_000, "{cost} entries");
    open.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_who_leads_what_waits_and_what_is_parked() {
    let world = World::embedded("status").await;
    let status = operator::status(&world.pool).await.unwrap();
    assert_eq!((status.lease, status.epoch), (None, 0));
    assert_eq!((status.backlog.messages, status.backlog.exact), (0, true));
    assert_eq!(
        (status.turn.seq, status.oldest_unpublished_seconds),
        (0, None)
    );

    world
        .send(&[world.message("k", 1), world.message("k", 2)])
        .await;
    let status = operator::status(&world.pool).await.unwrap();
    assert_eq!((status.backlog.messages, status.turn.seq), (2, 2));
    assert!(status.oldest_unpublished_seconds.unwrap() >= 0.0);
    let partitions = &status.partitions;
    let names: Vec<_> = partitions
        .iter()
        .map(|partition| &*partition.name)
        .collect();
    assert_eq!(names, ["log_0", "log_1", "log_2", "log_3"]);
    let current: Vec<_> = partitions
        .iter()
        .map(|partition| partition.current)
        .collect();
    assert_eq!(current, [true, false, false, false]);
    assert!(partitions[0].bytes > 0);

    let mut relay = world.relay(Config::default());
    relay.leading().await;
    testbed::until(SOON, "nothing waits", async || {
        let status = operator::status(&world.pool).await.unwrap();
        (status.backlog.messages == 0).then_some(())
    })
    .await;
    run(
        &world.pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason, parked_at)
         select n, gen_random_uuid(), 't', 'k', 'kind', now(), class, 'r', now() - interval '1 hour'
         from unnest(array[901, 902, 903], array['poison', 'blocked', 'blocked']) as p (n, class);
         update outbox.parked set parked_at = now() where seq = 902;
         insert into outbox.blocked_key values ('t', 'k');
         insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\", headers, class,
                                          reason, attempts)
         values ('c', gen_random_uuid(), 't', 0, 0, '[]', 'refused', 'r', 1),
                ('c', gen_random_uuid(), 't', 0, 1, '[]', 'refused', 'r', 1);
         update outbox.inbox_parked set parked_at = now() - interval '1 hour' where \"offset\" = 0",
    )
    .await;
    let status = operator::status(&world.pool).await.unwrap();
    let lease = status.lease.unwrap();
    assert!(
        lease.owner.starts_with(&std::process::id().to_string()),
        "{lease:?}"
    );
    assert!(lease.seconds_left > 0.0 && status.cursor_age_seconds < 10.0);
    assert_eq!((status.epoch, status.blocked_keys), (1, 1));
    let parked: Vec<_> = status
        .parked
        .iter()
        .map(|count| (count.class, count.messages))
        .collect();
    assert_eq!(parked, [(Class::Blocked, 2), (Class::Poison, 1)]);
    assert!(status.parked[0].oldest_seconds >= 3_600.0);
    let inbox = &status.inbox_parked[0];
    assert_eq!((&*inbox.consumer, inbox.messages), ("c", 2));
    assert!(inbox.oldest_seconds >= 3_600.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_the_newest_in_order_with_what_became_of_them() {
    let world = World::embedded("tail").await;
    let messages: Vec<_> = (0..30)
        .map(|n| world.message(&format!("k{}", n % 3), n))
        .collect();
    world.send(&messages).await;
    let all = operator::tail(&world.pool, &Filter::default(), 10)
        .await
        .unwrap();
    let seqs: Vec<_> = all.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (21..=30).collect::<Vec<_>>(), "oldest first");
    let last = all.last().unwrap();
    assert_eq!(
        (&last.key, last.message_id),
        (&"k2".to_owned(), messages[29].id)
    );
    assert_eq!((last.state, last.bytes), (State::Unpublished, Some(8)));
    assert_eq!(last.payload, None, "not asked for");

    let relay = world.relay(Config::default());
    testbed::until(SOON, "all are published", async || {
        let all = operator::tail(&world.pool, &Filter::default(), 30)
            .await
            .unwrap();
        all.iter()
            .all(|entry| entry.state == State::Published)
            .then_some(())
    })
    .await;
    relay.stop().await;
    run(
        &world.pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         select seq, message_id, topic, key, kind, created_at, 'held', '' from outbox.log where seq = 30",
    )
    .await;
    let filter = Filter {
        topic: Some(world.topic.clone()),
        key: Some("k2".to_owned()),
        kind: Some("test.counted.v1".to_owned()),
        payload: true,
    };
    let mine = operator::tail(&world.pool, &filter, 100).await.unwrap();
    assert_eq!(mine.len(), 10);
    assert_eq!(mine[9].state, State::Parked(Class::Held));
    let json = serde_json::to_value(&mine[9]).unwrap();
    assert_eq!(json["payload"]["text"], r#"{"n":29}"#);
    let none = Filter {
        kind: Some("other".to_owned()),
        ..filter
    };
    assert_eq!(operator::tail(&world.pool, &none, 100).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_the_log_shows_each_message_once_however_late_it_commits() {
    let world = World::embedded("follow").await;
    let pool = &world.pool;
    let mut open = pool.begin().await.unwrap();
    outbox::enqueue(&mut open, &world.message("late", 1))
        .await
        .unwrap();
    world.send(&[world.message("k", 2)]).await;
    let (mut log, first) = Follow::begin(pool, Filter::default(), 10).await.unwrap();
    let seqs = |entries: Vec<operator::Entry>| entries.iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(first), [2]);
    assert_eq!(log.next(pool, 10).await.unwrap(), (vec![], false));
    world.send(&[world.message("k", 3)]).await;
    assert_eq!(seqs(log.next(pool, 10).await.unwrap().0), [3]);
    world.send(&[world.message("k", 4)]).await;
    open.commit().await.unwrap();
    assert_eq!(
        seqs(log.next(pool, 10).await.unwrap().0),
        [1, 4],
        "the late one too"
    );
    assert_eq!(log.next(pool, 10).await.unwrap(), (vec![], false));
    let many: Vec<_> = (0..20).map(|n| world.message("k", n)).collect();
    world.send(&many).await;
    let (some, more) = log.next(pool, 10).await.unwrap();
    assert_eq!(
        (some.len(), more),
        (10, true),
        "says that some are left out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_set_once_and_ended_once_beside_a_working_leader() {
    let world = World::embedded("pause").await;
    let mut relay = world.relay(Config::default());
    relay.leading().await;
    let Paused::Paused(first) = operator::pause(&world.pool, "ann: deploying")
        .await
        .unwrap()
    else {
        panic!("was paused already");
    };
    assert_eq!(first.by, "ann: deploying");
    let again = operator::pause(&world.pool, "bob").await.unwrap();
    assert_eq!(again, Paused::Already(first.clone()));
    assert_eq!(
        operator::status(&world.pool).await.unwrap().paused,
        Some(first.clone())
    );
    let resumed = operator::resume(&world.pool, "ann").await.unwrap();
    assert_eq!(resumed, Resumed::Resumed(first));
    let resumed = operator::resume(&world.pool, "ann").await.unwrap();
    assert_eq!(resumed, Resumed::NotPaused);
    assert_eq!(
        world.count("select epoch from outbox.relay").await,
        1,
        "it kept its lease"
    );
    relay.stop().await;
}

/// Whoever may write to a table can write anything that its checks let pass; an older version's were fewer, a
/// newer one knows more words.
const WITHOUT_CHECKS: &str = "do $$
    declare it record;
    begin
        for it in select conrelid::regclass::text as name, conname from pg_constraint
                  where contype = 'c' and conrelid in ('outbox.log'::regclass, 'outbox.parked'::regclass,
                                                       'outbox.inbox_parked'::regclass)
        loop
            execute format('alter table %s drop constraint %I', it.name, it.conname);
        end loop;
    end $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_says_what_nobody_knows_hides_no_other() {
    let world = World::embedded("odd_rows").await;
    let pool = &world.pool;
    run(pool, WITHOUT_CHECKS).await;
    for infinity in ["infinity", "-infinity", "270000-01-01"] {
        let odd = format!(
            "insert into outbox.log (message_id, topic, key, kind, created_at)
             values (gen_random_uuid(), 't', 'k', 'odd', '{infinity}')"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(odd))
            .execute(pool)
            .await
            .unwrap();
    }
    world.send(&[world.message("k", 1)]).await;
    let entries = operator::tail(pool, &Filter::default(), 10).await.unwrap();
    assert_eq!(entries.len(), 4);
    assert_eq!(entries[3].kind, "test.counted.v1");

    run(
        pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, headers, created_at, class, reason)
         values (1, gen_random_uuid(), 't', 'k', 'odd', '[1]', 'infinity', 'poison', 'r'),
                (2, gen_random_uuid(), 't', 'k', 'odd', '{\"a\": {\"b\": 1}}', now(), 'newer', 'r'),
                (3, gen_random_uuid(), 't', 'k', 'fine', null, now(), 'held', 'r')",
    )
    .await;
    let all = operator::parked::Selection::default();
    let listed = operator::parked::list(pool, &all, None, 10).await.unwrap();
    let classes: Vec<_> = listed.iter().map(|item| item.class).collect();
    assert_eq!(classes, [Class::Poison, Class::Other, Class::Held]);
    for seq in 1..=3 {
        let shown = operator::parked::show(pool, seq, true).await.unwrap();
        assert_eq!(shown.unwrap().item.seq, seq);
    }
    let status = operator::status(pool).await.unwrap();
    assert_eq!(status.parked.len(), 3);

    run(
        pool,
        "insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\", headers, class,
                                          reason, attempts)
         values ('c', gen_random_uuid(), 't', 0, 0, '{}', 'newer', 'r', 0),
                ('c', gen_random_uuid(), 't', 0, 1, '[]', 'refused', 'r', 1)",
    )
    .await;
    use outbox::incoming::parked;
    let listed = parked::list(pool, &parked::Filter::default(), 0, 10)
        .await
        .unwrap();
    let classes: Vec<_> = listed.iter().map(|item| item.class).collect();
    assert_eq!(classes, [parked::Class::Other, parked::Class::Refused]);
}
