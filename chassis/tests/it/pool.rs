use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use chassis::config::DatabaseUrl;
use chassis::database::{self, Waited};
use sqlx::{Connection, PgConnection, PgPool, Row};
use testbed::Database;
use tokio_util::sync::CancellationToken;

/// Polls a future so many times, then drops it wherever it stands.
async fn cancel_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut left = polls;
    let mut future = pin!(future);
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

async fn is_in_a_transaction(pool: &PgPool) -> bool {
    let mut connection = pool.acquire().await.unwrap();
    let row = sqlx::raw_sql("select now() <> statement_timestamp()")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test]
async fn a_cancelled_begin_gives_no_open_transaction_to_the_next_borrower() {
    let database = Database::fresh("chassis_pool").await;
    let url: DatabaseUrl = database.url.parse().unwrap();
    let pool = database::pool(&url, 2, "chassis-test");
    sqlx::raw_sql("create table proof (round int)")
        .execute(&pool)
        .await
        .unwrap();

    for round in 0..400 {
        drop(cancel_after(round % 8, pool.begin()).await);
        assert!(
            !is_in_a_transaction(&pool).await,
            "round {round} met an open transaction"
        );
        sqlx::query("insert into proof values ($1)")
            .bind(i32::try_from(round).unwrap())
            .execute(&pool)
            .await
            .unwrap();
    }

    let mut other = PgConnection::connect_with(url.options()).await.unwrap();
    let row = sqlx::raw_sql("select count(*) from proof")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(
        row.get::<i64, _>(0),
        400,
        "inserts vanished in somebody's transaction"
    );
}

#[tokio::test]
async fn the_pools_connections_carry_their_timeouts() {
    let database = Database::fresh("chassis_options").await;
    let pool = database::pool(&database.url.parse().unwrap(), 1, "chassis-test");
    let settings = "select current_setting('statement_timeout'),
        current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')";
    let row = sqlx::raw_sql(settings).fetch_one(&pool).await.unwrap();
    let settings: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(settings, ["30s", "30s", "chassis-test"]);
}

#[tokio::test]
async fn a_reachable_database_is_not_waited_for() {
    let database = Database::fresh("chassis_wait").await;
    let pool = database::pool(&database.url.parse().unwrap(), 1, "chassis-test");
    let waited = database::wait_until_reachable(&pool, &CancellationToken::new()).await;
    assert_eq!(waited, Waited::Reachable);
    database::ping(&pool).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_database_is_waited_for_until_the_shutdown() {
    let url: DatabaseUrl = "postgres://nobody@127.0.0.1:1/nothing".parse().unwrap();
    let pool = database::pool(&url, 1, "chassis-test");
    let shutdown = CancellationToken::new();
    let waiting = database::wait_until_reachable(&pool, &shutdown);
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        shutdown.cancel();
    };
    let (waited, ()) = tokio::join!(waiting, stopping);
    assert_eq!(waited, Waited::ShuttingDown);
}
