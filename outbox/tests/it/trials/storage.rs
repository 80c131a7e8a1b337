//! P9 under load: the ring of partitions turns, waits for those who need it, and grows when nobody empties it.

use std::{sync::Arc, time::Duration};

use outbox::outgoing::empty_partition_ahead;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    journal::{Journal, Outcome},
    load::{Load, Plan, intend},
    reader::Reader,
    room::{HEALED, Room},
    tape::Tape,
    verdict::verdict,
};
use crate::world::SOON;

/// Empties the partition ahead as often as it can, and as soon as it is empty lets the writers enter it.
struct Turning {
    stop: CancellationToken,
    task: JoinHandle<u64>,
}

impl Turning {
    fn start(room: &Room) -> Self {
        let stop = CancellationToken::new();
        let (token, options) = (stop.clone(), room.database.options().unwrap());
        let task = tokio::spawn(async move {
            let mut session = PgConnection::connect_with(&options).await.unwrap();
            let mut turned = 0;
            while !token.is_cancelled() {
                if !empty_partition_ahead(&mut session).await.unwrap()
                    && !ahead_is_empty(&mut session).await
                {
                    tokio::task::yield_now().await;
                    continue;
                }
                sqlx::query(
                    "select setval('outbox.log_seq', ((last_value >> 20) + 1) << 20, true)
                     from outbox.log_seq",
                )
                .execute(&mut session)
                .await
                .unwrap();
                turned += 1;
                // A partition holds something before the next turn: that is what is to be tried.
                written_to(&mut session).await;
            }
            turned
        });
        Self { stop, task }
    }

