//! P2 and P3: nothing is lost and keys stay in order, whatever order commits come in.

use std::{collections::HashMap, time::Duration};

use outbox::outgoing::Config;

use crate::world::{SOON, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commit_order_against_number_order_loses_nothing_and_keeps_each_key_in_order() {
    const WRITERS: i64 = 16;
    const EACH: i64 = 150;
    let world = World::embedded("writers").await;
    let relay = world.relay(Config {
        page: 100,
        ..Config::default()
    });
    let mut oracle = world.oracle();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (pool, topic) = (world.pool.clone(), world.topic.clone());
        writers.spawn(async move {
            for i in 0..EACH {
                let key = format!("key-{}", (writer + i) % 8);
                let mut tx = pool.begin().await.unwrap();
                // Half the time a message of another key first, so that numbers are drawn long
                // before the commit while others draw later numbers and commit earlier.
                let n = 1_000_000 + writer * EACH + i;
                let own = outbox::Message::new(
                    &topic,
                    format!("own-{writer}"),
                    &crate::world::Counted { n },
                );
                outbox::enqueue(&mut tx, &own.unwrap()).await.unwrap();
                let n: i64 = sqlx::query_scalar(
                    "insert into keyed values ($1, 1)
                     on conflict (key) do update set n = keyed.n + 1 returning n",
                )
                .bind(&key)
                .fetch_one(&mut *tx)
                .await
                .unwrap();
                let keyed = outbox::Message::new(&topic, &key, &crate::world::Counted { n });
                outbox::enqueue(&mut tx, &keyed.unwrap()).await.unwrap();
                // Some transactions linger, some abort.
                if (writer * 7 + i) % 5 == 0 {
                    sqlx::query("select pg_sleep(0.004)")
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                }
                if (writer * 3 + i) % 11 == 0 {
                    tx.rollback().await.unwrap();
                } else {
                    tx.commit().await.unwrap();
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let committed = world.count("select count(*) from outbox.log").await;
    assert!(committed > WRITERS * EACH, "the writers wrote");
    // The fault fired: some number was committed after a higher one.
    let inverted = world
        .count(
            "select count(*) from (
                 select seq, max(seq) over (order by xid, seq) as highest from outbox.log
             ) as l where seq < highest",
        )
        .await;
    assert!(inverted > 0, "commit order and number order differ");

    oracle.wait_for(usize::try_from(committed).unwrap()).await;
    oracle.poll().await;
    assert_eq!(
        i64::try_from(oracle.seen.len()).unwrap(),
        committed,
        "none from aborted ones"
    );
    let last: HashMap<String, i64> = sqlx::query_as("select key, n from keyed")
        .fetch_all(&world.pool)
        .await
        .unwrap()
        .into_iter()
        .collect();
    for (key, last) in last {
        let expected: Vec<i64> = (1..=last).collect();
        assert_eq!(oracle.of_key(&key), expected, "{key}");
    }
    for writer in 0..WRITERS {
        assert!(oracle.of_key(&format!("own-{writer}")).is_sorted());
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_delays_only_its_own_messages() {
    let world = World::embedded("long").await;
    let relay = world.relay(Config {
        page: 50,
        ..Config::default()
    });
    let mut oracle = world.oracle();

    let mut long = world.pool.begin().await.unwrap();
    let own: Vec<_> = (0..120).map(|n| world.message("long", n)).collect();
    outbox::enqueue_all(&mut long, &own).await.unwrap();
    for n in 1000..1200 {
        world.send(&[world.message("short", n)]).await;
    }
    oracle.wait_for(200).await;
    assert_eq!(oracle.of_key("short").len(), 200, "nothing waits for it");
    assert_eq!(oracle.of_key("long"), [] as [i64; 0]);

    // It writes more, over more than a page, while ticks go by; then it commits together with
    // a large tick of others.
    let more: Vec<_> = (120..400).map(|n| world.message("long", n)).collect();
    outbox::enqueue_all(&mut long, &more).await.unwrap();
    let others: Vec<_> = (1200..1700).map(|n| world.message("short", n)).collect();
    world.send(&others).await;
    long.commit().await.unwrap();
    oracle.wait_for(400 + 700).await;
    assert_eq!(oracle.of_key("long"), (0..400).collect::<Vec<_>>());
    assert_eq!(oracle.of_key("short"), (1000..1700).collect::<Vec<_>>());
    assert_eq!(oracle.duplicates, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_transaction_that_waited_for_a_newer_ones_row_comes_after_it() {
    let world = World::embedded("waited").await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    sqlx::query("insert into keyed values ('k', 0)")
        .execute(&world.pool)
        .await
        .unwrap();
    const BUMP: &str = "update keyed set n = n + 1 where key = 'k'";

    // The older one gets its transaction id first, then waits for the newer one's row.
    let mut old = world.pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()")
        .execute(&mut *old)
        .await
        .unwrap();
    let mut new = world.pool.begin().await.unwrap();
    sqlx::query(BUMP).execute(&mut *new).await.unwrap();
    outbox::enqueue(&mut new, &world.message("k", 1))
        .await
        .unwrap();
    let (pool, message) = (world.pool.clone(), world.message("k", 2));
    let waiting = tokio::spawn(async move {
        sqlx::query(BUMP).execute(&mut *old).await.unwrap();
        outbox::enqueue(&mut old, &message).await.unwrap();
        old.commit().await.unwrap();
    });
    testbed::until(
        SOON,
        "the older transaction waits for the lock",
        async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            (waiting > 0).then_some(())
        },
    )
    .await;
    new.commit().await.unwrap();
    waiting.await.unwrap();
    oracle.wait_for(2).await;
    assert_eq!(oracle.of_key("k"), [1, 2]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_larger_than_a_page_arrives_whole_and_in_order() {
    let world = World::embedded("backlog").await;
    for chunk in 0..10 {
        let messages: Vec<_> = (0..500)
            .map(|i| world.message("k", chunk * 500 + i))
            .collect();
        world.send(&messages).await;
    }
    let config = Config {
        page: 128,
        max_in_flight: 300,
        ..Config::default()
    };
    let relay = world.relay(config.clone());
    let mut oracle = world.oracle();
    oracle.wait_for(5000).await;
    assert_eq!(oracle.numbers(), (0..5000).collect::<Vec<_>>());
    relay.stop().await;

    // Stopped in good order, a successor repeats nothing.
    let relay = world.relay(config);
    world.send(&[world.message("k", 5000)]).await;
    oracle.wait_for(5001).await;
    assert_eq!(oracle.duplicates, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_key_makes_messages_of_writers_without_a_row_follow_their_transactions() {
    let world = World::embedded("lockkey").await;
    let mut first = world.pool.begin().await.unwrap();
    outbox::lock_key(&mut first, "k").await.unwrap();
    let pool = world.pool.clone();
    let message = world.message("k", 2);
    let second = tokio::spawn(async move {
        let mut tx = pool.begin().await.unwrap();
        outbox::lock_key(&mut tx, "k").await.unwrap();
        outbox::enqueue(&mut tx, &message).await.unwrap();
        tx.commit().await.unwrap();
    });
    let patience = tokio::time::timeout(Duration::from_millis(200), second);
    let second = patience.await;
    assert!(second.is_err(), "the second writer waits for the first");
    outbox::enqueue(&mut first, &world.message("k", 1))
        .await
        .unwrap();
    first.commit().await.unwrap();
    testbed::until(SOON, "both are in the log", async || {
        (world.count("select count(*) from outbox.log").await == 2).then_some(())
    })
    .await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(2).await;
    assert_eq!(oracle.numbers(), [1, 2]);
    relay.stop().await;
}
