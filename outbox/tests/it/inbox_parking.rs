//! The parking protocol on the way in: what cannot be handled keeps what follows on its key, in order,
//! whoever replays, discards or dies in between.

use std::{sync::Arc, time::Duration};

use outbox::incoming::{
    OnPoison,
    parked::{self, Class, Discard, Filter, Replay},
};
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    reading::{Effects, OtherGroup, Reading, config},
    world::{SOON, World},
};

/// With numbers of a key in the order in which they took effect.
async fn world(name: &str) -> World {
    let world = World::embedded(name).await;
    sqlx::query("alter table effect add at bigserial")
        .execute(&world.pool)
        .await
        .unwrap();
    world
}

impl World {
    async fn in_order(&self) -> Vec<i64> {
        let sql = "select n from effect order by at";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    async fn parked(&self) -> Vec<parked::Parked> {
        parked::list(&self.pool, &Filter::default(), 0, 10_000)
            .await
            .unwrap()
    }

    /// Waits until exactly these classes are parked, in this order, and nothing is asked for.
    async fn wait_for_parked(&self, classes: &[Class]) -> Vec<parked::Parked> {
        testbed::until(SOON, &format!("parked: {classes:?}"), async || {
            let parked = self.parked().await;
            let same = parked.iter().map(|p| p.class).eq(classes.iter().copied());
            let settled = parked.iter().all(|p| p.replay.is_none());
            (same && settled).then_some(parked)
        })
        .await
    }

    async fn blocked_keys(&self) -> i64 {
        self.count("select count(*) from outbox.inbox_blocked")
            .await
    }

    /// Waits until so many sessions wait for a lock in a statement like this.
    async fn wait_for_waiting(&self, like: &str, sessions: i64) {
        testbed::until(SOON, &format!("{sessions} waiting in {like}"), async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock' and query like $1",
            )
            .bind(format!("%{like}%"))
            .fetch_one(&self.pool)
            .await
            .unwrap();
            (waiting >= sessions).then_some(())
        })
        .await;
    }

    async fn request(&self, id: i64) {
        let requested = parked::request_replay(&self.pool, id, "ann").await.unwrap();
        assert_eq!(requested, Replay::Requested);
    }

    async fn produce_all(&self, key: &str, numbers: impl IntoIterator<Item = i64>) {
        let messages: Vec<_> = numbers.into_iter().map(|n| self.message(key, n)).collect();
        self.produce_each(&messages).await;
    }

    async fn is_clean(&self) {
        assert_eq!(self.parked().await, []);
        testbed::until(SOON, "no key is blocked", async || {
            (self.blocked_keys().await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_parked_message_on_its_key_waits_and_is_replayed_in_order() {
    let world = world("follow").await;
    let effects = Effects::refusing([2]);
    // One batch, in whose redo the key is blocked.
    world.produce_all("k", [1, 2, 3]).await;
    world.produce_all("other", [4]).await;
    world.produce_all("", [5]).await;
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    world.wait_for_effects(&[1, 4, 5]).await;
    // A later batch, with followers in the middle of it.
    world.produce_all("k", [6]).await;
    world.produce_all("other", [7]).await;
    world.wait_for_effects(&[1, 4, 5, 7]).await;
    use Class::{Blocked, Refused};
    let waiting = world.wait_for_parked(&[Refused, Blocked, Blocked]).await;
    assert_eq!(effects.times(3) + effects.times(6), 0, "never tried");

    let (head, follower) = (waiting[0].id, waiting[1].id);
    let behind = parked::request_replay(&world.pool, follower, "ann").await;
    assert_eq!(behind.unwrap(), Replay::BehindHead { head });
    let nothing = parked::request_replay(&world.pool, 99_999, "ann").await;
    assert_eq!(nothing.unwrap(), Replay::NotParked);

    effects.accept(2);
    world.request(head).await;
    world.wait_for_effects(&[1, 2, 3, 4, 5, 6, 7]).await;
    let of_key: Vec<_> = world.in_order().await;
    let of_key: Vec<_> = of_key
        .into_iter()
        .filter(|n| [1, 2, 3, 6].contains(n))
        .collect();
    assert_eq!(of_key, [1, 2, 3, 6]);
    world.is_clean().await;
    // The key is open.
    world.produce_all("k", [8]).await;
    world.wait_for_effects(&[1, 2, 3, 4, 5, 6, 7, 8]).await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_after_a_parked_one_flow_on() {
    let world = world("skip").await;
    let effects = Effects::refusing([2]);
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::SkipMessage));
    world.produce_all("k", [1, 2, 3]).await;
    world.wait_for_effects(&[1, 3]).await;
    let waiting = world.wait_for_parked(&[Class::Refused]).await;
    assert_eq!(world.blocked_keys().await, 0);
    effects.accept(2);
    world.request(waiting[0].id).await;
    world.wait_for_effects(&[1, 2, 3]).await;
    world.is_clean().await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_stays_parked_and_a_follower_that_fails_is_the_new_head() {
    let world = world("fails_again").await;
    let effects = Effects::refusing([1, 2]);
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    world.produce_all("k", [1, 2, 3]).await;
    use Class::{Blocked, Exhausted, Refused};
    let waiting = world.wait_for_parked(&[Refused, Blocked, Blocked]).await;
    assert_eq!((waiting[0].attempts, waiting[1].attempts), (1, 0));

    let before = effects.times(1);
    world.request(waiting[0].id).await;
    effects.wait_until_entered(1, before + 1).await;
    let again = world.wait_for_parked(&[Refused, Blocked, Blocked]).await;
    assert_eq!((again[0].id, again[0].attempts), (waiting[0].id, 2));

    effects.accept(1);
    world.request(waiting[0].id).await;
    let rest = world.wait_for_parked(&[Refused, Blocked]).await;
    assert_eq!((rest[0].id, rest[0].attempts), (waiting[1].id, 1));
    let behind = parked::request_replay(&world.pool, waiting[2].id, "ann").await;
    let head = waiting[1].id;
    assert_eq!(behind.unwrap(), Replay::BehindHead { head });

    // A transient failure has the usual budget; the rest of the partition does not wait for it.
    effects.accept(2);
    effects.flaky.lock().unwrap().insert(2, u32::MAX);
    world.request(head).await;
    world.wait_for_parked(&[Exhausted, Blocked]).await;
    effects.flaky.lock().unwrap().insert(2, 2);
    world.request(head).await;
    world.wait_for_effects(&[1, 2, 3]).await;
    assert_eq!(world.in_order().await, [1, 2, 3]);
    world.is_clean().await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_a_head_has_its_followers_handled_and_discarding_the_last_opens_the_key() {
    let world = world("discard").await;
    let effects = Effects::refusing([1, 5]);
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    world.produce_all("k", [1, 2, 3, 4]).await;
    use Class::{Blocked, Refused};
    let waiting = world
        .wait_for_parked(&[Refused, Blocked, Blocked, Blocked])
        .await;
    let discard = async |id: i64| parked::discard(&world.pool, id, "ann").await.unwrap();
    // A follower goes without the others noticing.
    assert_eq!(discard(waiting[2].id).await, Discard::Discarded);
    assert_eq!(discard(waiting[2].id).await, Discard::NotParked);
    world.wait_for_parked(&[Refused, Blocked, Blocked]).await;
    assert_eq!(discard(waiting[0].id).await, Discard::Discarded);
    world.wait_for_effects(&[2, 4]).await;
    world.is_clean().await;
    assert_eq!(world.in_order().await, [2, 4]);
    // Alone.
    world.produce_all("k", [5]).await;
    let waiting = world.wait_for_parked(&[Refused]).await;
    assert_eq!(world.blocked_keys().await, 1);
    assert_eq!(discard(waiting[0].id).await, Discard::Discarded);
    world.is_clean().await;
    world.produce_all("k", [6]).await;
    world.wait_for_effects(&[2, 4, 6]).await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_message_waits_for_the_replay_of_the_last_parked_one_before_it() {
    let world = world("replay_race").await;
    let effects = Effects::refusing([1]);
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    world.produce_all("k", [1]).await;
    let waiting = world.wait_for_parked(&[Class::Refused]).await;
    effects.accept(1);
    effects.hold(1);
    let tries = effects.times(1);
    world.request(waiting[0].id).await;
    effects.wait_until_entered(1, tries + 1).await;
    world.produce_all("k", [2]).await;
    // It may neither be handled before 1, nor be parked behind a 1 that is gone.
    world.wait_for_waiting("from outbox.inbox_blocked", 1).await;
    effects.let_go(1);
    world.wait_for_effects(&[1, 2]).await;
    assert_eq!(world.in_order().await, [1, 2]);
    world.is_clean().await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_parked_while_its_head_is_discarded_is_not_forgotten() {
    let world = world("discard_race").await;
    let effects = Effects::default();
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    let mut expected = Vec::new();
    // Both orders at the lock, twice.
    for round in 0..4 {
        let (head, follower) = (round * 10, round * 10 + 1);
        effects.refuses.lock().unwrap().insert(head);
        world.produce_all("k", [head]).await;
        let waiting = world.wait_for_parked(&[Class::Refused]).await;
        let mut gate = world.pool.begin().await.unwrap();
        sqlx::query("select from outbox.inbox_blocked for update")
            .execute(&mut *gate)
            .await
            .unwrap();
        let (pool, id) = (world.pool.clone(), waiting[0].id);
        let discard = async move { parked::discard(&pool, id, "ann").await.unwrap() };
        let discarding;
        if round % 2 == 0 {
            discarding = tokio::spawn(discard);
            world.wait_for_waiting("from outbox.inbox_blocked", 1).await;
            world.produce_all("k", [follower]).await;
        } else {
            world.produce_all("k", [follower]).await;
            world.wait_for_waiting("from outbox.inbox_blocked", 1).await;
            discarding = tokio::spawn(discard);
        }
        world.wait_for_waiting("from outbox.inbox_blocked", 2).await;
        gate.commit().await.unwrap();
        assert_eq!(discarding.await.unwrap(), Discard::Discarded);
        expected.push(follower);
        world.wait_for_effects(&expected).await;
        world.is_clean().await;
    }
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_under_way_cannot_be_discarded_and_one_that_waits_can() {
    let world = world("under_way").await;
    let effects = Effects::refusing([1]);
    let mut patient = config(OnPoison::BlockKey);
    patient.attempts = u32::MAX;
    let reading = Reading::with(&world, effects.clone(), patient);
    world.produce_all("k", [1, 2]).await;
    let waiting = world
        .wait_for_parked(&[Class::Refused, Class::Blocked])
        .await;
    effects.accept(1);
    effects.hold(1);
    let tries = effects.times(1);
    world.request(waiting[0].id).await;
    effects.wait_until_entered(1, tries + 1).await;
    let (pool, id) = (world.pool.clone(), waiting[0].id);
    let discarding = tokio::spawn(async move { parked::discard(&pool, id, "ann").await.unwrap() });
    world.wait_for_waiting("from outbox.inbox_blocked", 1).await;
    effects.let_go(1);
    assert_eq!(discarding.await.unwrap(), Discard::NotParked);
    world.wait_for_effects(&[1, 2]).await;
    world.is_clean().await;

    // Between two attempts of a replay that fails for now.
    effects.refuses.lock().unwrap().insert(3);
    world.produce_all("k", [3]).await;
    let waiting = world.wait_for_parked(&[Class::Refused]).await;
    effects.accept(3);
    effects.flaky.lock().unwrap().insert(3, u32::MAX);
    let tries = effects.times(3);
    world.request(waiting[0].id).await;
    effects.wait_until_entered(3, tries + 2).await;
    let discarded = parked::discard(&world.pool, waiting[0].id, "ann").await;
    assert_eq!(discarded.unwrap(), Discard::Discarded);
    world.is_clean().await;
    // The replayer has noticed: it takes up the next.
    effects.refuses.lock().unwrap().insert(4);
    world.produce_all("k", [4]).await;
    let waiting = world.wait_for_parked(&[Class::Refused]).await;
    effects.accept(4);
    world.request(waiting[0].id).await;
    world.wait_for_effects(&[1, 2, 4]).await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_two_consumers_cannot_handle_is_parked_once() {
    let world = world("zombie").await;
    let effects = Effects::refusing([1, 3]);
    effects.hold(1);
    world.produce_all("k", [1, 2]).await;
    world.produce_all("other", [3, 4]).await;
    let owner = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    effects.wait_until_entered(1, 1).await;
    // As after a rebalance that the first has not noticed.
    let other = Arc::new(OtherGroup(Arc::clone(&world.broker)));
    let zombie = Reading::from(&world, other, effects.clone(), config(OnPoison::BlockKey));
    world.wait_for_waiting("insert into outbox.inbox", 1).await;
    effects.let_go(1);
    let parked = testbed::until(SOON, "all parked", async || {
        let parked = world.parked().await;
        (parked.len() >= 4).then_some(parked)
    })
    .await;
    // Both go through the whole topic.
    world.produce_all("third", [5]).await;
    world.wait_for_effects(&[5]).await;
    assert_eq!(world.parked().await.len(), 4);
    let heads: Vec<_> = parked
        .iter()
        .filter(|p| p.class == Class::Refused)
        .collect();
    assert_eq!(heads.len(), 2, "{parked:?}");
    effects.refuses.lock().unwrap().clear();
    for head in heads {
        world.request(head.id).await;
    }
    world.wait_for_effects(&[1, 2, 3, 4, 5]).await;
    world.is_clean().await;
    let order = world.in_order().await;
    let place = |n: i64| order.iter().position(|m| *m == n);
    assert!(place(1) < place(2) && place(3) < place(4), "{order:?}");
    owner.stop().await;
    zombie.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_consumer_parks_while_it_is_waited_for_blocks_its_key_here_too() {
    let world = world("other_parks").await;
    let sick = world.message("k", 1);
    // As any consumer does when it starts.
    sqlx::query("select outbox.consumer_id($1)")
        .bind(world.reader())
        .execute(&world.pool)
        .await
        .unwrap();
    // A former owner of the partition, in the middle of parking.
    let mut former = world.pool.begin().await.unwrap();
    for sql in [
        "insert into outbox.inbox values (outbox.consumer_id($1), $2)",
        "insert into outbox.inbox_blocked values ($1, $3, 'k')",
        "insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\", key,
                                          headers, class, reason, attempts)
         values ($1, $2, $3, 0, 0, 'k', '[]', 'refused', 'scripted', 1)",
    ] {
        let sql = format!("with given as (select $1::text, $2::uuid, $3::text) {sql}");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(world.reader())
            .bind(sick.id)
            .bind(&world.topic)
            .execute(&mut *former)
            .await
            .unwrap();
    }
    world.produce(&sick, 1).await;
    world.produce_all("k", [2]).await;
    world.produce_all("other", [3]).await;
    let reading = Reading::with(&world, Effects::default(), config(OnPoison::BlockKey));
    world.wait_for_effects(&[3]).await;
    world.wait_for_waiting("insert into outbox.inbox", 1).await;
    former.commit().await.unwrap();
    world
        .wait_for_parked(&[Class::Refused, Class::Blocked])
        .await;
    assert_eq!(world.effects().await, [3]);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_dies_is_taken_up_again_by_whoever_is_there() {
    let world = world("dies").await;
    let effects = Effects::refusing([1]);
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    world.produce_all("k", [1, 2, 3]).await;
    use Class::{Blocked, Refused};
    let waiting = world.wait_for_parked(&[Refused, Blocked, Blocked]).await;
    effects.accept(1);
    let kill = async || {
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'reader'",
        )
        .execute(&world.pool)
        .await
        .unwrap();
    };
    // In the middle of the head's, and of the first follower's.
    let before = effects.times(1);
    effects.hold(1);
    effects.hold(2);
    world.request(waiting[0].id).await;
    for (n, before) in [(1, before), (2, 0)] {
        effects.wait_until_entered(n, before + 1).await;
        kill().await;
        effects.let_go(n);
        effects.wait_until_entered(n, before + 2).await;
    }
    world.wait_for_effects(&[1, 2, 3]).await;
    assert_eq!(world.in_order().await, [1, 2, 3]);
    world.is_clean().await;

    // Asked for while no consumer runs.
    effects.refuses.lock().unwrap().insert(4);
    world.produce_all("k", [4, 5]).await;
    let waiting = world.wait_for_parked(&[Refused, Blocked]).await;
    reading.stop().await;
    effects.accept(4);
    world.request(waiting[0].id).await;
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    world.wait_for_effects(&[1, 2, 3, 4, 5]).await;
    assert_eq!(world.in_order().await, [1, 2, 3, 4, 5]);
    world.is_clean().await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_of_killed_sessions_each_message_takes_effect_once_and_in_its_keys_order() {
    let world = world("parking_storm").await;
    // Every seventh cannot be handled at first.
    let effects = Effects::refusing((0..120).filter(|n| n % 7 == 3));
    let over = CancellationToken::new();
    let storm = {
        let (options, over) = (world.database.options().unwrap(), over.clone());
        tokio::spawn(async move {
            let connect = <PgConnection as Connection>::connect_with(&options);
            let mut connection = connect.await.unwrap();
            let mut killed = 0;
            // One at a time and not for ever, or on a slow machine nothing ever gets done.
            let pause = || tokio::time::sleep(Duration::from_millis(30));
            while killed < 40 && over.run_until_cancelled(pause()).await.is_some() {
                killed += sqlx::query(
                    "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and application_name = 'reader'
                     order by state <> 'idle' desc
                     limit 1",
                )
                .execute(&mut connection)
                .await
                .unwrap()
                .rows_affected();
            }
            killed
        })
    };
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    let messages: Vec<_> = (0..120)
        .map(|n| world.message(&format!("k{}", n % 3), n))
        .collect();
    world.produce_each(&messages[..60]).await;
    // Replays and new messages at the same time, of every key.
    effects.refuses.lock().unwrap().clear();
    for some in messages[60..].chunks(10) {
        world.produce_each(some).await;
        let all = Filter::default();
        parked::request_replay_all(&world.pool, &all, "ann")
            .await
            .unwrap();
    }
    testbed::until(SOON, "all effects", async || {
        let all = Filter::default();
        parked::request_replay_all(&world.pool, &all, "ann")
            .await
            .unwrap();
        (world.effects().await.len() >= 120).then_some(())
    })
    .await;
    over.cancel();
    assert!(storm.await.unwrap() > 2, "the fault fired");
    assert_eq!(world.effects().await, (0..120).collect::<Vec<_>>());
    let order = world.in_order().await;
    for key in 0..3 {
        let of_key: Vec<_> = order.iter().filter(|n| **n % 3 == key).collect();
        assert!(of_key.is_sorted(), "k{key}: {of_key:?}");
    }
    world.is_clean().await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_record_blocks_its_key_and_is_shown_as_it_came() {
    let world = world("unreadable").await;
    let reading = Reading::with(&world, Effects::default(), config(OnPoison::BlockKey));
    let mut strange = world.message("k", 1);
    // PostgreSQL's text cannot hold it.
    strange.key = "k\0".to_owned();
    world.produce(&strange, 1).await;
    world.wait_for_parked(&[Class::Unreadable]).await;
    world.produce(&world.message("k\0", 2), 1).await;
    let waiting = world
        .wait_for_parked(&[Class::Unreadable, Class::Blocked])
        .await;
    let show = async |id, with_payload| {
        let shown = parked::show(&world.pool, id, with_payload).await;
        shown.unwrap()
    };
    let shown = show(waiting[0].id, true).await.unwrap();
    assert_eq!(shown.parked.key.as_deref(), Some(&b"k\0"[..]));
    let payload = strange.payload.clone().unwrap();
    assert_eq!(shown.bytes, Some(payload.len() as i32));
    assert_eq!(shown.payload, Some(payload.into()));
    let id = parked::Header {
        name: "ce_id".to_owned(),
        value: Some(strange.id.to_string().into_bytes().into()),
    };
    assert!(shown.headers.contains(&id));
    assert_eq!(shown.head, None);
    assert_eq!(show(99_999, true).await, None);
    // Another consumer's is no head of ours.
    sqlx::query(
        "insert into outbox.inbox_parked (id, consumer, message_id, topic, partition, \"offset\", key, headers,
                                          class, reason, attempts)
         overriding system value
         select -1, 'another', message_id, topic, partition, \"offset\", key, headers, class, reason, attempts
         from outbox.inbox_parked where id = $1",
    )
    .bind(waiting[0].id)
    .execute(&world.pool)
    .await
    .unwrap();
    let shown = show(waiting[1].id, false).await.unwrap();
    assert_eq!((shown.head, shown.payload), (Some(waiting[0].id), None));
    sqlx::query("delete from outbox.inbox_parked where id = -1")
        .execute(&world.pool)
        .await
        .unwrap();
    // Still unreadable when its turn comes.
    world.request(waiting[0].id).await;
    let again = world
        .wait_for_parked(&[Class::Unreadable, Class::Blocked])
        .await;
    assert_eq!(again[0].reason, waiting[0].reason);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_messages_are_listed_in_pages_and_worked_on_by_filter() {
    let world = world("pages").await;
    let effects = Effects::refusing([1, 11, 21]);
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    for key in 0..3 {
        let first = key * 10 + 1;
        world
            .produce_all(&format!("k{key}"), first..first + 3)
            .await;
    }
    testbed::until(SOON, "nine parked", async || {
        (world.parked().await.len() == 9).then_some(())
    })
    .await;
    let all = Filter::default();
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = parked::list(&world.pool, &all, after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page);
    }
    let ids = |parked: Vec<parked::Parked>| parked.iter().map(|p| p.id).collect::<Vec<_>>();
    assert_eq!(ids(seen), ids(world.parked().await));
    let matching = async |filter: &Filter| {
        let listed = parked::list(&world.pool, filter, 0, 99)
            .await
            .unwrap()
            .len();
        let counted = parked::count(&world.pool, filter).await.unwrap();
        assert_eq!(usize::try_from(counted).unwrap(), listed);
        listed
    };
    let key = |key: &str| Filter {
        key: Some(key.as_bytes().to_vec()),
        ..Filter::default()
    };
    assert_eq!(matching(&key("k1")).await, 3);
    let heads = Filter {
        class: Some(Class::Refused),
        consumer: Some(world.reader()),
        topic: Some(world.topic.clone()),
        ..Filter::default()
    };
    assert_eq!(matching(&heads).await, 3);
    let nobody = Filter {
        consumer: Some("nobody".to_owned()),
        ..Filter::default()
    };
    assert_eq!(matching(&nobody).await, 0);

    // All of a key go, none of them handled on the way.
    let discarded = parked::discard_all(&world.pool, &key("k0"), "ann").await;
    assert_eq!(discarded.unwrap(), 3);
    // Only heads can be asked for.
    let blocked = Filter {
        class: Some(Class::Blocked),
        ..Filter::default()
    };
    let requested = parked::request_replay_all(&world.pool, &blocked, "ann").await;
    assert_eq!(requested.unwrap(), 0);
    effects.refuses.lock().unwrap().clear();
    let requested = parked::request_replay_all(&world.pool, &heads, "ann").await;
    assert_eq!(requested.unwrap(), 2);
    world.wait_for_effects(&[11, 12, 13, 21, 22, 23]).await;
    world.is_clean().await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_waits_for_something_does_not_stop_the_partition() {
    let world = world("slow_replay").await;
    let effects = Effects::refusing([1]);
    let mut patient = config(OnPoison::BlockKey);
    patient.attempts = u32::MAX;
    patient.backoff = Duration::from_millis(500);
    patient.backoff_max = Duration::from_secs(60);
    let reading = Reading::with(&world, effects.clone(), patient);
    world.produce_all("k", [1]).await;
    let waiting = world.wait_for_parked(&[Class::Refused]).await;
    effects.accept(1);
    effects.flaky.lock().unwrap().insert(1, u32::MAX);
    world.request(waiting[0].id).await;
    effects.wait_until_entered(1, 4).await;
    world.produce_all("k", [2]).await;
    world.produce_all("", 3..10).await;
    for key in ["a", "b", "c", "d", "e"] {
        world.produce_all(key, [i64::from(key.as_bytes()[0])]).await;
    }
    let mut expected: Vec<_> = (3..10).collect();
    expected.extend(97..102);
    world.wait_for_effects(&expected).await;
    let discarded = parked::discard(&world.pool, waiting[0].id, "ann").await;
    assert_eq!(discarded.unwrap(), Discard::Discarded);
    reading.stop().await;
}

/// Text that does not get shorter when it is compressed, as index entries are.
fn long_key() -> String {
    let words =
        std::iter::repeat_with(|| uuid::Uuid::now_v7().simple().to_string()[16..].repeat(2));
    words.take(500).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_very_long_key_is_parked_and_its_key_waits() {
    let world = world("long_key").await;
    let effects = Effects::refusing([1]);
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    let (key, other) = (long_key(), long_key());
    assert_eq!(key.len(), 16_000);
    world.produce_all(&key, [1, 2]).await;
    world.produce_all(&other, [3]).await;
    world.wait_for_effects(&[3]).await;
    use Class::{Blocked, Refused};
    let waiting = world.wait_for_parked(&[Refused, Blocked]).await;
    assert_eq!(waiting[0].key.as_deref(), Some(key.as_bytes()));
    // Later, when the key is blocked already.
    world.produce_all(&key, [4]).await;
    world.wait_for_parked(&[Refused, Blocked, Blocked]).await;
    effects.accept(1);
    world.request(waiting[0].id).await;
    world.wait_for_effects(&[1, 2, 3, 4]).await;
    let in_order = world.in_order().await;
    let of_key: Vec<_> = in_order.into_iter().filter(|n| *n != 3).collect();
    assert_eq!(of_key, [1, 2, 4]);
    world.is_clean().await;
    reading.stop().await;
}

/// Whoever writes to the log without `enqueue` may choose any key.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_log_with_a_very_long_key_is_parked_too() {
    let world = world("long_key_out").await;
    let parked = "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
                  select n, gen_random_uuid(), 't', $1, 'k', now(), 'poison', 'r' from generate_series(1, 2) as n";
    let blocked = "insert into outbox.blocked_key (topic, key, head) values ('t', $1, 1)";
    for sql in [parked, blocked] {
        let insert = sqlx::query(sql).bind(long_key());
        insert.execute(&world.pool).await.unwrap();
    }
}

/// No index entry holds text that a sender chooses, in whole: over 2,704 bytes it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn no_index_holds_a_key() {
    let world = world("indexed").await;
    let sql = "select count(*) from pg_index
               join pg_class on pg_class.oid = indrelid
               join pg_attribute on attrelid = indrelid and attnum = any (indkey)
               where relnamespace = 'outbox'::regnamespace
                 and attname in ('key', 'payload', 'headers', 'reason', 'kind')";
    assert_eq!(world.count(sql).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_message_in_a_crowd_costs_some_transactions_and_not_one_for_each_neighbour() {
    let world = world("crowd").await;
    let effects = Effects::refusing([250]);
    let numbers: Vec<_> = (0..500).collect();
    // Of different keys, so that nobody follows.
    let messages: Vec<_> = numbers
        .iter()
        .map(|n| world.message(&format!("k{}", n % 50), *n))
        .collect();
    world.produce_each(&messages).await;
    let before = world.commits().await;
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::SkipMessage));
    let healthy: Vec<_> = numbers.into_iter().filter(|n| *n != 250).collect();
    world.wait_for_effects(&healthy).await;
    world.wait_for_parked(&[Class::Refused]).await;
    reading.stop().await;
    let most = healthy.iter().map(|n| effects.times(*n)).max().unwrap();
    assert!(most <= 12, "halved, not tried with each other: {most}");
    let transactions = world.batches_since(before).await;
    assert!(
        transactions < 100,
        "{transactions} transactions for 500 messages"
    );
}

impl World {
    async fn commits(&self) -> i64 {
        self.count("select count(distinct handled_at) from outbox.inbox")
            .await
    }

    /// Each transaction has its own time.
    async fn batches_since(&self, before: i64) -> i64 {
        self.commits().await - before
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_and_unasked_messages_in_a_crowd_have_nobody_done_again() {
    let world = world("split_off").await;
    let effects = Effects {
        kinds: vec!["test.counted.v1"],
        ..Effects::default()
    };
    let mut messages: Vec<_> = (0..200).map(|n| world.message("k", n)).collect();
    let (mut strange, mut newer) = (world.message("k", 1_000), world.message("other", 1_001));
    strange.kind = "test.moved.v1".to_owned();
    newer.kind = "test.counted.v2".to_owned();
    messages.insert(100, strange);
    messages.insert(150, newer);
    world.produce_each(&messages).await;
    let reading = Reading::with(&world, effects.clone(), config(OnPoison::BlockKey));
    world.wait_for_effects(&(0..200).collect::<Vec<_>>()).await;
    let parked = world.wait_for_parked(&[Class::Refused]).await;
    assert_eq!(parked[0].key.as_deref(), Some(&b"other"[..]));
    for part in ["v2", "test.counted.v1"] {
        assert!(parked[0].reason.contains(part), "{}", parked[0].reason);
    }
    assert_eq!(world.in_order().await, (0..200).collect::<Vec<_>>());
    for n in 0..200 {
        assert_eq!(effects.times(n), 1, "{n}");
    }
    assert_eq!(effects.times(1_000) + effects.times(1_001), 0);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_consumer_finishes_what_is_under_way_and_begins_nothing() {
    let world = world("dropped").await;
    let first = Effects::default();
    first.hold(0);
    world.produce_all("k", 0..50).await;
    let one_by_one = || outbox::incoming::Config {
        batch: 1,
        ..config(OnPoison::BlockKey)
    };
    let reading = Reading::with(&world, first.clone(), one_by_one());
    first.wait_until_entered(0, 1).await;
    reading.drop_it().await;
    first.let_go(0);
    let second = Effects::default();
    let reading = Reading::with(&world, second.clone(), one_by_one());
    world.wait_for_effects(&(0..50).collect::<Vec<_>>()).await;
    let begun: Vec<_> = (1..50).filter(|n| first.times(*n) > 0).collect();
    assert_eq!(begun, Vec::<i64>::new());
    reading.stop().await;
}
