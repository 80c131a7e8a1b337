//! P9: the log is bounded: a partition is emptied before the writers enter it, never too early.

use std::sync::Arc;

use outbox::{broker::Embedded, outgoing::Config};
use sqlx::AssertSqlSafe;

use crate::world::{SOON, World};

const PARTITION: i64 = 1 << 20;

impl World {
    /// Lets the next number be the first of a partition.
    async fn jump_to_partition(&self, index: i64) {
        sqlx::query("select setval('outbox.log_seq', $1, false)")
            .bind(index * PARTITION + 1)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    async fn rows(&self, index: i64) -> i64 {
        let sql = AssertSqlSafe(format!("select count(*) from outbox.log_{index}"));
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_partition_ahead_is_emptied_and_the_others_are_kept_for_replay() {
    let world = World::embedded("ring").await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    for index in 0..4 {
        world.jump_to_partition(index).await;
        world.send(&[world.message("k", index)]).await;
    }
    oracle.wait_for(4).await;
    // The writers are in partition 3; 0 is ahead of them.
    testbed::until(SOON, "partition 0 is emptied", async || {
        (world.rows(0).await == 0).then_some(())
    })
    .await;
    assert_eq!(
        (
            world.rows(1).await,
            world.rows(2).await,
            world.rows(3).await
        ),
        (1, 1, 1)
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_not_yet_settled_are_never_emptied() {
    let world = World::embedded("notempty").await;
    // The broker takes nothing: rows in partition 0 stay unsettled while the writers are in 3.
    let topic = outbox::broker::Topic::new("other", 1);
    world.broker.ensure_topics(&[topic]).await.unwrap();
    world.send(&[world.message("k", 0)]).await;
    world.jump_to_partition(3).await;
    world.send(&[world.message("k", 1)]).await;
    // A lease of another's and a cursor of nothing: what a leader would find.
    let mut leader = world.pool.acquire().await.unwrap();
    let emptied = outbox::outgoing::empty_partition_ahead(&mut leader)
        .await
        .unwrap();
    assert!(!emptied, "nothing is settled");
    assert_eq!(world.rows(0).await, 1);

    // Settled but for one transaction that was open and has committed since.
    let mut open = world.pool.begin().await.unwrap();
    world.jump_to_partition(0).await;
    outbox::enqueue(&mut open, &world.message("k", 2))
        .await
        .unwrap();
    world.jump_to_partition(3).await;
    world.send(&[world.message("k", 3)]).await;
    sqlx::query(
        "update outbox.relay set settled = pg_current_snapshot(), target = pg_current_snapshot()",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let open_now = outbox::outgoing::empty_partition_ahead(&mut leader)
        .await
        .unwrap();
    assert!(!open_now, "an open writer holds its partition");
    open.commit().await.unwrap();
    let late = outbox::outgoing::empty_partition_ahead(&mut leader)
        .await
        .unwrap();
    assert!(!late, "it committed after the cursor's snapshot");
    assert_eq!(world.rows(0).await, 2);

    sqlx::query(
        "update outbox.relay set settled = pg_current_snapshot(), target = pg_current_snapshot()",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let done = outbox::outgoing::empty_partition_ahead(&mut leader)
        .await
        .unwrap();
    assert!(done, "everything is settled");
    assert_eq!((world.rows(0).await, world.rows(3).await), (0, 2));
}

/// No number is skipped here: the ring is small and turns by rows.
#[tokio::test(flavor = "multi_thread")]
async fn under_constant_load_the_log_keeps_a_turn_of_rows_and_no_dead_ones() {
    const PARTITION: i64 = 256;
    let broker = Arc::new(Embedded::start().unwrap());
    let world = World::with_ring("smallring", broker, Some(8)).await;
    assert_eq!(outbox::partition_bits(&world.pool).await.unwrap(), 8);
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    let (mut n, mut most) = (0, 0);
    // Three and a half turns.
    for partition in 0..14 {
        for _ in 0..4 {
            let messages: Vec<_> = (n..n + PARTITION / 4)
                .map(|n| world.message("k", n))
                .collect();
            world.send(&messages).await;
            n += PARTITION / 4;
        }
        // Writers that leave the relay a second for each partition.
        let ahead = (partition + 2) & 3;
        testbed::until(SOON, "the partition ahead is empty", async || {
            (world.rows(ahead).await == 0).then_some(())
        })
        .await;
        most = most.max(world.count("select count(*) from outbox.log").await);
    }
    oracle.wait_for(usize::try_from(n).unwrap()).await;
    assert_eq!(oracle.numbers(), (0..n).collect::<Vec<_>>());
    assert!(
        (2 * PARTITION..=3 * PARTITION).contains(&most),
        "between two and three quarters of the ring are kept, not {most} rows"
    );
    let dead = "select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables
                where schemaname = 'outbox' and relname like 'log%'";
    assert_eq!(world.count(dead).await, 0);
    relay.stop().await;
}
