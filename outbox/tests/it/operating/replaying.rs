//! Enqueuing what the log still holds once more.

use chrono::{TimeDelta, Utc};
use outbox::{
    operator::replay::{self, From, REPLAYED_FROM, Replay, Selection},
    outgoing::{Config, empty_partition_ahead},
};
use sqlx::{Connection, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use crate::{
    operating::run,
    world::{SOON, World, header},
};

/// Runs a replay to its end and returns how many it enqueued, in how many pages.
async fn replay_all(pool: &PgPool, selection: Selection, new_ids: bool) -> (u64, usize) {
    let mut replay = Replay::begin(pool, selection, new_ids, "ann")
        .await
        .unwrap();
    let (mut messages, mut pages) = (0, 0);
    while let Some(page) = replay.page().await.unwrap() {
        messages += page.messages;
        pages += 1;
    }
    (messages, pages)
}

/// Says that everything committed is published.
async fn publish(pool: &PgPool) {
    run(
        pool,
        "update outbox.relay set settled = pg_current_snapshot(), target = pg_current_snapshot(), last_seq = 0",
    )
    .await;
}

/// `(seq, message id, replayed-from)` from a number on.
async fn copies(pool: &PgPool, from: i64) -> Vec<(i64, Uuid, Option<String>)> {
    sqlx::query_as(
        "select seq, message_id, headers->>'replayed-from' from outbox.log where seq >= $1 order by seq",
    )
    .bind(from)
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_comes_again_in_order_and_with_new_ids_as_something_new() {
    let world = World::embedded("replay_all").await;
    let messages: Vec<_> = (0..40)
        .map(|n| world.message(&format!("k{}", n % 4), n))
        .collect();
    world.send(&messages).await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(40).await;
    testbed::until(SOON, "all is written down as published", async || {
        let plan = replay::plan(&world.pool, &Selection::default())
            .await
            .unwrap();
        (plan.messages == 40).then_some(())
    })
    .await;
    assert_eq!(
        replay_all(&world.pool, Selection::default(), false).await,
        (40, 1)
    );
    testbed::until(SOON, "the copies are read", async || {
        world
            .count("select count(*) from outbox.log")
            .await
            .eq(&80)
            .then_some(())
    })
    .await;
    while oracle.duplicates < 40 {
        oracle.poll().await;
    }
    assert_eq!(oracle.seen.len(), 40, "the same ids");

    let key = Selection {
        key: Some("k1".into()),
        ..Selection::default()
    };
    let published = async || {
        testbed::until(
            SOON,
            "the copies are written down as published",
            async || {
                let lag = outbox::operator::lag(&world.pool, 10).await.unwrap();
                (lag.messages == 0).then_some(())
            },
        )
        .await;
    };
    published().await;
    let (messages, _) = replay_all(&world.pool, key, true).await;
    assert_eq!(messages, 10, "of one key, and not the copies");
    oracle.wait_for(50).await;
    let again: Vec<_> = oracle.seen[40..].to_vec();
    let of_k1: Vec<_> = again.iter().map(crate::world::number).collect();
    assert_eq!(
        of_k1,
        (0..10).map(|n| n * 4 + 1).collect::<Vec<_>>(),
        "in order"
    );
    assert_eq!(header(&again[0], REPLAYED_FROM), "2");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_selected_published_and_not_parked_is_replayed_and_once() {
    let world = World::embedded("replay_some").await;
    let pool = &world.pool;
    let with = |topic: &str, n| {
        let mut message = world.message("k", n);
        topic.clone_into(&mut message.topic);
        message
    };
    world
        .send(&[with("a", 1), with("b", 2), with("a", 3), with("a", 4)])
        .await;
    run(
        pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         select seq, message_id, topic, key, kind, created_at, 'held', '' from outbox.log where seq = 3",
    )
    .await;
    let mut open = pool.begin().await.unwrap();
    outbox::enqueue(&mut open, &with("a", 5)).await.unwrap();
    publish(pool).await;
    open.commit().await.unwrap();
    world.send(&[with("a", 6)]).await;

    let plan = replay::plan(pool, &Selection::default()).await.unwrap();
    let topics: Vec<_> = plan
        .topics
        .iter()
        .map(|t| (&*t.topic, t.messages))
        .collect();
    assert_eq!(topics, [("a", 2), ("b", 1)]);
    assert_eq!((plan.messages, plan.from_seq, plan.until_seq), (3, 1, 6));
    assert_eq!(plan.holds.unwrap().from_seq, 1);
    assert_eq!(copies(pool, 7).await, [], "only planned");

    let a = Selection {
        topic: Some("a".into()),
        from: From::Seq(2),
        ..Selection::default()
    };
    assert_eq!(replay_all(pool, a, false).await, (1, 1));
    let made = copies(pool, 7).await;
    let original = copies(pool, 4).await[0].1;
    assert_eq!(made, [(7, original, Some("4".into()))]);

    // Published too, the copy is not copied beside its original; without that it would be.
    publish(pool).await;
    let plan = async |from| {
        let selection = Selection {
            from: From::Seq(from),
            ..Selection::default()
        };
        replay::plan(pool, &selection).await.unwrap().messages
    };
    assert_eq!(plan(1).await, 5, "1, 2, 4, 5, 6");
    assert_eq!(plan(5).await, 3, "5, 6, and the copy of 4");
    let until = Selection {
        until_seq: Some(2),
        ..Selection::default()
    };
    assert_eq!(replay::plan(pool, &until).await.unwrap().messages, 2);
    let kind = Selection {
        kind: Some("other".into()),
        ..Selection::default()
    };
    assert_eq!(replay::plan(pool, &kind).await.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_durable_where_others_need_not_be() {
    let world = World::embedded("replay_durable").await;
    world.send(&[world.message("k", 1)]).await;
    publish(&world.pool).await;
    // What the transaction that copies has set, as a trigger sees it.
    run(
        &world.pool,
        "create table seen (setting text);
         create function look() returns trigger language plpgsql as $$ begin
             insert into public.seen values (current_setting('synchronous_commit')); return new; end $$;
         create trigger look before insert on outbox.log for each row execute function look()",
    )
    .await;
    let options = world.database.options().unwrap();
    let careless = options.options([("synchronous_commit", "off")]);
    let careless = PgPoolOptions::new()
        .max_connections(3)
        .connect_lazy_with(careless);
    assert_eq!(
        replay_all(&careless, Selection::default(), false).await,
        (1, 1)
    );
    let seen: Vec<String> = sqlx::query_scalar("select setting from seen")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert_eq!(seen, ["on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_found_among_the_numbers() {
    let world = World::embedded("replay_since").await;
    let pool = &world.pool;
    run(
        pool,
        "insert into outbox.log (message_id, topic, key, kind, created_at)
         select gen_random_uuid(), 't', 'k', 'kind', now() - make_interval(secs => 30001 - n)
         from generate_series(1, 30000) as n",
    )
    .await;
    publish(pool).await;
    let since = async |seconds| {
        let time = Utc::now() - TimeDelta::seconds(seconds);
        let selection = Selection {
            from: From::Time(time),
            ..Selection::default()
        };
        replay::plan(pool, &selection).await.unwrap().messages
    };
    // The rows' clock stood still while the test went on.
    for (seconds, least) in [(1_000, 900), (29_000, 28_900)] {
        let found = since(seconds).await;
        assert!(
            (least..=seconds).contains(&found),
            "{found} since {seconds} s"
        );
    }
    assert_eq!(since(-60).await, 0);
    assert_eq!(since(100_000).await, 30_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_ends_though_messages_come_all_the_time_and_goes_on_where_it_failed() {
    let world = World::embedded("replay_end").await;
    let pool = &world.pool;
    run(
        pool,
        "insert into outbox.log (message_id, topic, key, kind)
         select gen_random_uuid(), 't', 'k', 'kind' from generate_series(1, 12000)",
    )
    .await;
    publish(pool).await;
    let mut replay = Replay::begin(pool, Selection::default(), true, "ann")
        .await
        .unwrap();
    assert_eq!(replay.until_seq(), 12_000);
    let first = replay.page().await.unwrap().unwrap();
    assert_eq!((first.messages, first.last), (5_000, 5_000));
    let until_seq = Some(replay.until_seq());
    drop(replay);
    // As if it had died: another goes on. New messages, and the copies that were published meanwhile,
    // are not for it.
    world.send(&[world.message("k", 1)]).await;
    publish(pool).await;
    let rest = Selection {
        from: From::Seq(first.last + 1),
        until_seq,
        ..Selection::default()
    };
    assert_eq!(replay_all(pool, rest, true).await, (7_000, 2));
    let copied = world
        .count("select count(distinct headers->>'replayed-from') from outbox.log")
        .await;
    assert_eq!(copied, 12_000);
    let ids = world
        .count("select count(distinct message_id) from outbox.log")
        .await;
    assert_eq!(ids, 24_001, "each copy with an id of its own");
    let out_of_order = world
        .count(
            "select count(*) from (
                 select (headers->>'replayed-from')::bigint
                        - lag((headers->>'replayed-from')::bigint) over (order by seq) as step
                 from outbox.log where headers is not null) as steps
             where step <> 1",
        )
        .await;
    assert_eq!(out_of_order, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_not_emptied_while_it_is_replayed() {
    let world = World::embedded("replay_guard").await;
    let pool = &world.pool;
    world.send(&[world.message("k", 1)]).await;
    // The writers are in the last partition: the first is emptied next.
    run(
        pool,
        &*format!("select setval('outbox.log_seq', {})", 3 << 20),
    )
    .await;
    publish(pool).await;
    let mut session = sqlx::PgConnection::connect_with(&world.database.options().unwrap())
        .await
        .unwrap();
    let mut replay = Replay::begin(pool, Selection::default(), false, "ann")
        .await
        .unwrap();
    assert!(
        !empty_partition_ahead(&mut session).await.unwrap(),
        "it is kept"
    );
    assert_eq!(replay.page().await.unwrap().unwrap().messages, 1);
    drop(replay);
    testbed::until(SOON, "it is emptied", async || {
        let mut session = pool.acquire().await.unwrap();
        empty_partition_ahead(&mut session)
            .await
            .unwrap()
            .then_some(())
    })
    .await;
    let plan = replay::plan(pool, &Selection::default()).await.unwrap();
    assert_eq!(
        plan.holds.unwrap().from_seq,
        (3 << 20) + 1,
        "the original is gone"
    );
    publish(pool).await;
    let plan = replay::plan(pool, &Selection::default()).await.unwrap();
    assert_eq!(plan.messages, 1, "without its original, the copy counts");
}
