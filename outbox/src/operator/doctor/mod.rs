//! Looks an outbox over and says what is wrong with it, why that matters, and what mends it.
//!
//! A check that may not look (no privilege, an older server) says `unknown` and why; the others go on.
//! Nothing is changed by looking. Statements of other sessions are named by their first words only: their
//! values may be anybody's.

mod broker;
mod horizon;
mod report;
mod schema;
mod server;
mod service;
mod storage;

mod table;

pub use report::{Finding, Report, Verdict};

use std::time::Duration;

use sqlx::PgPool;

use crate::{Error, broker::Broker, incoming::Session};

/// From when on something is worth telling.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A transaction open for longer is a warning, for ten times as long a problem; by default a minute.
    pub open_transaction: Duration,
    /// A prepared transaction that waits for longer is a warning, for ten times as long a problem; by default
    /// a minute.
    pub prepared_transaction: Duration,
    /// A cursor that was not written for longer is a problem while somebody leads; by default 10 s.
    pub cursor_age: Duration,
    /// A ring that turns faster than this is a warning: what it holds for a replay is half a turn. By
    /// default an hour.
    pub turn: Duration,
    /// Messages parked for longer are a problem; by default a day. Before that they are a warning.
    pub parked: Duration,
    /// Dead rows in a partition worth a warning; by default 50,000.
    pub dead_rows: i64,
    /// Clocks that differ by more are a warning; by default a second.
    pub clock: Duration,
    /// Records of each partition that are looked at; by default 200.
    pub sample: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self {
            open_transaction: minutes(1),
            prepared_transaction: minutes(1),
            cursor_age: Duration::from_secs(10),
            turn: minutes(60),
            parked: minutes(24 * 60),
            dead_rows: 50_000,
            clock: Duration::from_secs(1),
            sample: 200,
        }
    }
}

/// Makes every check. Those that ask the broker are left out without one.
///
/// # Errors
///
/// [`Error::Database`] when the database is away or has no schema `outbox`. A broker that is away is a
/// finding.
pub async fn examine(
    pool: &PgPool,
    broker: Option<&dyn Broker>,
    limits: &Limits,
) -> Result<Report, Error> {
    // A session that had looked before a table was changed is closed, and there may be as many of them as
    // the pool has.
    let mut sessions = pool.options().get_max_connections();
    loop {
        let mut session = Session::open(pool).await?;
        let report = examine_on(&mut session, pool, broker, limits).await;
        match report {
            Err(error) if session.failed(&error) && sessions > 0 => sessions -= 1,
            report => return report,
        }
    }
}

async fn examine_on(
    session: &mut Session,
    pool: &PgPool,
    broker: Option<&dyn Broker>,
    limits: &Limits,
) -> Result<Report, Error> {
    let it = session.connection();
    // Without a schema there is nothing to say about it.
    table::exists(it).await?;
    let mut report = Report::default();
    report.add("migrations", schema::migrations(it).await)?;
    report.add("sequence", schema::sequence(it).await)?;
    report.add("log_columns", schema::columns(it).await)?;
    report.add("log_triggers", schema::triggers(it).await)?;
    report.add("log_storage", schema::storage(it).await)?;
    report.add("log_edits", schema::edits(it).await)?;

    report.add("cursor_origin", service::origin(it).await)?;
    report.add("relay", service::relay(it, limits).await)?;
    report.add("pause", service::pause(it).await)?;
    report.add("parked", service::parked(it, limits).await)?;
    report.add("inbox_parked", service::inbox_parked(it, limits).await)?;

    report.add("partitions", storage::partitions(it).await)?;
    report.add("turn", storage::turn(pool, limits).await)?;
    report.add("dead_rows", storage::dead_rows(it, limits).await)?;

    report.add("open_transactions", horizon::open(it, limits).await)?;
    report.add("idle_in_transaction", horizon::idle(it, limits).await)?;
    report.add("prepared_transactions", horizon::prepared(it, limits).await)?;
    report.add("replication_slots", horizon::slots(it).await)?;
    report.add("standby_feedback", horizon::standbys(it).await)?;

    report.add("settings", server::settings(it).await)?;
    report.add("privileges", server::privileges(it).await)?;
    report.add("roles", server::roles(it).await)?;
    report.add("clock", server::clock(it, limits).await)?;

    match broker {
        None => report.push(Finding::unknown(
            "broker",
            "not asked: say where it is to have topics, their limits and the partitioner looked at",
        )),
        Some(broker) => {
            let topics = table::topics(it).await?;
            broker::examine(&mut report, broker, &topics, limits).await;
        }
    }
    Ok(report)
}
