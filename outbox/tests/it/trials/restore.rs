//! A dump restored into another cluster: its transaction ids mean nothing there, and the relay says so; a rebase makes a
//! cursor that does.

use std::{path::Path, sync::Arc};

use outbox::{
    Error,
    operator::{parked, rebase},
};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use sqlx::{Connection, PgConnection, PgPool};
use testbed::{Database, Postgres};
use tokio::process::Command;

use super::{
    journal::{Journal, Outcome},
    load::{Load, Plan, intend},
    room::{HEALED, Room, TABLES},
    tape::Tape,
    verdict::{arrivals, keys_are_in_order, verdict},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_in_another_cluster_is_refused_and_nothing_of_it_is_sent() {
    let mut trial = testbed::trials().begin("dump and restore");
    let (first, second) = tokio::join!(Postgres::start(), Postgres::start());
    let (first, second) = (first.unwrap(), second.unwrap());
    let kafka = testbed::kafka().await.bootstrap();
    let room = Room::on("dumped", &first, kafka).await;
    let journal = Arc::new(Journal::new());
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);
    let mut relay = room.relay();
    relay.start();
    load.wait_for_more(100).await;
    relay.stop().await;
    // What comes now is in the dump and not in the topic.
    load.wait_for_more(100).await;
    load.stop(&room).await;

    let copied = restored_on(&second, &first, &room).await;
    let rows = "select count(*) from outbox.log";
    assert_eq!(
        copied.count(rows).await,
        room.count(rows).await,
        "restored whole"
    );

    let cursor = "select settled::text || target::text || last_seq || epoch from outbox.relay";
    let before: String = sqlx::query_scalar(cursor)
        .fetch_one(&copied.pool)
        .await
        .unwrap();
    let sent = records(&room).await;
    assert!(sent > 0, "something was acknowledged");
    let mut refusing = copied.relay();
    refusing.start();
    let ended = refusing.process.wait(HEALED).await.unwrap();
    let output = refusing.process.output();
    assert!(
        !ended.success(),
        "the relay took a foreign cursor for its own"
    );
    assert!(output.contains("another database cluster"), "{output}");
    let after: String = sqlx::query_scalar(cursor)
        .fetch_one(&copied.pool)
        .await
        .unwrap();
    assert_eq!(after, before, "a relay that refuses changes nothing");
    assert_eq!(records(&room).await, sent, "nothing was sent");

    // Where it came from everything goes on.
    let mut relay = room.relay();
    relay.start();
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}

/// How many records the room's topic holds, as the broker says.
async fn records(room: &Room) -> i64 {
    let (bootstrap, topic) = (room.bootstrap.clone(), room.topics[0].clone());
    let count = move || Tape::records_in(&bootstrap, &topic, 0..4);
    tokio::task::spawn_blocking(count).await.unwrap()
}

