//! Starting, with and without what a service needs.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use chassis::Process;
use chassis::config::{LogFilter, LogFormat, Refusal, try_parse_from};
use chassis::telemetry;
use order_service::Config;
use outbox::broker::Kafka;
use testbed::{Database, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

fn parse(further: &[&str]) -> Result<Config, Refusal> {
    let database = "--database-url=postgres://postgres:secret@127.0.0.1:1/orders";
    let elsewhere = further.iter().any(|s| s.starts_with("--database-url"));
    let needed = ["order-service", "--kafka-brokers=127.0.0.1:1"];
    let database = [database].into_iter().filter(|_| !elsewhere);
    let all = needed.into_iter().chain(database);
    try_parse_from(all.chain(further.iter().copied()).map(OsString::from))
}

#[test]
fn a_wrong_setting_is_one_line_that_names_it() {
    for (setting, flag, variable) in [
        ("--step-timeout=soon", "--step-timeout", "STEP_TIMEOUT"),
        ("--step-timeout=0s", "--step-timeout", "STEP_TIMEOUT"),
        ("--step-attempts=0", "--step-attempts", "STEP_ATTEMPTS"),
        ("--credit-limit=0", "--credit-limit", "CREDIT_LIMIT"),
        ("--saga-retention=0s", "--saga-retention", "SAGA_RETENTION"),
        (
            "--topic-partitions=0",
            "--topic-partitions",
            "TOPIC_PARTITIONS",
        ),
        ("--listen=here", "--listen", "LISTEN"),
    ] {
        let refusal = parse(&[setting]).expect_err("wrong");
        assert_eq!(refusal.status, 2);
        assert_eq!(refusal.text.lines().count(), 1, "{refusal}");
        assert!(
            refusal.text.contains(flag) && refusal.text.contains(variable),
            "{refusal}"
        );
    }
}

#[test]
fn settings_have_the_documented_defaults() {
    let config = parse(&[]).expect("settings");
    assert_eq!(config.settings.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.step_timeout, Duration::from_secs(10));
    assert_eq!((config.step_attempts, config.topic_partitions), (2, 4));
    assert_eq!(config.credit_limit, 10_000_000);
    assert_eq!(config.saga_retention, Duration::from_secs(30 * 24 * 3600));
}

/// What the process gives a service, and the token that stops it.
fn process() -> (Process, CancellationToken) {
    let filter: LogFilter = "off".parse().expect("a filter");
    let telemetry = telemetry::init("order-service", LogFormat::Text, &filter);
    let shutdown = CancellationToken::new();
    let process = Process {
        telemetry: telemetry.expect("telemetry"),
        shutdown: shutdown.clone(),
    };
    (process, shutdown)
}

fn unreachable_broker() -> Arc<Kafka> {
    Arc::new(Kafka::new("127.0.0.1:1").expect("a client"))
}

#[tokio::test]
async fn without_database_and_broker_the_service_lives_and_says_that_it_is_not_ready() {
    let address = format!("127.0.0.1:{}", free_port());
    let config = parse(&[&format!("--listen={address}")]).expect("settings");
    let (process, shutdown) = process();
    let service = tokio::spawn(order_service::run(
        config,
        chassis::http::auth::Auth::open(),
        unreachable_broker(),
        process,
    ));

    let deadline = Duration::from_secs(10);
    let health = testbed::until(deadline, "/healthz to answer", || {
        status(&address, "healthz")
    });
    assert_eq!(health.await, 200);
    assert_eq!(status(&address, "readyz").await, Some(503));
    assert_eq!(status(&address, "metrics").await, Some(200));
    assert_eq!(status(&address, "v1/orders").await, Some(503));

    shutdown.cancel();
    service.await.expect("no panic").expect("no failure");
}

#[tokio::test]
async fn a_database_that_was_never_migrated_is_an_error_that_says_what_to_do() {
    let database = Database::fresh("unmigrated").await;
    let url = format!("--database-url={}", database.url);
    let config = parse(&["--listen=127.0.0.1:0", &url]).expect("settings");
    let (process, _) = process();
    let failed = order_service::run(
        config,
        chassis::http::auth::Auth::open(),
        unreachable_broker(),
        process,
    )
    .await;
    let failed = failed.expect_err("it does not start");
    assert!(failed.to_string().contains("--migrate"), "{failed}");
}

/// Asks by hand: a client brings more than is asked here.
async fn status(address: &str, path: &str) -> Option<u16> {
    let mut connection = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}
