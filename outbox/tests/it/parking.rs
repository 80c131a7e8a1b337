//! P7 on the way out: one sick message or topic stops no other, and an outage parks nothing.

use std::sync::atomic::Ordering;

use outbox::{Message, broker::Topic, outgoing::Config};

use crate::{
    scripted::scripted,
    world::{SOON, World, header},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_alone_is_parked_and_its_neighbours_in_the_batch_are_sent() {
    let (world, script) = scripted("poison").await;
    world.set_policy("skip-message").await;
    [30, 31, 70]
        .into_iter()
        .for_each(|sick| script.sicken(sick));
    let messages: Vec<_> = (0..100).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    oracle.wait_for(97).await;
    let healthy: Vec<_> = (0..100).filter(|n| ![30, 31, 70].contains(n)).collect();
    assert_eq!(oracle.numbers(), healthy, "in order");
    assert!(
        script.refusals.load(Ordering::SeqCst) >= 6,
        "the fault fired"
    );
    let parked: Vec<(Vec<u8>, String, String)> =
        sqlx::query_as("select payload, class, reason from outbox.parked order by seq")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    let row = |n: i64| {
        (
            format!(r#"{{"n":{n}}}"#).into_bytes(),
            "poison".into(),
            "scripted".into(),
        )
    };
    assert_eq!(parked, [row(30), row(31), row(70)]);

    // The cursor moved past them: a successor does not meet them again.
    relay.stop().await;
    let before = script.refusals.load(Ordering::SeqCst);
    let relay = world.relay(Config::default());
    world.send(&[world.message("k", 100)]).await;
    oracle.wait_for(98).await;
    assert_eq!(script.refusals.load(Ordering::SeqCst), before);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_parks_nothing_and_loses_nothing() {
    let (world, script) = scripted("outage").await;
    let messages: Vec<_> = (0..50).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    let lease = std::time::Duration::from_millis(400);
    // Long enough that the pauses between producers grow beyond the lease.
    script.outage.store(true, Ordering::SeqCst);
    let relay = world.relay(Config {
        lease,
        ..Config::default()
    });
    testbed::until(
        SOON,
        "seven producers given up, and two in reserve",
        async || (script.producers.load(Ordering::SeqCst) > 9).then_some(()),
    )
    .await;
    let epoch = world.count("select epoch from outbox.relay").await;
    script.outage.store(false, Ordering::SeqCst);
    let mut oracle = world.oracle();
    oracle.wait_for(50).await;
    assert_eq!(oracle.numbers(), (0..50).collect::<Vec<_>>());
    assert_eq!(epoch, 1, "the leader kept its lease");
    assert_eq!(world.count("select count(*) from outbox.parked").await, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_held_while_others_flow_and_sent_in_order_when_it_appears() {
    let world = World::kafka("held").await;
    let missing = format!("{}.missing", world.topic);
    let never = format!("{}.never", world.topic);
    let lost = |topic: &String, n| {
        let mut message = world.message("k", n);
        message.topic.clone_from(topic);
        message
    };
    let relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    // A topic that never comes has more messages waiting than are tried at once.
    let hopeless: Vec<_> = (0..30).map(|n| lost(&never, n)).collect();
    world.send(&hopeless).await;
    world.send(&[lost(&missing, 1), lost(&missing, 2)]).await;
    let held = async |wanted: i64| {
        testbed::until(SOON, &format!("{wanted} messages are held"), async || {
            (world
                .count("select count(*) from outbox.parked where class = 'held'")
                .await
                == wanted)
                .then_some(())
        })
        .await;
    };
    held(32).await;
    // While they are held the others flow as if nothing were.
    let before = std::time::Instant::now();
    for n in 0..100 {
        world
            .send(&[world.message("k", n), lost(&missing, 3 + n)])
            .await;
    }
    oracle.wait_for(100).await;
    assert!(
        before.elapsed() < std::time::Duration::from_secs(4),
        "{:?}",
        before.elapsed()
    );

    world
        .broker
        .ensure_topics(&[Topic::new(missing.clone(), 1)])
        .await
        .unwrap();
    let mut healed = crate::world::Oracle::new(&*world.broker, &missing);
    world.send(&[lost(&missing, 103)]).await;
    healed.wait_for(103).await;
    assert_eq!(healed.numbers(), (1..=103).collect::<Vec<_>>(), "in order");
    held(30).await;
    // Held no longer: what comes now is not parked first.
    world.send(&[lost(&missing, 104)]).await;
    healed.wait_for(104).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_answers_nothing_is_held_while_others_flow() {
    let (world, script) = scripted("silent").await;
    let silent = format!("{}.silent", world.topic);
    let topics = [Topic::new(silent.clone(), 1)];
    world.broker.ensure_topics(&topics).await.unwrap();
    script.silence(Some(&silent));
    let lost = |n| {
        let mut message = world.message("k", n);
        message.topic.clone_from(&silent);
        message
    };
    let relay = world.relay(Config {
        max_in_flight: 100,
        ..Config::default()
    });
    let mut oracle = world.oracle();
    world.send(&[lost(0)]).await;
    world.send(&[world.message("k", 0)]).await;
    oracle.wait_for(1).await;
    // More than may be on its way: nothing behind it moves until the silent one is out of the way.
    testbed::until(SOON, "the silence is longer than one moment", async || {
        let late = "select clock_timestamp() > min(created_at) + interval '300 ms' from outbox.log";
        let late: bool = sqlx::query_scalar(late)
            .fetch_one(&world.pool)
            .await
            .unwrap();
        late.then_some(())
    })
    .await;
    for n in 1..300 {
        world.send(&[world.message("k", n), lost(n)]).await;
    }
    oracle.wait_for(300).await;
    assert_eq!(oracle.numbers(), (0..300).collect::<Vec<_>>(), "in order");
    world.wait_for_unsent(&[("held", 300)]).await;

    relay.stop().await;
    script.silence(None);
    let relay = world.relay(Config::default());
    let mut healed = crate::world::Oracle::new(&*world.broker, &silent);
    healed.wait_for(300).await;
    assert_eq!(healed.numbers(), (0..300).collect::<Vec<_>>(), "in order");
    world.wait_for_unsent(&[]).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_acknowledges_nothing_to_anyone_has_nothing_held() {
    let (world, script) = scripted("mute").await;
    let other = format!("{}.other", world.topic);
    let topics = [Topic::new(other.clone(), 1)];
    world.broker.ensure_topics(&topics).await.unwrap();
    let to_both = |n| {
        let mut message = world.message("k", n);
        message.topic.clone_from(&other);
        [message, world.message("k", n)]
    };
    let relay = world.relay(Config {
        max_in_flight: 100,
        ..Config::default()
    });
    let mut oracle = world.oracle();
    // As when a cluster fails: the second of two sent at once still gets through.
    script.silence(Some(&other));
    world.send(&to_both(0)).await;
    oracle.wait_for(1).await;
    script.silence(Some(&world.topic));
    for n in 1..200 {
        world.send(&to_both(n)).await;
    }
    // The leader suspects the first and asks, and asks again.
    testbed::until(SOON, "three questions", async || {
        (script.pings.load(Ordering::SeqCst) >= 3).then_some(())
    })
    .await;
    assert_eq!(world.count("select count(*) from outbox.parked").await, 0);
    relay.stop().await;
    script.silence(None);
    let relay = world.relay(Config::default());
    oracle.wait_for(200).await;
    assert_eq!(oracle.numbers(), (0..200).collect::<Vec<_>>());
    relay.stop().await;
}

/// Kafka itself refuses one record and with it its batch; what was sent behind that batch must
/// not arrive before it.
#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_refuses_with_its_neighbours_does_not_let_later_messages_overtake_them() {
    let world = World::kafka("toolarge").await;
    let topic = format!("{}.small", world.topic);
    world
        .create_topic(&topic, "max.message.bytes", "20000")
        .await;
    world.set_policy_of(&topic, "skip-message").await;
    // Not to be compressed below the limit.
    let noise = |n: usize| -> Vec<u8> {
        let mut state = n as u32 | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..n).map(|_| next()).collect()
    };
    let sick = [100, 101, 350];
    let messages: Vec<_> = (0..500)
        .map(|n| {
            let size = if sick.contains(&n) { 30_000 } else { 600 };
            Message::raw(topic.clone(), "k", "noise.v1", noise(size))
                .with_header("n", n.to_string())
        })
        .collect();
    world.send(&messages).await;
    let relay = world.relay(Config::default());
    let mut oracle = crate::world::Oracle::new(&*world.broker, &topic);
    oracle.wait_for(497).await;
    let arrived: Vec<i64> = oracle
        .seen
        .iter()
        .map(|record| header(record, "n").parse().unwrap())
        .collect();
    let healthy: Vec<_> = (0..500).filter(|n| !sick.contains(n)).collect();
    assert_eq!(arrived, healthy, "in order");
    world.wait_for_unsent(&[("poison", 3)]).await;
    let sql = "select count(*) from outbox.parked where overtaken_by > seq
               and seq = (select min(seq) from outbox.parked)";
    assert_eq!(world.count(sql).await, 1, "its successor was in flight too");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_parked_about_a_mebibyte_is_on_its_way_at_once() {
    let (world, script) = scripted("batches").await;
    let (held, blocked) = (
        format!("{}.held", world.topic),
        format!("{}.blocked", world.topic),
    );
    let topics = [&held, &blocked].map(|topic| Topic::new(topic.as_str(), 1));
    world.broker.ensure_topics(&topics).await.unwrap();
    // Ten of 300 KiB behind each other: left by a former leader, of whom nothing is in memory.
    let park = "insert into outbox.parked
                    (seq, message_id, topic, key, kind, payload, created_at, class, reason)
                select -n, gen_random_uuid(), $1, 'k', 'test.counted.v1', convert_to(repeat('x', 300 * 1024), 'UTF8'),
                       now(), $2, 'a test'
                from generate_series($3::bigint, $3 + 9) as n";
    for (topic, class, first) in [(&held, "held", 1_i64), (&blocked, "blocked", 11)] {
        let query = sqlx::query(park).bind(topic).bind(class).bind(first);
        query.execute(&world.pool).await.unwrap();
    }
    let release = "insert into outbox.blocked_key (topic, key, head) values ($1, 'k', null)";
    let query = sqlx::query(release).bind(&blocked);
    query.execute(&world.pool).await.unwrap();
    // The first of each is tried alone, and answered; of the batch after it nothing is heard.
    script.mute_after(&held, 1);
    script.mute_after(&blocked, 1);
    let relay = world.relay(Config::default());
    for topic in [&held, &blocked] {
        testbed::until(SOON, "a batch is on its way", async || {
            (script.unanswered(topic) > 0).then_some(())
        })
        .await;
    }
    // The leader's loop has gone on: what belongs to the batches has been sent.
    world.send(&[world.message("k", 1)]).await;
    let mut oracle = world.oracle();
    oracle.wait_for(1).await;
    for topic in [&held, &blocked] {
        assert_eq!(
            script.unanswered(topic),
            4,
            "{topic}: with the fourth a mebibyte is passed"
        );
    }
    relay.crash().await;
}
