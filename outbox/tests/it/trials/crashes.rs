//! The crash matrix: a relay dies at each boundary, another takes over, and the oracle finds nothing wrong.

use std::{os::unix::process::ExitStatusExt, sync::Arc};

use futures::{StreamExt, stream};
use testbed::trials::{Random, Trial};

use super::{
    journal::Journal,
    load::{Load, Plan},
    room::{HEALED, Relay, Room},
    tape::Tape,
    verdict::{Verdict, arrivals, keys_are_in_order},
};

const SIGABRT: i32 = 6;

/// A place and the range from which the number of its passing is drawn.
const PLACES: [(&str, u64); 11] = [
    ("after_lease", 1),
    ("before_read", 40),
    ("after_read", 40),
    ("before_produce", 150),
    ("after_produce", 150),
    ("before_ack", 150),
    ("after_ack", 150),
    ("before_cursor", 8),
    ("after_cursor", 8),
    ("before_release", 1),
    ("after_release", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_at_any_boundary_loses_nothing_and_inverts_nothing() {
    let mut trial = testbed::trials().begin("crash matrix");
    let rounds = testbed::trials().pick(1, 10);
    let places = (0..rounds).flat_map(|_| PLACES);
    let drawn: Vec<_> = places
        .map(|(place, most)| (place, trial.random.within(1..most + 1), trial.random.fork()))
        .collect();
    let deaths = stream::iter(drawn)
        .map(|(place, passing, random)| tokio::spawn(dies_at(place, passing, random)))
        .buffered(2);
    let verdicts: Vec<Verdict> = deaths.map(|death| death.unwrap()).collect().await;
    count(&mut trial, &verdicts);
}

/// A relay dies at `place` under load; its successor finishes.
async fn dies_at(place: &str, passing: u64, mut random: Random) -> Verdict {
    println!("crash point {place}:{passing}");
    let room = Room::shared("crash").await;
    let journal = Arc::new(Journal::new());
    let load = Load::start(&room, Plan::default(), &journal, &mut random);
    let mut doomed = room.relay_with(&[("CRASH_AT", &format!("{place}:{passing}"))]);
    doomed.start();
    if place.ends_with("release") {
        doomed.wait_until_it_leads(&room).await;
        load.wait_for_more(20).await;
        doomed.signal("TERM");
    }
    died_at(&doomed, place).await;
    let verdict = succeed(&room, load, &journal, 0).await;
    keys_are_in_order(&room, &verdict.1).await;
    assert_eq!(room.parked().await, [] as [String; 0]);
    verdict.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_while_it_parks_keeps_the_message_once_and_sends_the_rest() {
    let mut trial = testbed::trials().begin("crash while parking");
    let mut verdicts = Vec::new();
    for place in ["before_park", "after_park"] {
        let room = Room::shared("crash_park").await;
        let narrow = format!("{}.narrow", room.topics[0]);
        room.create_topic(&narrow, 1, &[("max.message.bytes", "1000")])
            .await;
        let journal = Arc::new(Journal::new());
        let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
        // Past the checks of `enqueue`: as if the topic's limit had been lowered since.
        sqlx::query(
            "insert into outbox.log (message_id, topic, key, kind, payload)
             select gen_random_uuid(), $1, 'sick', 'test.sick.v1',
                    decode(string_agg(md5(n::text), ''), 'hex') from generate_series(1, 500) as n",
        )
        .bind(&narrow)
        .execute(&room.pool)
        .await
        .unwrap();
        let mut doomed = room.relay_with(&[("CRASH_AT", place)]);
        doomed.start();
        died_at(&doomed, place).await;
        let kept = i64::from(place == "after_park");
        assert_eq!(room.count("select count(*) from outbox.parked").await, kept);
        let (verdict, tape) = succeed(&room, load, &journal, 1).await;
        keys_are_in_order(&room, &tape).await;
        testbed::until(HEALED, "the sick message is parked", async || {
            (room.parked().await == ["poison"]).then_some(())
        })
        .await;
        verdicts.push(verdict);
    }
    count(&mut trial, &verdicts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_while_a_topic_is_held_sends_its_messages_in_order_when_it_appears() {
    let mut trial = testbed::trials().begin("crash while holding");
    let places = ["before_hold", "after_hold", "before_unpark", "after_unpark"];
    let drawn: Vec<_> = places.map(|place| (place, trial.random.fork())).into();
    let deaths = stream::iter(drawn)
        .map(|(place, random)| tokio::spawn(dies_holding(place, random)))
        .buffered(4);
    let verdicts: Vec<Verdict> = deaths.map(|death| death.unwrap()).collect().await;
    count(&mut trial, &verdicts);
}

async fn dies_holding(place: &str, mut random: Random) -> Verdict {
    let mut room = Room::shared("crash_hold").await;
    let missing = format!("{}.missing", room.topics[0]);
    room.topics.push(missing.clone());
    let journal = Arc::new(Journal::new());
    let plan = Plan {
        rate: 10,
        ..Plan::default()
    };
    let load = Load::start(&room, plan, &journal, &mut random);
    let mut doomed = room.relay_with(&[("CRASH_AT", place)]);
    doomed.start();
    if place.ends_with("unpark") {
        testbed::until(HEALED, "messages are held", async || {
            room.parked()
                .await
                .contains(&"held".to_owned())
                .then_some(())
        })
        .await;
        room.create_topic(&missing, 2, &[]).await;
        died_at(&doomed, place).await;
    } else {
        died_at(&doomed, place).await;
        room.create_topic(&missing, 2, &[]).await;
    }
    let (verdict, tape) = succeed(&room, load, &journal, 0).await;
    keys_are_in_order(&room, &tape).await;
    testbed::until(HEALED, "nothing is held any more", async || {
        room.parked().await.is_empty().then_some(())
    })
    .await;
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_while_it_empties_a_partition_loses_nothing() {
    let mut trial = testbed::trials().begin("crash while truncating");
    let mut verdicts = Vec::new();
    for place in ["before_truncate", "after_truncate"] {
        let room = Room::shared("crash_ring").await;
        let journal = Arc::new(Journal::new());
        let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
        let mut doomed = room.relay_with(&[("CRASH_AT", place)]);
        doomed.start();
        load.wait_for_more(50).await;
        // The writers are in the last partition: the first is ahead of them, and settled soon.
        room.jump_to_partition(3).await;
        died_at(&doomed, place).await;
        let left = room.count("select count(*) from outbox.log_0").await;
        assert_eq!(left == 0, place == "after_truncate", "{left} rows are left");
        let (verdict, tape) = succeed(&room, load, &journal, 0).await;
        keys_are_in_order(&room, &tape).await;
        verdicts.push(verdict);
    }
    count(&mut trial, &verdicts);
}

/// The relay was aborted by its crash point and by nothing else.
async fn died_at(doomed: &Relay, place: &str) {
    let ended = doomed.process.wait(HEALED).await.unwrap_or_else(|_| {
        panic!(
            "the relay lived on past {place}: was it built with the feature crash-points? \
             `make test` does; the end of its log:\n{}",
            doomed.process.log_tail()
        )
    });
    let output = doomed.process.output();
    assert_eq!(ended.signal(), Some(SIGABRT), "{output}");
    assert!(output.contains(&format!("crash point {place}")), "{output}");
}

/// Another relay finishes what the dead one began, while the load goes on for a little, until all has
/// arrived and so many messages are parked.
async fn succeed(room: &Room, load: Load, journal: &Journal, parked: usize) -> (Verdict, Tape) {
    load.wait_for_more(20).await;
    let mut successor = room.relay();
    successor.start();
    successor.wait_until_it_leads(room).await;
    load.stop(room).await;
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let verdict = arrivals(room, journal, &mut tape).await;
    testbed::until(HEALED, "what is refused to be parked", async || {
        (room.parked().await.len() == parked).then_some(())
    })
    .await;
    successor.stop().await;
    (verdict, tape)
}

fn count(trial: &mut Trial, verdicts: &[Verdict]) {
    trial.counted(
        verdicts.iter().map(|verdict| verdict.messages).sum(),
        verdicts.iter().map(|verdict| verdict.duplicates).sum(),
    );
}
