use sqlx::{Connection, PgConnection, query, query_scalar};
use testbed::postgres::Options;
use testbed::{Database, Postgres, command_line};

#[tokio::test]
async fn a_server_starts_for_whoever_we_are_and_answers() {
    // In a task: what starts a server must be free to move between threads.
    let server = tokio::spawn(Postgres::start()).await.unwrap().unwrap();
    let mut connection = PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    let version: String = query_scalar("show server_version_num")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(version.parse::<u32>().unwrap() >= 150_000);
    let folder = server.folder().unwrap().to_owned();
    let pid = server.pid().unwrap();
    drop(connection);
    drop(server);
    assert!(!folder.exists(), "a throw-away folder goes with its server");
    assert_eq!(command_line(pid), None);
}

#[tokio::test]
async fn a_killed_server_starts_again_with_what_was_committed() {
    let mut server = Postgres::start_with(Options {
        durable: true,
        ..Options::default()
    })
    .await
    .unwrap();
    let url = server.create_database("kept").await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    query("create table note as select 'kept' as line")
        .execute(&mut connection)
        .await
        .unwrap();

    server.kill().unwrap();
    assert_eq!(server.pid(), None);
    server.restart().await.unwrap();

    let mut again = PgConnection::connect(&url).await.unwrap();
    let line: String = query_scalar("select line from note")
        .fetch_one(&mut again)
        .await
        .unwrap();
    assert_eq!(line, "kept");
}

#[tokio::test]
async fn each_test_gets_a_database_of_its_own() {
    let (one, other) = tokio::join!(Database::fresh("shop"), Database::fresh("shop"));
    assert_ne!(one.name, other.name);
    let pool = one.pool(2).await.unwrap();
    let name: String = query_scalar("select current_database()::text")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(name, one.name);
}

#[tokio::test]
async fn a_database_name_is_checked_before_it_becomes_sql() {
    let refused = testbed::postgres()
        .await
        .create_database("a\"; drop database b; --")
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("is no name for a database"));
}
