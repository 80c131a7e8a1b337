//! A process that starts into a world without its database or its broker, or with a setting that is wrong or missing.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::Value;
use testbed::{Database, Process, free_port, until};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::shop::{self, HEALED, SOON};

/// Every long-running program of the shop.
const PROGRAMS: [&str; 5] = [
    "order-service",
    "payment-service",
    "delivery-service",
    "notification-service",
    "relay",
];
/// A broker that is never asked.
const NO_BROKER: &str = "127.0.0.1:9";
/// A database that is never asked, with a password that nobody may see.
const NO_DATABASE: &str = "postgres://shop:s3cret@127.0.0.1:9/shop";

#[tokio::test]
async fn without_a_database_every_process_stays_up_and_says_so() {
    let unreachable = format!("postgres://shop:s3cret@127.0.0.1:{}/shop", free_port());
    let unreachable = unreachable.as_str();
    let house = shop::shop().await;
    let broker = house.kafka.bootstrap();
    join_all(PROGRAMS.map(|program| assert_unready(program, unreachable, broker, "database")))
        .await;
}

#[tokio::test]
async fn without_a_broker_every_process_stays_up_and_says_so() {
    let broker = format!("127.0.0.1:{}", free_port());
    let broker = broker.as_str();
    let all = PROGRAMS.map(async |program| {
        let database = Database::fresh("e2e_no_broker").await;
        assert_unready(program, &database.url, broker, "broker").await;
    });
    join_all(all).await;
}

#[tokio::test]
async fn without_a_broker_what_needs_only_the_database_works() {
    let broker = format!("127.0.0.1:{}", free_port());
    let database = Database::fresh("e2e_orders_alone").await;
    let port = free_port();
    let mut orders = program("order-service", &database.url, &broker, port);
    orders.start().expect("it starts");
    let url = format!("http://127.0.0.1:{port}");
    let http = testbed::http(Duration::from_secs(5));
    let taking = format!("{url}/readyz?exclude=broker&exclude=lease&exclude=consumer");
    until(HEALED, "the service to take orders", async || {
        let answer = http.get(&taking).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    let order = shop::order(uuid::Uuid::now_v7());
    let placed = http.post(format!("{url}/v1/orders")).json(&order);
    let placed = placed.send().await.expect("an answer");
    assert_eq!(placed.status(), StatusCode::CREATED);
    // It says what it cannot do: be told of anything.
    let answer = http.get(format!("{url}/readyz")).send().await;
    let report: Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(report["checks"]["start"]["status"], "ok", "{report}");
    assert_eq!(
        report["checks"]["consumer"]["detail"], "the broker",
        "{report}"
    );
    let ended = orders.terminate(SOON).await.expect("it ends");
    assert!(ended.success(), "{ended}: {}", orders.log_tail());
}

#[tokio::test]
async fn before_its_schema_is_there_a_service_says_so_and_logs_no_error() {
    let unreachable = format!("postgres://shop@127.0.0.1:{}/shop", free_port());
    let port = free_port();
    let mut orders = program("order-service", &unreachable, NO_BROKER, port);
    orders.start().expect("it starts");
    let http = testbed::http(Duration::from_secs(5));
    for path in ["/v1/sagas", "/v1/orders", "/"] {
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = until(HEALED, "an answer", async || {
            http.get(&url).send().await.ok()
        })
        .await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.headers().contains_key("retry-after"), "{path}");
        let problem: Value = answer.json().await.expect("a problem");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(
            detail.contains("starting and waits for the database"),
            "{problem}"
        );
    }
    let log = orders.log_tail();
    assert!(!log.contains("ERROR"), "{log}");
    orders.terminate(SOON).await.expect("it ends");
}

#[tokio::test]
async fn a_database_that_comes_late_is_found() {
    let (port, url) = (free_port(), free_port());
    let house = shop::shop().await;
    let database = Database::fresh("e2e_late").await;
    let real = database.options().expect("options");
    let late = format!("postgres://postgres@127.0.0.1:{port}/{}", database.name);
    let mut relay = program("relay", &late, house.kafka.bootstrap(), url);
    relay.start().expect("the relay starts");
    let url = format!("http://127.0.0.1:{url}");
    unready(&relay, &url, "database").await;

    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("the database's port");
    let target = (real.get_host().to_owned(), real.get_port());
    let door = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = TcpStream::connect(target.clone())
                .await
                .expect("the database");
            tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await });
        }
    });
    relay
        .wait_ready(&url)
        .await
        .expect("the relay finds its database");
    let ended = relay.terminate(SOON).await.expect("the relay ends");
    assert!(ended.success(), "{ended}: {}", relay.log_tail());
    door.abort();
}

