use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use chassis::database;
use chassis::health::{self, Readiness};
use chassis::http::guard;
use serde_json::{Value, json};
use testbed::Database;

use crate::request::get;
use crate::telemetry;

fn router(readiness: &Readiness) -> Router {
    guard(health::router(
        readiness.clone(),
        telemetry::init().metrics(),
    ))
}

fn passing() -> std::future::Ready<Result<Value, Infallible>> {
    ready(Ok(json!({"lag": 0})))
}

#[tokio::test]
async fn every_check_passing_is_ready() {
    let readiness = Readiness::new();
    readiness.add("broker", passing);
    let answer = get(&router(&readiness), "/readyz").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        json!({"status": "ready", "checks": {"broker": {"status": "ok", "detail": {"lag": 0}}}})
    );
}

#[tokio::test]
async fn one_failing_check_is_unready_and_says_why() {
    let readiness = Readiness::new();
    readiness.add("broker", passing);
    readiness.add("lease", || ready(Err("another relay holds it")));
    let answer = get(&router(&readiness), "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body["status"], "unready");
    assert_eq!(answer.body["checks"]["broker"]["status"], "ok");
    assert_eq!(
        answer.body["checks"]["lease"],
        json!({"status": "failing", "detail": "another relay holds it"})
    );
    assert_eq!(get(&router(&readiness), "/healthz").await.status, 200);
}

#[tokio::test]
async fn an_excluded_check_is_not_asked() {
    let readiness = Readiness::new();
    readiness.add("database", passing);
    readiness.add("broker", || ready(Err("no answer")));
    readiness.add("lease", || ready(Err("nobody relays")));
    let router = router(&readiness);
    let answer = get(&router, "/readyz?exclude=broker&exclude=lease&exclude=oven").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body["checks"],
        json!({"database": {"status": "ok", "detail": {"lag": 0}}})
    );
    for others in ["exclude=broker", "broker=", "exclude=broker,lease"] {
        let answer = get(&router, &format!("/readyz?{others}")).await;
        assert_eq!(answer.status, 503, "{others}");
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_checks_fail_together_after_one_second() {
    let readiness = Readiness::new();
    for name in ["database", "broker", "lease"] {
        readiness.add(name, pending::<Result<Value, Infallible>>);
    }
    let started = tokio::time::Instant::now();
    let answer = get(&router(&readiness), "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body["checks"]["lease"]["detail"],
        "no answer within 1s"
    );
    assert!(started.elapsed() < 2 * health::CHECK_TIMEOUT);
}

#[tokio::test]
async fn a_panicking_check_fails_alone() {
    let readiness = Readiness::new();
    readiness.add("broker", passing);
    readiness.add("lease", || async {
        if true {
            panic!("a bug")
        }
        Ok::<Value, Infallible>(json!(null))
    });
    let answer = get(&router(&readiness), "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body["checks"]["lease"]["detail"],
        "the check panicked"
    );
    assert_eq!(answer.body["checks"]["broker"]["status"], "ok");
}

#[tokio::test]
async fn a_gate_is_unready_until_it_opens() {
    let readiness = Readiness::new();
    let gate = readiness.gate("start", "the database");
    gate.wait_for("migrations");
    let answer = get(&router(&readiness), "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body["checks"]["start"]["detail"], "migrations");
    gate.open();
    assert_eq!(get(&router(&readiness), "/readyz").await.status, 200);
}

#[tokio::test]
async fn the_database_check_follows_the_database() {
    let database = Database::fresh("chassis_ready").await;
    for (url, status) in [
        (database.url.as_str(), 200),
        ("postgres://nobody@127.0.0.1:1/nothing", 503),
    ] {
        let readiness = Readiness::new();
        let pool = database::pool(&url.parse().unwrap(), 1, "chassis-test");
        readiness.add_database(&pool, &database::own(&pool, "readiness"));
        let answer = get(&router(&readiness), "/readyz").await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

#[tokio::test]
async fn the_figures_name_routes_and_never_paths() {
    let router = router(&Readiness::new());
    get(&router, "/healthz").await;
    get(&router, "/somebody/s/secret").await;
    let figures = get(&router, "/metrics").await;
    assert!(
        figures
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let text = figures.body.as_str().unwrap();
    assert!(
        text.contains(r#"http_requests_total{method="GET",route="/healthz",status="200"}"#),
        "{text}"
    );
    assert!(text.contains(r#"route="unmatched",status="404""#), "{text}");
    assert!(
        text.contains("http_request_duration_seconds_bucket"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_pool_that_is_all_lent_out_is_not_a_dead_database() {
    let database = Database::fresh("chassis_busy").await;
    let pool = database::pool(&database.url.parse().unwrap(), 1, "chassis-test");
    let borrowed = pool.acquire().await.unwrap();
    let readiness = Readiness::new();
    readiness.add_database(&pool, &database::own(&pool, "readiness"));
    let answer = get(&router(&readiness), "/readyz").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let detail = &answer.body["checks"]["database"]["detail"];
    assert_eq!(detail, &json!({"connections": 1, "idle": 0}));
    drop(borrowed);
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_a_check_runs_once_a_second() {
    let readiness = Readiness::new();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    readiness.add("broker", move || {
        let run = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(health::CHECK_TIMEOUT / 2).await;
            Ok::<Value, Infallible>(json!(run))
        }
    });
    let router = router(&readiness);
    let answers = futures::future::join_all((0..20).map(|_| get(&router, "/readyz"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    tokio::time::advance(health::FRESH).await;
    let answer = get(&router, "/readyz").await;
    assert_eq!(answer.body["checks"]["broker"]["detail"], 1);
    assert_eq!(runs.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_gate_that_opens_is_seen_at_once_by_who_waits_for_it() {
    let readiness = Readiness::new();
    let gate = readiness.gate("start", "the database");
    assert_eq!(get(&router(&readiness), "/readyz").await.status, 503);
    let waiting = tokio::spawn({
        let gate = gate.clone();
        async move { gate.opened().await }
    });
    gate.open();
    waiting.await.unwrap();
    assert_eq!(get(&router(&readiness), "/readyz").await.status, 200);
}
