//! P3 and P7 around poison: what comes after a refused message of its key waits behind it, in
//! order, and nothing else does.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};

use outbox::outgoing::{Config, Status};
use sqlx::PgPool;

use crate::{
    scripted::{Script, scripted},
    world::{SOON, World},
};

/// An operator's wish.
async fn ask_for_replay(pool: &PgPool) {
    let sql =
        "update outbox.parked set replay_at = now(), replay_by = 'test' where class = 'poison'";
    sqlx::query(sql).execute(pool).await.unwrap();
}

async fn discard_head(pool: &PgPool, key: &str) {
    let mut tx = pool.begin().await.unwrap();
    let head: Option<i64> =
        sqlx::query_scalar("select head from outbox.blocked_key where key = $1 for update")
            .bind(key)
            .fetch_optional(&mut *tx)
            .await
            .unwrap()
            .flatten();
    let Some(head) = head else { return };
    for sql in [
        "delete from outbox.parked where seq = $1",
        "update outbox.blocked_key set head = null where head = $1",
    ] {
        sqlx::query(sql).bind(head).execute(&mut *tx).await.unwrap();
    }
    let sql = "delete from outbox.blocked_key b where head is null and not exists
               (select from outbox.parked p where p.topic = b.topic and p.key = b.key and p.class = 'blocked')";
    sqlx::query(sql).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn open(world: &World) {
    testbed::until(SOON, "no key is blocked", async || {
        (world.count("select count(*) from outbox.blocked_key").await == 0).then_some(())
    })
    .await;
}

/// Messages 0, 1, … of key "sick" of which the second is poison, and of key "well" in between.
async fn poisoned(name: &str) -> (World, std::sync::Arc<Script>) {
    let (world, script) = scripted(name).await;
    script.sicken(1);
    let messages: Vec<_> = (0..10)
        .flat_map(|n| [world.message("sick", n), world.message("well", 100 + n)])
        .collect();
    world.send(&messages).await;
    (world, script)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_key_waits_in_order_and_the_others_flow() {
    let (world, script) = poisoned("blocked").await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(11).await;
    assert_eq!(oracle.of_key("sick"), [0]);
    assert_eq!(oracle.of_key("well"), (100..110).collect::<Vec<_>>());
    world
        .wait_for_unsent(&[("blocked", 8), ("poison", 1)])
        .await;

    // A successor knows.
    relay.stop().await;
    let relay = world.relay(Config::default());
    world
        .send(&[world.message("sick", 10), world.message("well", 110)])
        .await;
    oracle.wait_for(12).await;
    world
        .wait_for_unsent(&[("blocked", 9), ("poison", 1)])
        .await;

    // Asked for too early, it is refused once more and all of them go on waiting.
    ask_for_replay(&world.pool).await;
    testbed::until(SOON, "a second attempt", async || {
        let sql = "select count(*) from outbox.parked
                   where class = 'poison' and attempts = 2 and replay_at is null";
        (world.count(sql).await == 1).then_some(())
    })
    .await;
    script.heal(1);
    ask_for_replay(&world.pool).await;
    oracle.wait_for(22).await;
    assert_eq!(
        oracle.of_key("sick"),
        (0..=10).collect::<Vec<_>>(),
        "in order"
    );
    open(&world).await;
    world.wait_for_unsent(&[]).await;

    world.send(&[world.message("sick", 11)]).await;
    oracle.wait_for(23).await;
    assert_eq!(oracle.of_key("sick").last(), Some(&11));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_head_releases_what_waits_behind_it() {
    let (world, script) = poisoned("discarded").await;
    // And among those that wait is another one.
    script.sicken(5);
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    world
        .wait_for_unsent(&[("blocked", 8), ("poison", 1)])
        .await;
    discard_head(&world.pool, "sick").await;
    world
        .wait_for_unsent(&[("blocked", 4), ("poison", 1)])
        .await;
    oracle.wait_for(14).await;
    assert_eq!(oracle.of_key("sick"), [0, 2, 3, 4], "up to the next");
    discard_head(&world.pool, "sick").await;
    oracle.wait_for(18).await;
    assert_eq!(oracle.of_key("sick"), [0, 2, 3, 4, 6, 7, 8, 9]);
    open(&world).await;
    world.wait_for_unsent(&[]).await;

    // Opened behind the leader's back, with nothing waiting: what comes next is sent.
    script.sicken(20);
    world.send(&[world.message("sick", 20)]).await;
    world.wait_for_unsent(&[("poison", 1)]).await;
    discard_head(&world.pool, "sick").await;
    world.send(&[world.message("sick", 21)]).await;
    oracle.wait_for(19).await;
    assert_eq!(oracle.of_key("sick").last(), Some(&21));
    world.wait_for_unsent(&[]).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_message_that_is_poison_blocks_what_is_held_behind_it() {
    let (world, script) = scripted("heldpoison").await;
    let relay = world.relay(Config::default());
    script.refuse_topic(true);
    script.sicken(1);
    let messages: Vec<_> = (0..4)
        .flat_map(|n| [world.message("sick", n), world.message("well", 100 + n)])
        .collect();
    world.send(&messages).await;
    world.wait_for_unsent(&[("held", 8)]).await;
    script.refuse_topic(false);
    let mut oracle = world.oracle();
    oracle.wait_for(5).await;
    world
        .wait_for_unsent(&[("blocked", 2), ("poison", 1)])
        .await;
    assert_eq!(oracle.of_key("sick"), [0]);
    assert_eq!(oracle.of_key("well"), [100, 101, 102, 103]);
    script.heal(1);
    ask_for_replay(&world.pool).await;
    oracle.wait_for(8).await;
    assert_eq!(oracle.of_key("sick"), [0, 1, 2, 3]);
    open(&world).await;
    relay.stop().await;
}

/// Followers are parked while heads are discarded and sent again: none may be lost, none stay
/// behind, none overtake.
#[tokio::test(flavor = "multi_thread")]
async fn operators_racing_the_leader_neither_lose_nor_reorder() {
    let (world, script) = scripted("races").await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    // Every fifth message is poison; those with an even number heal when asked for.
    let total = 60;
    let keys = 3;
    (0..total)
        .filter(|n| n % 5 == 0)
        .for_each(|n| script.sicken(n));
    let operator = {
        let (pool, script) = (world.pool.clone(), std::sync::Arc::clone(&script));
        tokio::spawn(async move {
            let (mut discarded, mut healed) = (0, HashSet::new());
            loop {
                let heads: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
                    "select b.key, p.seq, p.payload from outbox.blocked_key b
                     join outbox.parked p on p.seq = b.head where p.replay_at is null",
                )
                .fetch_all(&pool)
                .await
                .unwrap();
                for (key, _, payload) in heads {
                    let counted: crate::world::Counted = serde_json::from_slice(&payload).unwrap();
                    if counted.n % 2 == 0 {
                        script.heal(counted.n);
                        healed.insert(counted.n);
                        ask_for_replay(&pool).await;
                    } else {
                        discard_head(&pool, &key).await;
                        discarded += 1;
                    }
                }
                if (discarded, healed.len()) == (6, 6) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for n in 0..total {
        world
            .send(&[world.message(&format!("k{}", n % keys), n)])
            .await;
    }
    tokio::time::timeout(SOON * 3, operator)
        .await
        .unwrap()
        .unwrap();
    let wanted: Vec<_> = (0..total).filter(|n| n % 5 != 0 || n % 2 == 0).collect();
    oracle.wait_for(wanted.len()).await;
    let mut of_key: HashMap<i64, Vec<i64>> = HashMap::new();
    for n in &wanted {
        of_key.entry(n % keys).or_default().push(*n);
    }
    let mut seen = oracle.numbers();
    seen.sort_unstable();
    assert_eq!(seen, wanted, "nothing lost");
    open(&world).await;
    world.wait_for_unsent(&[]).await;
    // Those in flight when an earlier one was refused may come first; behind a blocked key none may.
    assert!(
        script.refusals.load(Ordering::SeqCst) >= 12,
        "the fault fired"
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_sends_nothing_and_keeps_its_lease() {
    let world = World::embedded("paused").await;
    let pause = async |by: Option<&str>| {
        let sql = "update outbox.relay set paused_by = $1,
                   paused_at = case when $1::text is null then null else now() end";
        sqlx::query(sql)
            .bind(by)
            .execute(&world.pool)
            .await
            .unwrap();
    };
    let config = Config {
        lease: Duration::from_millis(600),
        ..Config::default()
    };
    let mut relay = world.relay(config);
    relay.leading().await;
    pause(Some("test")).await;
    let paused = relay.status.wait_for(|status| *status == Status::Paused);
    tokio::time::timeout(SOON, paused).await.unwrap().unwrap();
    world.send(&[world.message("k", 1)]).await;
    let renewed = "select count(*) from outbox.relay where lease_until > clock_timestamp()
                   and epoch = 1 and written_at > paused_at + interval '1 second'";
    testbed::until(SOON, "the lease is renewed", async || {
        (world.count(renewed).await == 1).then_some(())
    })
    .await;
    let mut oracle = world.oracle();
    oracle.poll().await;
    assert_eq!(oracle.seen.len(), 0);
    pause(None).await;
    oracle.wait_for(1).await;
    let leading = relay.status.wait_for(|status| *status == Status::Leading);
    tokio::time::timeout(SOON, leading).await.unwrap().unwrap();
    relay.stop().await;
}
