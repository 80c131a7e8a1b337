//! Health: whether the process lives, whether it can work, and its figures.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process runs: restarting it would not help with anything else |
//! | `/readyz` | 200 when every check passes, else 503; JSON with each check's state and detail. `?exclude=broker&exclude=lease` leaves these out: for who asks whether requests would be answered |
//! | `/metrics` | Prometheus text |
//!
//! **Promised**: `/readyz` answers within a second and a bit whatever hangs: checks run at the
//! same time, each for [`CHECK_TIMEOUT`] at most; one that panics is failing. However many ask, a check
//! runs once in [`FRESH`], and that of the database on a connection of its own: a crowd of requests that
//! wait for the pool is not a dead service. **Not promised**: that a ready service stays so until the
//! request arrives. **What if** the database is away at
//! start: HTTP is up before it, `/healthz` is 200 and `/readyz` 503.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::database;

/// How long a check may take before it counts as failing.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// For how long a check's outcome is given to others who ask.
pub const FRESH: Duration = Duration::from_secs(1);

type Check = Arc<dyn Fn() -> BoxFuture<'static, Checked> + Send + Sync>;

/// What must be well for the service to work, by name. Clones are the same registry, so a check
/// may be added when the part it looks at comes to life. Without checks the answer is `ready`.
#[derive(Clone, Default)]
pub struct Readiness(Arc<RwLock<BTreeMap<String, Check>>>);

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Readiness)]
pub struct Report {
    /// Whether all checks pass.
    pub status: Status,
    /// Each check by name.
    pub checks: BTreeMap<String, Checked>,
}

/// The whole in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ReadinessStatus)]
pub enum Status {
    /// Every check passes.
    Ready,
    /// At least one fails.
    Unready,
}

/// One check's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "status", content = "detail", rename_all = "lowercase")]
pub enum Checked {
    /// It passes, and says this.
    Ok(Value),
    /// It fails, for this reason.
    Failing(Value),
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.checks().keys()).finish()
    }
}

