//! The README's service is a program, and the program works.

use std::{path::Path, process::Stdio, time::Duration};

use testbed::Database;
use tokio::{process::Command, time::timeout};

/// A whole start, with a consumer group to be formed.
const SOON: Duration = Duration::from_secs(90);

#[tokio::test]
async fn the_example_relays_an_order_and_ends() {
    let ourselves = std::env::current_exe().unwrap();
    let program = ourselves
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/orders");
    assert!(
        program.is_file(),
        "build it: cargo build --package outbox --example orders"
    );
    let database = Database::fresh("example").await;
    for kafka in [None, Some(testbed::kafka().await.bootstrap())] {
        let mut command = Command::new(&program);
        command
            .arg("--once")
            .env("DATABASE_URL", &database.url)
            .env_remove("KAFKA_BROKERS")
            .envs(kafka.map(|kafka| ("KAFKA_BROKERS", kafka)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(SOON, command.output()).await;
        let output = output.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{complained}");
        assert!(said.contains(": 1250 cents"), "{said}");
    }
}

/// What a newcomer copies has been compiled and run.
#[test]
fn the_rust_of_the_readme_is_the_example() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(here.join("README.md")).unwrap();
    let example = std::fs::read_to_string(here.join("examples/orders.rs")).unwrap();
    let example: Vec<&str> = example.lines().map(str::trim).collect();
    let mut lines = 0;
    for block in readme.split("```rust\n").skip(1) {
        let (code, _) = block.split_once("```").unwrap();
        for line in code.lines().map(str::trim) {
            assert!(example.contains(&line), "not in the example: {line}");
            lines += 1;
        }
    }
    assert!(lines > 40, "{lines} lines of Rust in the README");
}

/// A kind has one payload: what SQL writes, the Rust beside it reads.
#[tokio::test]
async fn the_sql_of_the_readme_writes_what_its_rust_reads() {
    let database = Database::fresh("readme_sql").await;
    let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
    outbox::migrate(&pool).await.unwrap();
    let run = async |sql: String| {
        let ran = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await;
        ran.unwrap();
    };
    run("create table orders (id uuid primary key, total bigint not null)".to_owned()).await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(here.join("README.md")).unwrap();
    for block in readme.split("```sql\n").skip(1) {
        run(block.split("```").next().unwrap().to_owned()).await;
    }
    run("insert into orders values (gen_random_uuid(), 99)".to_owned()).await;
    let written: Vec<(String, String, Vec<u8>)> =
        sqlx::query_as("select key, kind, payload from outbox.log")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(written.len(), 2);
    for (key, kind, payload) in written {
        assert_eq!(kind, "order.placed.v1");
        let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(payload["order_id"], key.as_str());
        assert!(payload["total"].is_i64(), "{payload}");
    }
}