#[tokio::test]
async fn a_wrong_or_missing_setting_is_one_line_naming_it_and_exit_status_2() {
    for program in PROGRAMS {
        let all = [
            ("DATABASE_URL", None),
            ("DATABASE_URL", Some("")),
            ("DATABASE_URL", Some("mysql://shop:s3cret@127.0.0.1/shop")),
            (
                "DATABASE_URL",
                Some("postgres://shop:s3cret@127.0.0.1:port/shop"),
            ),
            ("KAFKA_BROKERS", None),
            ("KAFKA_BROKERS", Some("127.0.0.1")),
            ("LISTEN", Some("everywhere")),
            ("LISTEN", Some("127.0.0.1:99999")),
            ("DATABASE_CONNECTIONS", Some("0")),
            ("SHUTDOWN_TIMEOUT", Some("soon")),
            ("SHUTDOWN_TIMEOUT", Some("0s")),
            ("SHUTDOWN_TIMEOUT", Some("99999d")),
            ("KAFKA_MEMBER", Some("")),
            ("KAFKA_MEMBER", Some("a b")),
            ("LOG_FORMAT", Some("verse")),
            ("RUST_LOG", Some("outbox=loud=very")),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                Some("https://s3cret.example:4318"),
            ),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", Some("s3cret:4318")),
            ("OTEL_TRACES_SAMPLER", Some("sometimes")),
        ];
        join_all(all.map(|(name, value)| assert_refused(program, name, value))).await;
    }
    let own = [
        ("order-service", "STEP_TIMEOUT", "0s"),
        ("order-service", "STEP_TIMEOUT", "10"),
        ("order-service", "STEP_TIMEOUT", "25h"),
        ("order-service", "SAGA_RETENTION", "0s"),
        ("order-service", "SAGA_RETENTION", "999999999d"),
        ("order-service", "CREDIT_LIMIT", "0"),
        ("order-service", "DASHBOARD_NEIGHBOURS", "payments"),
        ("order-service", "AUDIT_RETENTION", "1h"),
        ("order-service", "JWT_JWKS", "http://id.example/keys"),
        ("order-service", "JWT_ISSUER", ""),
        ("order-service", "JWT_AUDIENCE", ""),
        ("order-service", "JWT_ROLE_CLAIM", ""),
        ("order-service", "JWT_ALGORITHMS", "none"),
        ("order-service", "AUTH_TOKENS", ""),
        ("payment-service", "BARRIER_RETENTION", "24h"),
        ("delivery-service", "BARRIER_RETENTION", "1h"),
        ("order-service", "STEP_ATTEMPTS", "0"),
        (
            "order-service",
            "TRACES_URL",
            "http://localhost:9411/zipkin",
        ),
        ("order-service", "TRACES_URL", "zipkin/{trace_id}"),
        ("payment-service", "TOPIC_PARTITIONS", "0"),
        ("delivery-service", "TOPIC_PARTITIONS", "many"),
        ("notification-service", "TOPIC_PARTITIONS", "1001"),
        ("relay", "SOURCE", "my orders"),
        ("relay", "SOURCE", ""),
        ("relay", "LEASE", "1ms"),
        ("relay", "LINGER_MS", "soon"),
        ("relay", "LINGER_MS", "-1"),
        ("relay", "LINGER_MS", "NaN"),
        ("relay", "PROFILE", "fast"),
    ];
    join_all(own.map(|(program, name, value)| assert_refused(program, name, Some(value)))).await;
}

#[tokio::test]
async fn the_command_line_says_in_one_line_what_is_wrong_and_shows_no_password() {
    let misplaced = "postgres://shop:s3cret@127.0.0.1/shop";
    for (arguments, status, names) in [
        (vec!["migrate", "--schema", "outbox"], 2, "--database-url"),
        (
            vec!["migrate", "--database-url", NO_DATABASE],
            2,
            "--schema",
        ),
        (
            vec![
                "migrate",
                "--database-url",
                "shop:s3cret@x",
                "--schema",
                "outbox",
            ],
            2,
            "--database-url",
        ),
        (
            vec!["migrate", misplaced, "--schema", "outbox"],
            2,
            "no such subcommand",
        ),
        (
            vec![
                "migrate",
                "--database-url",
                NO_DATABASE,
                "--schema",
                "nonsense",
            ],
            2,
            "--schema",
        ),
        (
            vec![
                "migrate",
                "--database-url",
                NO_DATABASE,
                "--schema",
                "outbox",
            ],
            1,
            "--database-url",
        ),
    ] {
        let mut command = Command::new(path("recompense"));
        command.env_clear().args(&arguments).kill_on_drop(true);
        let output = timeout(SOON, command.output()).await.expect("it ends");
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{arguments:?}: {text}");
        assert!(text.contains(names), "{arguments:?}: {text}");
        assert!(!text.contains("s3cret"), "{arguments:?}: {text}");
    }
}

