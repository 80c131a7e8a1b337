//! Writers of every sort: late committers, deadlocks, savepoints, and one that holds its transaction open.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use sqlx::{Connection, PgConnection};

use super::{
    journal::{Journal, Outcome},
    load::{Load, Plan, intend},
    room::Room,
    tape::Tape,
    verdict::verdict,
};

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_writers_whose_commit_order_is_not_their_number_order_lose_nothing() {
    let trials = testbed::trials();
    let mut trial = trials.begin("commit order against number order");
    let room = Room::shared("orders").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let plan = Plan {
        writers: 32,
        rate: trials.pick(40, 200),
        keys: 24,
        lingering: 40,
        ..Plan::default()
    };
    let load = Load::start(&room, plan, &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    while load.committed() < trials.pick(1_500, 80_000) {
        // A relay that slept meets ticks of more than a page, with late committers in them.
        relay.signal("STOP");
        let more = trial.random.within(100..trials.pick(600, 6_000));
        load.wait_for_more(usize::try_from(more).unwrap()).await;
        relay.signal("CONT");
        tape.wait_for_more(50).await;
    }
    load.stop(&room).await;
    let inverted = room
        .count(
            "select count(*) from (
                 select seq, max(seq) over (order by xid, seq) as highest from outbox.log
             ) as l where seq < highest",
        )
        .await;
    assert!(
        inverted > 100,
        "commit order and number order hardly differ"
    );
    let verdict = verdict(&room, &journal, &mut tape).await;
    assert!(
        verdict.messages >= trials.pick(1_500, 100_000),
        "{verdict:?}"
    );
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_and_serialization_failures_of_writers_leave_no_message_behind() {
    let trials = testbed::trials();
    let mut trial = trials.begin("deadlocks, serialization failures");
    let room = Room::shared("deadlocks").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let plan = Plan {
        writers: 12,
        keys: 6,
        deadlocking: true,
        isolated: 40,
        ..Plan::default()
    };
    let load = Load::start(&room, plan, &journal, &mut trial.random);
    let wanted = trials.pick(5, 500);
    testbed::until(super::room::HEALED * 5, "both failures", async || {
        (load.met("40P01") >= wanted && load.met("40001") >= wanted).then_some(())
    })
    .await;
    load.stop(&room).await;
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_savepoints_of_which_half_are_rolled_back_send_the_other_half() {
    let room = Room::shared("savepoints").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    // More than the 64 after which a snapshot no longer lists subtransactions.
    let mut tx = room.pool.begin().await.unwrap();
    let intent = intend(&room, &journal, &mut tx, "k", 1).await;
    let (mut kept, mut all) = (Vec::new(), Vec::new());
    for n in 2..=101 {
        let mut savepoint = tx.begin().await.unwrap();
        let counted = crate::world::Counted { n };
        let message = outbox::Message::new(&room.topics[0], "many", &counted).unwrap();
        outbox::enqueue(&mut savepoint, &message).await.unwrap();
        all.push(message.id);
        if n % 2 == 0 {
            savepoint.commit().await.unwrap();
            kept.push(message.id);
        } else {
            savepoint.rollback().await.unwrap();
        }
    }
    // Others begin and end meanwhile, and so the relay's snapshots list this one.
    for _ in 0..20 {
        let mut other = room.pool.begin().await.unwrap();
        let number = intend(&room, &journal, &mut other, "other", 1).await;
        other.commit().await.unwrap();
        journal.outcome(number, Outcome::Committed);
    }
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    tape.wait_for_more(20).await;
    assert!(all.iter().all(|id| !tape.has(id)), "not committed");
    tx.commit().await.unwrap();
    journal.outcome(intent, Outcome::Committed);
    tape.wait_for_more(51).await;
    tape.catch_up().await;
    let arrived: Vec<_> = tape
        .arrivals
        .iter()
        .filter(|a| a.key == "many")
        .map(|a| a.id)
        .collect();
    assert_eq!(arrived, kept);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_idle_in_its_transaction_slows_nobody_down() {
    let trials = testbed::trials();
    let mut trial = trials.begin("idle in transaction");
    let room = Room::shared("idle").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let plan = Plan {
        writers: 8,
        rate: trials.pick(50, 125),
        aborted: 0,
        lingering: 0,
        savepoints: 0,
        prepared: 0,
        ..Plan::default()
    };
    let load = Load::start(&room, plan, &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    tape.wait_for_more(200).await;

    // In turns, so that other work on the machine meets both.
    let phase = trials.pick(Duration::from_secs(1), Duration::from_secs(120));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for turn in 0..trials.pick(1, 3) {
        without.push(measured(&load, &mut tape, phase).await);
        let mut idle = PgConnection::connect(&room.database.url).await.unwrap();
        let mut tx = idle.begin().await.unwrap();
        let key = format!("idle-{turn}");
        let intent = intend(&room, &journal, &mut tx, &key, 500).await;
        with.push(measured(&load, &mut tape, phase).await);
        assert!(tape.arrivals.iter().all(|arrival| arrival.key != key));
        tx.commit().await.unwrap();
        journal.outcome(intent, Outcome::Committed);
    }
    let (without, with) = (Measured::mean_of(&without), Measured::mean_of(&with));
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    println!("without: {without:?}, with: {with:?}");
    if trials.are_long() {
        assert!(
            with.rate >= without.rate * 0.9,
            "throughput: {with:?} after {without:?}"
        );
        assert!(
            with.mean <= without.mean / 0.9 + 0.5,
            "latency: {with:?} after {without:?}"
        );
    }
    relay.stop().await;
}

#[derive(Debug)]
struct Measured {
    /// Messages a second.
    rate: f64,
    /// From the commit to the broker's own time, in milliseconds, on average; the broker counts whole ones.
    mean: f64,
}

impl Measured {
    fn mean_of(all: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        Self {
            rate: mean(|measured| measured.rate),
            mean: mean(|measured| measured.mean),
        }
    }
}

/// What arrived in a stretch of time, and how late.
async fn measured(load: &Load, tape: &mut Tape, stretch: Duration) -> Measured {
    tape.catch_up().await;
    let (begin, before) = (Instant::now(), tape.arrivals.len());
    let from = SystemTime::now();
    while begin.elapsed() < stretch {
        tape.catch_up().await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let committed_at = load.committed_at();
    let late = tape.arrivals[before..].iter().filter_map(|arrival| {
        let committed = committed_at.get(&arrival.id)?;
        let committed_ms = committed
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()?
            .as_secs_f64()
            * 1e3;
        (*committed > from).then_some(arrival.time as f64 - committed_ms)
    });
    let late: Vec<f64> = late.collect();
    assert!(!late.is_empty(), "others flow");
    Measured {
        rate: (tape.arrivals.len() - before) as f64 / seconds,
        mean: late.iter().sum::<f64>() / late.len() as f64,
    }
}