impl Readiness {
    /// A registry without checks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, or replaces the one of this name. It runs when `/readyz` is asked and its last outcome
    /// is older than [`FRESH`], is dropped after [`CHECK_TIMEOUT`], and what it returns is public: no secrets.
    pub fn add<F, E>(&self, name: impl Into<String>, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Value, E>> + Send + 'static,
        E: Display,
    {
        let check = Arc::new(check);
        let last: Arc<Mutex<Option<(Instant, Checked)>>> = Arc::default();
        self.insert(name.into(), move || {
            let (check, last) = (Arc::clone(&check), Arc::clone(&last));
            async move {
                // Who asks while it runs waits for its outcome.
                let mut last = last.lock().await;
                match &*last {
                    Some((at, checked)) if at.elapsed() < FRESH => checked.clone(),
                    _ => {
                        let checked = run(&*check).await;
                        *last = Some((Instant::now(), checked.clone()));
                        checked
                    }
                }
            }
            .boxed()
        });
    }

    fn insert(
        &self,
        name: String,
        check: impl Fn() -> BoxFuture<'static, Checked> + Send + Sync + 'static,
    ) {
        let mut checks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        checks.insert(name, Arc::new(check));
    }

    /// Adds a check that fails until [`Gate::open`], for steps of a start.
    pub fn gate(&self, name: impl Into<String>, waiting_for: &str) -> Gate {
        let gate = Gate(Arc::new(watch::Sender::new(Some(waiting_for.to_owned()))));
        let asked = gate.clone();
        self.insert(name.into(), move || {
            let checked = match asked.waiting_for() {
                None => Checked::Ok(json!("done")),
                Some(what) => Checked::Failing(json!(what)),
            };
            async { checked }.boxed()
        });
        gate
    }

    /// Adds the check `database`: does it answer, on the connection `own` (see [`database::own`])? The
    /// detail counts the connections of `pool`.
    pub fn add_database(&self, pool: &PgPool, own: &PgPool) {
        let (pool, own) = (pool.clone(), own.clone());
        self.add("database", move || {
            let (pool, own) = (pool.clone(), own.clone());
            async move {
                let pinged = database::ping(&own).await;
                let detail = json!({"connections": pool.size(), "idle": pool.num_idle()});
                pinged
                    .map(|()| detail)
                    .map_err(|error| database::describe(&error))
            }
        });
    }

    /// Runs all checks at the same time.
    pub async fn report(&self) -> Report {
        self.report_without(&[]).await
    }

    /// As [`report`](Self::report), without the checks of these names. One that nobody added is no
    /// error: callers name parts that not every service has.
    pub async fn report_without(&self, excluded: &[String]) -> Report {
        let mut checks = self.checks();
        checks.retain(|name, _| !excluded.contains(name));
        let outcomes = join_all(checks.values().map(|check| check())).await;
        let checks: BTreeMap<_, _> = checks.into_keys().zip(outcomes).collect();
        let ready = checks
            .values()
            .all(|checked| matches!(checked, Checked::Ok(_)));
        let status = if ready {
            Status::Ready
        } else {
            Status::Unready
        };
        Report { status, checks }
    }

    fn checks(&self) -> BTreeMap<String, Check> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn run<F, E>(check: &(impl Fn() -> F + Sync)) -> Checked
where
    F: Future<Output = Result<Value, E>> + Send,
    E: Display,
{
    let outcome = AssertUnwindSafe(async { check().await }).catch_unwind();
    match tokio::time::timeout(CHECK_TIMEOUT, outcome).await {
        Ok(Ok(Ok(detail))) => Checked::Ok(detail),
        Ok(Ok(Err(reason))) => Checked::Failing(json!(reason.to_string())),
        Ok(Err(_)) => Checked::Failing(json!("the check panicked")),
        Err(_) => Checked::Failing(json!(format!("no answer within {CHECK_TIMEOUT:?}"))),
    }
}

/// A step of a start, as readiness shows it. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<Option<String>>>);

impl Gate {
    /// Says what is being waited for now.
    pub fn wait_for(&self, what: &str) {
        self.set(Some(what.to_owned()));
    }

    /// From now on the check passes.
    pub fn open(&self) {
        self.set(None);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        // The sender is here: it cannot be gone.
        let _ = self.0.subscribe().wait_for(Option::is_none).await;
    }

    /// What is being waited for; `None` once it is open.
    #[must_use]
    pub fn waiting_for(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    fn set(&self, waiting_for: Option<String>) {
        self.0.send_replace(waiting_for);
    }
}

/// What the three paths answer from.
#[derive(Clone)]
struct Probed {
    readiness: Readiness,
    metrics: PrometheusHandle,
}

/// The three paths, to be merged into a service's router.
pub fn router(readiness: Readiness, metrics: PrometheusHandle) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(figures))
        .with_state(Probed { readiness, metrics })
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "probes", operation_id = "healthz", security(()),
    responses((status = 200, description = "It does", body = Value)))]
async fn healthz() -> Json<Value> {
    Json(json!({"status": "alive"}))
}

/// Whether the service can work
///
/// Whether requests would be answered needs neither broker nor lease: leave them out.
#[utoipa::path(get, path = "/readyz", tag = "probes", operation_id = "readyz", security(()),
    params(("exclude" = Option<Vec<String>>, Query,
        description = "A check that does not count; may be given several times")),
    responses(
        (status = 200, description = "Every check passes", body = Report),
        (status = 503, description = "At least one fails, and says why", body = Report)))]
async fn readyz(
    State(Probed { readiness, .. }): State<Probed>,
    Query(asked): Query<Vec<(String, String)>>,
) -> impl IntoResponse {
    answer(readiness.report_without(&excluded(asked)).await)
}

/// The values of `exclude`, which may be given several times.
fn excluded(asked: Vec<(String, String)>) -> Vec<String> {
    let excluded = asked.into_iter().filter(|(name, _)| name == "exclude");
    excluded.map(|(_, check)| check).collect()
}

fn answer(report: Report) -> impl IntoResponse {
    let status = match report.status {
        Status::Ready => StatusCode::OK,
        Status::Unready => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(report))
}

/// The process's figures
#[utoipa::path(get, path = "/metrics", tag = "probes", operation_id = "metrics", security(()),
    responses((status = 200, description = "Prometheus text", content_type = "text/plain",
        body = String)))]
async fn figures(State(Probed { metrics, .. }): State<Probed>) -> impl IntoResponse {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, text)], metrics.render())
}
