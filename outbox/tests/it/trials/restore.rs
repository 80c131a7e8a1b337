//! A dump restored into another cluster: its transaction ids mean nothing there, and the relay says so.

use std::{path::Path, sync::Arc};

use sqlx::PgPool;
use testbed::{Database, Postgres};
use tokio::process::Command;

use super::{
    journal::Journal,
    load::{Load, Plan},
    room::{HEALED, Room},
    tape::Tape,
    verdict::verdict,
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

    let restored = Database::fresh_on(&second, "restored").await.unwrap();
    let programs = first.programs().unwrap();
    if programs.join("pg_dump").exists() {
        dump_and_restore(programs, &room.database.url, &restored.url).await;
    } else {
        println!("this server came without pg_dump: the rows are copied instead");
        copy(&room.pool, &restored).await;
    }
    let copied = Room {
        pool: restored.pool(2).await.unwrap(),
        database: restored,
        bootstrap: room.bootstrap.clone(),
        topics: room.topics.clone(),
    };
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
    let mut tape = Tape::of(&room.bootstrap, &room.topics).await;
    tape.catch_up().await;
    let sent = tape.arrivals.len() + tape.duplicates;
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
    tape.catch_up().await;
    assert_eq!(
        tape.arrivals.len() + tape.duplicates,
        sent,
        "nothing was sent"
    );

    // Where it came from everything goes on.
    let mut relay = room.relay();
    relay.start();
    let verdict = verdict(&room, &journal, &mut tape).await;
    trial.counted(verdict.messages, verdict.duplicates);
    relay.stop().await;
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

/// The log and the relay's row as they are, in a schema of the same migrations.
async fn copy(from: &PgPool, to: &Database) {
    let to = to.pool(1).await.unwrap();
    outbox::migrate(&to).await.unwrap();
    sqlx::raw_sql("delete from outbox.relay")
        .execute(&to)
        .await
        .unwrap();
    for table in ["log", "relay"] {
        let sql = format!("select coalesce(json_agg(t), '[]')::text from outbox.{table} as t");
        let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(from)
            .await
            .unwrap();
        let sql = format!(
            "insert into outbox.{table} select * from json_populate_recordset(null::outbox.{table}, $1::json)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(rows)
            .execute(&to)
            .await
            .unwrap();
    }
}
