use std::future::pending;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get as on_get;
use chassis::http::{Json, Problem, guard, guard_with, in_task};
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::request::{get, post};

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let router = guard(Router::new().route("/orders", on_get(async || "")));
    get(&router, "/nowhere").await.problem(404, "not-found");
    let answer = post(&router, "/orders", "{}").await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn a_panic_is_a_problem_without_detail() {
    async fn panics() -> &'static str {
        panic!("the card is 4711")
    }
    async fn panics_in_a_task() -> Result<(), Problem> {
        in_task(async { panic!("the card is 4711") }).await
    }
    let router = Router::new()
        .route("/panics", on_get(panics))
        .route("/panics-in-a-task", on_get(panics_in_a_task));
    let router = guard(router);
    for uri in ["/panics", "/panics-in-a-task"] {
        let answer = get(&router, uri).await;
        answer.problem(500, "internal");
        assert!(!answer.body.to_string().contains("4711"));
    }
}

#[tokio::test]
async fn an_internal_error_keeps_its_cause_to_itself() {
    async fn fails() -> Result<(), Problem> {
        Err(Problem::internal("the password is hunter2"))
    }
    let answer = get(&guard(Router::new().route("/", on_get(fails))), "/").await;
    answer.problem(500, "internal");
    assert!(!answer.body.to_string().contains("hunter2"));
}

#[tokio::test]
async fn an_absent_database_is_503_with_retry_after() {
    async fn fails() -> Result<(), Problem> {
        Err(sqlx::Error::PoolTimedOut)?
    }
    let answer = get(&guard(Router::new().route("/", on_get(fails))), "/").await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "2");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_answered_for() {
    let router = guard(Router::new().route("/", on_get(pending::<()>)));
    let answer = get(&router, "/").await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn work_in_a_task_outlives_a_client_that_goes_away() {
    let (begun, go_on, done) = (
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
    );
    let handler = {
        let (begun, go_on, done) = (begun.clone(), go_on.clone(), done.clone());
        async move || {
            in_task(async move {
                begun.notify_one();
                go_on.notified().await;
                done.notify_one();
                Ok(Json("written"))
            })
            .await
        }
    };
    let router = guard(Router::new().route("/", on_get(handler)));
    let request = router.oneshot(Request::get("/").body(Body::empty()).unwrap());
    tokio::select! {
        _ = request => panic!("the handler waits for us"),
        () = begun.notified() => {} // and the request is dropped here, as by a disconnect
    }
    go_on.notify_one();
    done.notified().await;
}

#[tokio::test]
async fn too_much_at_once_is_refused_but_the_probes_answer() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (begun, go_on) = (begun.clone(), go_on.clone());
        async move || {
            begun.notify_one();
            go_on.notified().await;
        }
    };
    let router = Router::new()
        .route("/slow", on_get(handler))
        .route("/quick", on_get(async || "quick"))
        .route("/healthz", on_get(async || "alive"));
    let router = guard_with(router, 1);
    let slow = tokio::spawn({
        let router = router.clone();
        async move { get(&router, "/slow").await.status }
    });
    begun.notified().await;
    let answer = get(&router, "/quick").await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(get(&router, "/healthz").await.status, 200);
    go_on.notify_one();
    assert_eq!(slow.await.unwrap(), 200);
    assert_eq!(get(&router, "/quick").await.status, 200);
}
