//! Postgres is killed, stopped and restarted under everybody; sessions are killed by the dozen.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sqlx::{Connection, PgConnection};
use testbed::{Postgres, postgres::Options};

use super::{
    journal::{Journal, Outcome},
    load::{Load, Plan, intend},
    reader::Reader,
    room::{HEALED, Room},
    tape::Tape,
    verdict::verdict,
};

/// A server that keeps what it acknowledged, and writes down as little as possible of the rest.
async fn durable() -> Postgres {
    let settings = [("wal_writer_delay", "10s")];
    let options = Options {
        durable: true,
        max_connections: 60,
        settings: settings
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..Options::default()
    };
    Postgres::start_with(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_and_stopped_under_load_loses_nothing_that_it_acknowledged() {
    let trials = testbed::trials();
    let mut trial = trials.begin("Postgres killed and stopped");
    let mut postgres = durable().await;
    let kafka = testbed::kafka().await.bootstrap();
    let room = Room::on("server", &postgres, kafka).await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let pid = relay.pid();
    let reader = Reader::start(&room);

    // In two phases: prepared before the first crash, committed after the last.
    let mut session = room.pool.acquire().await.unwrap();
    let mut tx = session.begin().await.unwrap();
    let prepared = intend(&room, &journal, &mut tx, "prepared", 3).await;
    sqlx::raw_sql("prepare transaction 'across'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    drop(session);

    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    for round in 0..trials.pick(3, 30) {
        let more = trial.random.within(20..trials.pick(200, 1000));
        load.wait_for_more(usize::try_from(more).unwrap()).await;
        match round % 3 {
            0 => postgres.kill().unwrap(),
            1 => postgres.stop_immediately().await.unwrap(),
            _ => postgres.stop().await.unwrap(),
        }
        relay.wait_until_it_says("relay session ended").await;
        // How long the server is away is part of the fault.
        let away = trial.random.within(0..trials.pick(500, 20_000));
        tokio::time::sleep(Duration::from_millis(away)).await;
        postgres.restart().await.unwrap();
        let healed = SystemTime::now();
        trial.healed_after(tape.healed_after(healed).await);
    }
    load.wait_for_more(50).await;
    assert!(
        load.errors().values().sum::<usize>() > 0,
        "no writer met a fault"
    );
    let unknown = load.met("lost") + load.met("57P01");
    assert!(unknown > 0, "no connection was lost: {:?}", load.errors());
    load.stop(&room).await;
    sqlx::raw_sql("commit prepared 'across'")
        .execute(&room.pool)
        .await
        .unwrap();
    journal.outcome(prepared, Outcome::Committed);

    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    reader.finish(&room, verdict.messages).await;
    assert_eq!(relay.pid(), pid, "the relay survived");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_ids_and_numbers_given_out_again_after_a_crash_hide_no_message() {
    let trials = testbed::trials();
    let mut trial = trials.begin("xids and numbers again");
    let mut postgres = durable().await;
    let kafka = testbed::kafka().await.bootstrap();
    let room = Room::on("again", &postgres, kafka).await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let (mut again, mut sent) = (0, 0);
    for _ in 0..trials.pick(4, 40) {
        sent += send(&room, &journal).await;
        // Aborted transactions write nothing down. The relay sees that they have ended.
        let (mut xid, mut number) = (0_i64, 0_i64);
        for _ in 0..40 {
            let mut tx = room.pool.begin().await.unwrap();
            (xid, number) = sqlx::query_as(
                "select pg_current_xact_id()::text::bigint, nextval('outbox.log_seq')",
            )
            .fetch_one(&mut *tx)
            .await
            .unwrap();
            tx.rollback().await.unwrap();
        }
        testbed::until(
            HEALED,
            "the relay's cursor is past the aborted",
            async || {
                let seen = "select pg_snapshot_xmax(settled)::text::bigint from outbox.relay";
                (room.count(seen).await > xid).then_some(())
            },
        )
        .await;
        postgres.kill().unwrap();
        postgres.restart().await.unwrap();
        let next = testbed::until(HEALED, "the server answers", async || {
            let mut connection = PgConnection::connect(&room.database.url).await.ok()?;
            sqlx::query_as::<_, (i64, i64)>(
                "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint, last_value
                 from outbox.log_seq",
            )
            .fetch_one(&mut connection)
            .await
            .ok()
        });
        let next = next.await;
        again += i32::from(next.0 <= xid && next.1 < number);
        // One by one, so that some take the very ids and numbers of the aborted.
        for _ in 0..10 {
            sent += send(&room, &journal).await;
        }
    }
    assert!(again > 0, "no id and number was given out twice");
    let verdict = verdict(&room, &journal, &mut tape).await;
    assert_eq!(verdict.messages, sent);
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}

/// One committed message.
async fn send(room: &Room, journal: &Journal) -> usize {
    let mut connection = PgConnection::connect(&room.database.url).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let intent = intend(room, journal, &mut tx, "k", 1).await;
    tx.commit().await.unwrap();
    journal.outcome(intent, Outcome::Committed);
    1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_killed_sessions_loses_nothing_and_repeats_no_effect() {
    let trials = testbed::trials();
    let mut trial = trials.begin("pg_terminate_backend storm");
    let room = Room::shared("storm_all").await;
    let journal = Arc::new(Journal::new());
    let mut relay = room.relay();
    relay.start();
    let reader = Reader::start(&room);
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    tape.wait_for_more(20).await;

    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let mut operator = PgConnection::connect(&room.database.url).await.unwrap();
    let mut killed = BTreeMap::<String, u32>::new();
    let victims = ["outbox relay", "reader", "writer"];
    for blow in 0..trials.pick(20, 300) {
        pace.tick().await;
        let victim = victims[blow % victims.len()];
        // One that is at work, if there is one: an idle session loses nothing.
        let hit = sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = $1
             order by state = 'idle', random() limit 1",
        )
        .bind(victim)
        .execute(&mut operator)
        .await
        .unwrap();
        *killed.entry(victim.to_owned()).or_default() +=
            u32::try_from(hit.rows_affected()).unwrap();
    }
    let healed = SystemTime::now();
    assert!(
        victims.iter().all(|victim| killed[*victim] > 0),
        "{killed:?}"
    );
    trial.healed_after(tape.healed_after(healed).await);
    load.wait_for_more(20).await;
    load.stop(&room).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    reader.finish(&room, verdict.messages).await;
    relay.stop().await;
}