/// Where this cluster's transaction ids stand against those of the cluster that the dump comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    /// New messages have ids that look acknowledged.
    Behind,
    /// Old ids look ended, whatever they were when the cursor was written.
    Ahead,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_whose_ids_are_behind_loses_nothing_when_it_is_rebased() {
    is_restored_and_rebased(Ids::Behind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_whose_ids_are_ahead_loses_nothing_when_it_is_rebased() {
    is_restored_and_rebased(Ids::Ahead).await;
}

async fn is_restored_and_rebased(ids: Ids) {
    let mut trial = testbed::trials().begin(&format!("restore and rebase, ids {ids:?}"));
    let (first, second) = tokio::join!(Postgres::start(), Postgres::start());
    let (first, second) = (first.unwrap(), second.unwrap());
    let room = Room::on("rebased", &first, testbed::kafka().await.bootstrap()).await;
    let missing = format!("{}.missing", room.topics[0]);
    let narrow = format!("{}.narrow", room.topics[0]);
    room.create_topic(&narrow, 1, &[("max.message.bytes", "1000")])
        .await;
    burn(if ids == Ids::Behind { &first } else { &second }).await;
    let journal = Arc::new(Journal::new());
    let load = Load::start(&room, Plan::default(), &journal, &mut trial.random);

    // Open while the relay passes: its numbers are lower than what is acknowledged.
    let mut open = room.pool.begin().await.unwrap();
    let late = intend(&room, &journal, &mut open, "late", 5).await;
    let mut relay = room.relay();
    relay.start();
    for topic in [&missing, &narrow] {
        send_beside(&room, topic).await;
    }
    let parked = ["poison", "blocked", "held", "held"];
    testbed::until(HEALED, "what cannot be sent is parked", async || {
        let mut classes = room.parked().await;
        classes.sort_unstable();
        let mut wanted = parked;
        wanted.sort_unstable();
        (classes == wanted).then_some(())
    })
    .await;
    load.wait_for_more(100).await;
    relay.stop().await;
    load.wait_for_more(100).await;
    open.commit().await.unwrap();
    journal.outcome(late, Outcome::Committed);
    load.stop(&room).await;
    let unpublished = room.count(UNPUBLISHED).await;
    let doubtful = room.count(DOUBTFUL).await;
    assert!(unpublished > 100, "there is something to save");

    let copied = restored_on(&second, &first, &room).await;
    let xmax = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let stored = "select pg_snapshot_xmax(target)::text::bigint from outbox.relay";
    let behind = copied.count(xmax).await < copied.count(stored).await;
    assert_eq!(behind, ids == Ids::Behind, "the fault is as it should be");
    let plan = rebase::plan(&copied.pool).await.unwrap();
    assert_eq!(plan.messages, unpublished + doubtful, "{plan:?}");
    assert_eq!(plan.parked, 4);
    assert!(plan.dropped > 4, "something was acknowledged: {plan:?}");
    // The services came up before anybody thought of the relay, and stay up.
    let load = Load::start(&copied, Plan::default(), &journal, &mut trial.random);
    load.wait_for_more(100).await;
    let mut refusing = copied.relay();
    refusing.start();
    let ended = refusing.process.wait(HEALED).await.unwrap();
    assert!(
        !ended.success(),
        "the relay took a foreign cursor for its own"
    );
    let advice = refusing.process.output();
    assert!(advice.contains("recompense outbox rebase"), "{advice}");

    let done = loop {
        // A writer may sit on a lock for a while.
        match rebase::rebase(&copied.pool, HEALED, "ann").await {
            Err(Error::NotRebased(why)) if why.contains("in use") => println!("{why}"),
            done => break done.unwrap(),
        }
    };
    assert!(
        done.messages >= plan.messages + 100,
        "{done:?} after {plan:?}"
    );
    assert_eq!(done.dropped, plan.dropped, "nothing that was enqueued here");
    let mut relay = copied.relay();
    relay.start();
    load.wait_for_more(100).await;
    load.stop(&copied).await;
    let mut tape = Tape::of(&copied.bootstrap, &copied.topics).await;
    let verdict = arrivals(&copied, &journal, &mut tape).await;
    keys_are_in_order(&copied, &tape).await;
    let late: Vec<_> = tape.arrivals.iter().filter(|a| a.key == "late").collect();
    assert_eq!(late.len(), 5, "the open transaction's too");

    // What was parked before the dump is sent when its cause is mended.
    copied.create_topic(&missing, 1, &[]).await;
    widen(&copied, &narrow).await;
    let head = "select seq from outbox.parked where class = 'poison'";
    let head = copied.count(head).await;
    parked::request_replay(&copied.pool, &[head], "test")
        .await
        .unwrap();
    testbed::until(HEALED, "nothing is parked", async || {
        copied.parked().await.is_empty().then_some(())
    })
    .await;
    for topic in [&missing, &narrow] {
        let mut tape = Tape::of(&copied.bootstrap, std::slice::from_ref(topic)).await;
        tape.wait_for_more(2).await;
        let numbers: Vec<_> = tape.arrivals.iter().map(|arrival| arrival.n).collect();
        assert_eq!(numbers, [1, 2], "{topic}, in order");
    }
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
}

/// Rows of the log that the stored cursor does not call acknowledged, nor anybody parked.
const UNPUBLISHED: &str = "
    select count(*) from outbox.log, outbox.relay
    where not pg_visible_in_snapshot(xid, settled)
      and not (pg_visible_in_snapshot(xid, target) and seq <= last_seq)
      and not exists (select from outbox.parked where parked.seq = log.seq)";

/// Rows that it does call acknowledged, in the moment before it was written.
const DOUBTFUL: &str = "
    select count(*) from outbox.log, outbox.relay
    where (pg_visible_in_snapshot(xid, settled)
           or (pg_visible_in_snapshot(xid, target) and seq <= last_seq))
      and seq > target_floor
      and not exists (select from outbox.parked where parked.seq = log.seq)";

/// Uses up transaction ids.
async fn burn(server: &Postgres) {
    let mut connection = PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    sqlx::raw_sql(
        "do $$ begin for i in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$",
    )
    .execute(&mut connection)
    .await
    .unwrap();
}

/// Two messages that cannot be sent: the first is too large for a narrow topic.
async fn send_beside(room: &Room, topic: &str) {
    sqlx::query(
        "insert into outbox.log (message_id, topic, key, kind, payload)
         select gen_random_uuid(), $1, 'sick', 'test.counted.v1',
                convert_to(json_build_object('n', n, 'noise', noise)::text, 'UTF8')
         from (select 1 as n, string_agg(md5(i::text), '') as noise from generate_series(1, 500) as i
               union all select 2, '') as message
         order by n",
    )
    .bind(topic)
    .execute(&room.pool)
    .await
    .unwrap();
}

/// From now on the topic takes large records.
async fn widen(room: &Room, topic: &str) {
    let topic = ResourceSpecifier::Topic(topic);
    let wider = AlterConfig::new(topic).set("max.message.bytes", "1000000");
    let altered = room
        .admin()
        .alter_configs([&wider], &AdminOptions::new())
        .await;
    altered.unwrap().remove(0).unwrap();
}

/// The room's database on another server, and a room around it.
async fn restored_on(second: &Postgres, first: &Postgres, room: &Room) -> Room {
    let restored = Database::fresh_on(second, "restored").await.unwrap();
    let programs = first.programs().unwrap();
    if programs.join("pg_dump").exists() {
        dump_and_restore(programs, &room.database.url, &restored.url).await;
    } else {
        println!("this server came without pg_dump: the rows are copied instead");
        copy(&room.pool, &restored).await;
    }
    Room {
        pool: restored.pool(4).await.unwrap(),
        database: restored,
        bootstrap: room.bootstrap.clone(),
        topics: room.topics.clone(),
    }
}

async fn dump_and_restore(programs: &Path, from: &str, to: &str) {
    let dump = Command::new(programs.join("pg_dump"))
        .arg(from)
        .output()
        .await
        .unwrap();
    assert!(
        dump.status.success(),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );
    let file = tempfile(&dump.stdout);
    let restore = Command::new(programs.join("psql"))
        .args([
            "--quiet",
            "--no-psqlrc",
            "--set",
            "ON_ERROR_STOP=1",
            "--file",
        ])
        .arg(&file)
        .arg(to)
        .output()
        .await
        .unwrap();
    assert!(
        restore.status.success(),
        "{}",
        String::from_utf8_lossy(&restore.stderr)
    );
    std::fs::remove_file(file).unwrap();
}

fn tempfile(content: &[u8]) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("dump-{}.sql", uuid::Uuid::now_v7().simple()));
    std::fs::write(&path, content).unwrap();
    path
}

/// The tables as they are, in a schema of the same migrations.
async fn copy(from: &PgPool, to: &Database) {
    let to = to.pool(1).await.unwrap();
    outbox::migrate(&to).await.unwrap();
    sqlx::raw_sql(TABLES).execute(&to).await.unwrap();
    sqlx::raw_sql("delete from outbox.relay")
        .execute(&to)
        .await
        .unwrap();
    let given: i64 = sqlx::query_scalar("select last_value from outbox.log_seq")
        .fetch_one(from)
        .await
        .unwrap();
    sqlx::query("select setval('outbox.log_seq', $1)")
        .bind(given)
        .execute(&to)
        .await
        .unwrap();
    for table in [
        "outbox.log",
        "outbox.relay",
        "outbox.parked",
        "outbox.blocked_key",
        "public.business",
        "public.counter",
    ] {
        let sql = format!("select coalesce(json_agg(t), '[]')::text from {table} as t");
        let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(from)
            .await
            .unwrap();
        let sql = format!(
            "insert into {table} select * from json_populate_recordset(null::{table}, $1::json)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(rows)
            .execute(&to)
            .await
            .unwrap();
    }
}
