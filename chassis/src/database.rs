//! The way to the database: a pool that gives out no dirty connection, and patience.
//!
//! **What passes here**: connections. **Promised**: a borrower never gets a connection with an
//! open transaction of someone else's; no statement runs for more than [`STATEMENT_TIMEOUT`], no
//! transaction idles longer than [`IDLE_IN_TRANSACTION_TIMEOUT`], no dead peer is believed in
//! longer than [`PEER_TIMEOUT`]; while the database is away nothing exits, and who asks is told so.
//!
//! **Not promised**: that a cancelled `begin` is harmless while it runs. sqlx 0.9.0 leaves the
//! transaction open when the future inside `Pool::begin` is dropped, and the next borrower's
//! statements vanish in it. The guard below closes such a connection instead of lending it; still,
//! never put `begin` under `select!` or a timeout. It costs one round trip per connection
//! returned, after the borrower is gone.
//!
//! **What if** a peer stalls: it can hold one of the pool's connections until a timeout ends it.
//! Loops that must not wait for that (relay, lease, timers) take connections of their own, made
//! from [`options`].

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::DatabaseUrl;
use crate::names;

/// How long a request waits for a connection before it is answered 503.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement may run.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transaction may be open with nothing running in it.
pub const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long sent bytes may stay unacknowledged before the server gives the connection up.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a returned connection may take to prove that it is clean.
const GUARD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at how much of a pool is in use.
const LOOK: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether the wait for the database ended with a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// It answers.
    Reachable,
    /// The process was asked to stop first.
    ShuttingDown,
}

/// Connect options with the timeouts of this module's promise and a name the server shows in
/// `pg_stat_activity`.
#[must_use]
pub fn options(url: &DatabaseUrl, application_name: &str) -> PgConnectOptions {
    let milliseconds = |time: Duration| time.as_millis().to_string();
    url.options()
        .clone()
        .application_name(application_name)
        .options([
            ("statement_timeout", milliseconds(STATEMENT_TIMEOUT)),
            (
                "idle_in_transaction_session_timeout",
                milliseconds(IDLE_IN_TRANSACTION_TIMEOUT),
            ),
            ("tcp_user_timeout", milliseconds(PEER_TIMEOUT)),
        ])
}

/// A pool of at most `connections`, which connects when first used and discards what is returned
/// dirty. `application_name` names it in the server, in log lines and in metrics.
#[must_use]
pub fn pool(url: &DatabaseUrl, connections: u32, application_name: &str) -> PgPool {
    let name = application_name.to_owned();
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(move |connection, _| {
            let name = name.clone();
            Box::pin(async move {
                let clean = match timeout(GUARD_TIMEOUT, is_clean(connection)).await {
                    Ok(clean) => clean,
                    Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
                };
                if !matches!(clean, Ok(true)) {
                    metrics::counter!(names::CONNECTIONS_DISCARDED, "pool" => name).increment(1);
                }
                clean
            })
        })
        .connect_lazy_with(options(url, application_name))
}

/// One connection to the database of `pool`, for who must not wait behind its borrowers: a pool of its own,
/// which connects when first used. Named after the pool's with `purpose`.
#[must_use]
pub fn own(pool: &PgPool, purpose: &str) -> PgPool {
    let options = PgConnectOptions::clone(&pool.connect_options());
    let name = options.get_application_name().unwrap_or_default();
    let name = format!("{name} {purpose}");
    PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options.application_name(&name))
}

/// Tells every few seconds how much of a pool is in use, until the shutdown.
pub async fn watch(pool: PgPool, shutdown: CancellationToken) {
    let options = pool.connect_options();
    let name = options
        .get_application_name()
        .unwrap_or_default()
        .to_owned();
    while !shutdown.is_cancelled() && !pool.is_closed() {
        tell(&pool, &name);
        shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await;
    }
}

fn tell(pool: &PgPool, name: &str) {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    let used = pool.size().saturating_sub(idle);
    let limit = pool.options().get_max_connections();
    metrics::gauge!(names::CONNECTIONS_USED, "pool" => name.to_owned()).set(used);
    metrics::gauge!(names::CONNECTIONS_LIMIT, "pool" => name.to_owned()).set(limit);
}

/// Whether no transaction is open: inside one `now()` stands still at its beginning. By the
/// simple protocol, because sqlx's own idea of the connection's state is what is in doubt.
async fn is_clean(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Row;
    sqlx::raw_sql("select now() = statement_timestamp()")
        .fetch_one(connection)
        .await?
        .try_get(0)
}

/// Waits until the database accepts a connection: one log line per attempt, with the reason and
/// the pause before the next; pauses double up to five seconds, with jitter. Wrong credentials and
/// a missing database are waited for as well: somebody may be creating them.
pub async fn wait_until_reachable(pool: &PgPool, shutdown: &CancellationToken) -> Waited {
    shutdown
        .run_until_cancelled(connect_patiently(&pool.connect_options()))
        .await
        .map_or(Waited::ShuttingDown, |()| Waited::Reachable)
}

async fn connect_patiently(options: &PgConnectOptions) {
    let mut pause = FIRST_PAUSE;
    for attempt in 1_u32.. {
        let Err(reason) = connect_once(options).await else {
            return;
        };
        let wait = jittered(pause);
        tracing::warn!(
            attempt,
            host = options.get_host(),
            port = options.get_port(),
            database = options.get_database(),
            reason,
            retry_in = ?wait,
            "the database is unreachable"
        );
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Past the pool, which would report only that it timed out.
async fn connect_once(options: &PgConnectOptions) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(Ok(connection)) => {
            // Whether the goodbye arrives does not matter.
            let _ = timeout(CONNECT_TIMEOUT, connection.close()).await;
            Ok(())
        }
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
    }
}

/// Between half of `pause` and all of it, so that replicas do not knock together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(pause) % 1000;
    pause.mul_f64(0.5 + random as f64 / 2000.0)
}

/// Asks the database for an answer through the pool.
///
/// # Errors
/// When there is no connection to be had, or the server does not answer.
pub async fn ping(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("select 1").execute(pool).await.map(|_| ())
}

/// SQL states after which the same may succeed, by their first letters: connection, a transaction's or session's
/// state, log-in, no such database, rolled back, resources, not in the needed state, stopped by an operator or a
/// timeout, system, snapshot too old, internal. `outbox::fault` says more finely whose fault a state is;
/// e2e/tests/it/faults_agree.rs holds the two against each other.
const PASSING: [&str; 17] = [
    "08", "25001", "25006", "25P01", "25P03", "25P04", "26000", "28", "3D", "40", "42P05", "53",
    "55", "57", "58", "72", "XX",
];

/// Whether the same request may succeed later: what is answered 503.
#[must_use]
pub fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            let stale_plan = code == "0A000" && error.message().contains("cached plan");
            stale_plan || PASSING.iter().any(|class| code.starts_with(class))
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        _ => false,
    }
}

/// An error in words fit for a log. PostgreSQL quotes the offending value in data exceptions
/// (SQLSTATE class 22), and values are payload: of those only the code is told.
#[must_use]
pub fn describe(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(reported) = error else {
        return error.to_string();
    };
    match reported.code() {
        Some(code) if code.starts_with("22") => format!("SQLSTATE {code}: bad data"),
        Some(code) => format!("SQLSTATE {code}: {}", reported.message()),
        None => reported.message().to_owned(),
    }
}