async fn assert_refused(program: &str, name: &str, value: Option<&str>) {
    let case = format!("{program} with {name}={value:?}");
    let output = timeout(SOON, run_with(program, name, value)).await;
    let output = output.unwrap_or_else(|_| panic!("{case} did not end"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(
        output.status.code(),
        Some(2),
        "{case}: {}, {text}",
        output.status
    );
    assert_eq!(
        text.trim_end().lines().count(),
        1,
        "{case}: not one line: {text}"
    );
    assert!(
        text.contains(name),
        "{case}: the setting is not named: {text}"
    );
    assert!(
        !text.contains("s3cret"),
        "{case}: a password is shown: {text}"
    );
}

/// Runs a program to its end, with a good environment but for one variable. It has no other: this machine's may be set.
async fn run_with(program: &str, name: &str, value: Option<&str>) -> Output {
    let mut command = Command::new(path(program));
    command.env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", NO_DATABASE);
    command.env("KAFKA_BROKERS", NO_BROKER);
    command.env("LISTEN", "127.0.0.1:0");
    match value {
        Some(value) => command.env(name, value),
        None => command.env_remove(name),
    };
    command.output().await.expect("the program runs")
}

/// A program beside this test's own, one folder up.
fn path(program: &str) -> PathBuf {
    let ours = std::env::current_exe().expect("our own path");
    let folder = ours.ancestors().nth(2).expect("the folder of the programs");
    folder.join(program)
}

/// Starts a program and asserts that it lives, is not ready because of `check`, goes on trying, and ends when asked to.
async fn assert_unready(name: &str, database: &str, broker: &str, check: &str) {
    let port = free_port();
    let mut process = program(name, database, broker, port);
    process.start().expect("it starts");
    unready(&process, &format!("http://127.0.0.1:{port}"), check).await;
    let ended = process.terminate(SOON).await.expect("it ends");
    assert!(
        ended.success(),
        "{name} without {check} ended with {ended}: {}",
        process.log_tail()
    );
}

async fn unready(process: &Process, url: &str, check: &str) {
    let http = testbed::http(Duration::from_secs(5));
    let what = format!("{url}/readyz to blame the {check}");
    let report = until(HEALED, &what, async || {
        let answer = http.get(format!("{url}/readyz")).send().await.ok()?;
        assert_eq!(
            answer.status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "ready without its {check}"
        );
        let report: Value = answer.json().await.ok()?;
        (report["checks"][check]["status"] == "failing").then_some(report)
    });
    let report = report.await;
    assert_eq!(report["status"], "unready", "{report}");
    let reason = report["checks"][check]["detail"]
        .as_str()
        .unwrap_or_default();
    assert!(!reason.is_empty(), "no reason: {report}");
    assert!(
        !report.to_string().contains("s3cret"),
        "a password is shown: {report}"
    );
    let alive = http
        .get(format!("{url}/healthz"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(alive.status(), StatusCode::OK);
    // It says so in its log, and lives on after that.
    let what = format!("a line in the log about the {check}: {url}");
    let line = until(SOON, &what, async || {
        let log = process.log_tail();
        assert!(
            !log.contains("panicked") && !log.contains("s3cret"),
            "{log}"
        );
        let words = [
            "the database is unreachable",
            "the broker is unreachable",
            "kafka is away",
        ];
        words.iter().any(|words| log.contains(words)).then_some(())
    });
    line.await;
    assert!(process.is_running(), "it ended: {}", process.log_tail());
}

fn program(name: &str, database: &str, broker: &str, port: u16) -> Process {
    let process = Process::new(name).unwrap_or_else(|error| panic!("{error:#}"));
    process
        .env("DATABASE_URL", database)
        .env("KAFKA_BROKERS", broker)
        .env("LISTEN", format!("127.0.0.1:{port}"))
        .env("MIGRATE", "true")
}