    /// How many partitions were entered.
    async fn stop(self) -> u64 {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

async fn ahead_is_empty(session: &mut PgConnection) -> bool {
    let last: i64 = sqlx::query_scalar("select last_value from outbox.log_seq")
        .fetch_one(&mut *session)
        .await
        .unwrap();
    let sql = format!(
        "select not exists (select from outbox.log_{})",
        ((last >> 20) + 1) & 3
    );
    let sql = sqlx::AssertSqlSafe(sql);
    sqlx::query_scalar(sql).fetch_one(session).await.unwrap()
}

async fn written_to(session: &mut PgConnection) {
    let sql = "select last_value & ((1 << 20) - 1) from outbox.log_seq";
    for _ in 0..200 {
        let drawn: i64 = sqlx::query_scalar(sql)
            .fetch_one(&mut *session)
            .await
            .unwrap();
        if drawn > 20 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Commits into a partition at the very time when it is to be emptied, again and again.
async fn straggle(room: Arc<Room>, journal: Arc<Journal>, stop: CancellationToken) -> u64 {
    let mut session = PgConnection::connect(&room.database.url).await.unwrap();
    let mut late = 0;
    while !stop.is_cancelled() {
        let mut tx = session.begin().await.unwrap();
        let intent = intend(&room, &journal, &mut tx, "straggler", 1).await;
        let partition = "select last_value >> 20 from outbox.log_seq";
        // Not read off the log: that would lock all of its partitions.
        let drawn = "select currval('outbox.log_seq') >> 20";
        let mine: i64 = sqlx::query_scalar(drawn).fetch_one(&mut *tx).await.unwrap();
        while !stop.is_cancelled() && room.count(partition).await < mine + 3 {
            tokio::task::yield_now().await;
        }
        tx.commit().await.unwrap();
        journal.outcome(intent, Outcome::Committed);
        late += 1;
    }
    late
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ring_turns_under_load_and_holds_what_it_held_after_its_first_turn() {
    let trials = testbed::trials();
    let mut trial = trials.begin("the ring turns");
    let room = Arc::new(Room::shared("turning").await);
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let reader = Reader::start(&room);
    let plan = Plan {
        writers: 8,
        rate: 100,
        lingering: 40,
        ..Plan::default()
    };
    let load = Load::start(&room, plan, &journal, &mut trial.random);
    let turning = Turning::start(&room);
    let stop = CancellationToken::new();
    let straggling = straggle(Arc::clone(&room), Arc::clone(&journal), stop.clone());
    let straggling = tokio::spawn(straggling);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let retained = "select count(distinct seq >> 20) from outbox.log";
    let mut most = 0;
    while tape.arrivals.len() < trials.pick(3_000, 150_000)
        || room
            .count("select (last_value >> 20)::bigint from outbox.log_seq")
            .await
            < 13
    {
        tape.catch_up().await;
        most = most.max(room.count(retained).await);
    }
    load.stop(&room).await;
    stop.cancel();
    let late = straggling.await.unwrap();
    let turned = turning.stop().await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    println!("{turned} partitions entered, {late} stragglers, at most {most} retained");
    assert!(
        late >= 3,
        "{late} transactions committed into the partition ahead"
    );
    assert!(
        turned >= 12,
        "three turns at least, not {turned} partitions"
    );
    assert!(most <= 4, "I9: {most} partitions of messages retained");
    reader.finish(&room, verdict.messages).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_the_ring_grows_for_several_turns_and_no_insert_fails() {
    let trials = testbed::trials();
    let mut trial = trials.begin("the ring grows");
    let room = Room::shared("growing").await;
    let journal = Arc::new(Journal::new());
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    for partition in 1..trials.pick(9, 40) {
        load.wait_for_more(trials.pick(40, 1_000)).await;
        room.jump_to_partition(partition).await;
        // What housekeeping would do: nothing is settled, nothing goes.
        let mut session = room.pool.acquire().await.unwrap();
        assert!(!empty_partition_ahead(&mut session).await.unwrap());
    }
    assert_eq!(load.errors(), Default::default(), "inserts fail");
    let backlog = load.committed();
    let mut relay = room.relay();
    relay.start();
    load.wait_for_more(50).await;
    load.stop(&room).await;
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    assert!(verdict.messages > backlog);
    trial.counted(verdict.messages, verdict.duplicates);
    // Now it is emptied, a partition at a time.
    testbed::until(HEALED, "the partition ahead is emptied", async || {
        let mut session = room.pool.acquire().await.unwrap();
        ahead_is_empty(&mut session).await.then_some(())
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_and_a_writer_of_an_old_partition_keep_it_and_nobody_waits_for_them() {
    let trials = testbed::trials();
    let mut trial = trials.begin("a reader of an old partition");
    let room = Room::shared("oldreader").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    load.wait_for_more(30).await;

    let mut reading = PgConnection::connect(&room.database.url).await.unwrap();
    let mut reader = reading
        .begin_with("begin isolation level repeatable read")
        .await
        .unwrap();
    let read = "select count(*) from outbox.log_0";
    let before: i64 = sqlx::query_scalar(read)
        .fetch_one(&mut *reader)
        .await
        .unwrap();
    let mut writing = PgConnection::connect(&room.database.url).await.unwrap();
    let mut writer = writing.begin().await.unwrap();
    let intent = intend(&room, &journal, &mut writer, "old", 5).await;
    room.jump_to_partition(3).await;

    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let mut housekeeper = PgConnection::connect(&room.database.url).await.unwrap();
    for _ in 0..trials.pick(20, 2_000) {
        let asking = empty_partition_ahead(&mut housekeeper);
        let asked = tokio::time::timeout(SOON, asking).await;
        let emptied = asked.expect("nobody waits for the lock").unwrap();
        assert!(!emptied, "it is read");
        // Polls and inserts go on.
        tape.wait_for_more(5).await;
    }
    let still: i64 = sqlx::query_scalar(read)
        .fetch_one(&mut *reader)
        .await
        .unwrap();
    assert_eq!(still, before, "a snapshot of the log does not change");
    reader.rollback().await.unwrap();
    assert!(
        !empty_partition_ahead(&mut housekeeper).await.unwrap(),
        "it is written to"
    );
    writer.commit().await.unwrap();
    journal.outcome(intent, Outcome::Committed);
    testbed::until(HEALED, "the relay empties it", async || {
        (room.count("select count(*) from outbox.log_0").await == 0).then_some(())
    })
    .await;
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}
