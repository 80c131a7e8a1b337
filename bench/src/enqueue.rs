//! B1: what enqueueing adds to a transaction that inserts a domain row, and to the WAL.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use outbox::Message;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    report::{Report, Target},
    settings::Arguments,
    wal,
    world::{KIND, World, payloads},
};

const CLIENTS: usize = 16;
/// Turns of each kind within a run: A B A B …, so that a drift of the machine meets both alike.
const TURNS: u64 = 4;
/// Transactions whose WAL is weighed.
const WEIGHED: i64 = 5_000;
/// The row may be accompanied by its two index entries, their headers and the commit's share.
const WAL_BESIDE_ROW: f64 = 250.0;

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let (database, pool) = world.database("enqueue").await?;
    let mut clients = Clients::connect(database.options()?).await?;
    let turn = arguments.length() / u32::try_from(TURNS)?;
    // Caches, prepared statements, and the tables' first pages.
    clients.work(turn, true).await?;
    for _ in 0..arguments.runs {
        let (mut plain, mut both) = (Tally::new()?, Tally::new()?);
        for _ in 0..TURNS {
            plain.add(&clients.work(turn, false).await?)?;
            both.add(&clients.work(turn, true).await?)?;
        }
        plain.report("domain insert", report);
        both.report("domain insert + enqueue", report);
        report.aim(
            "B1 time that enqueue adds to a transaction",
            "%",
            Target::AtMost(35.0),
            (plain.rate() / both.rate() - 1.0) * 100.0,
        );
    }
    for _ in 0..arguments.runs {
        weigh(&pool, &mut clients, report).await?;
    }
    drop(clients);
    world.discard(database, pool).await
}

/// Transactions and their times.
struct Tally {
    times: Histogram<u64>,
    length: Duration,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            times: Histogram::new(3)?,
            length: Duration::ZERO,
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.times.add(&other.times)?;
        self.length += other.length;
        Ok(())
    }

    /// Transactions per second of all clients.
    fn rate(&self) -> f64 {
        self.times.len() as f64 / self.length.as_secs_f64()
    }

    fn report(&self, what: &str, report: &mut Report) {
        report.add(
            &format!("B1 {what}, {CLIENTS} clients"),
            "tx/s",
            self.rate(),
        );
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let milliseconds = self.times.value_at_quantile(quantile) as f64 / 1e3;
            report.add(&format!("B1 {what}, {name}"), "ms", milliseconds);
        }
    }
}

/// Connections of their own: a pool would add the same to both and so make the difference small.
struct Clients {
    connections: Vec<PgConnection>,
}

impl Clients {
    async fn connect(options: PgConnectOptions) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CLIENTS {
            connections.push(PgConnection::connect_with(&options).await?);
        }
        Ok(Self { connections })
    }

    /// Every client does one transaction after the other.
    async fn work(&mut self, length: Duration, enqueue: bool) -> Result<Tally> {
        let started = Instant::now();
        let mut working = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            working.spawn(async move {
                let payloads = payloads();
                let mut times = Histogram::<u64>::new(3)?;
                for payload in payloads.iter().cycle() {
                    let begun = Instant::now();
                    if begun - started > length {
                        break;
                    }
                    transaction(&mut connection, enqueue.then_some(payload)).await?;
                    times.record(u64::try_from(begun.elapsed().as_micros())?)?;
                }
                anyhow::Ok((connection, times))
            });
        }
        let mut tally = Tally::new()?;
        while let Some(worked) = working.join_next().await {
            let (connection, times) = worked??;
            tally.times.add(times)?;
            self.connections.push(connection);
        }
        tally.length = started.elapsed();
        Ok(tally)
    }
}

async fn transaction(connection: &mut PgConnection, payload: Option<&Vec<u8>>) -> Result<()> {
    let id = Uuid::now_v7();
    let mut tx = connection.begin().await?;
    sqlx::query(
        "insert into domain (id, customer, total, status) values ($1, $2, 1250, 'pending')",
    )
    .bind(id)
    .bind(Uuid::now_v7())
    .execute(&mut *tx)
    .await?;
    if let Some(payload) = payload {
        let message = Message::raw("bench.events", id.to_string(), KIND, payload.clone());
        outbox::enqueue(&mut tx, &message).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The WAL of a transaction with a message less that of one without.
async fn weigh(pool: &PgPool, clients: &mut Clients, report: &mut Report) -> Result<()> {
    let [connection, ..] = clients.connections.as_mut_slice() else {
        return Ok(());
    };
    let payloads = payloads();
    let mut bytes = [0.0; 2];
    for (bytes, enqueue) in bytes.iter_mut().zip([false, true]) {
        *bytes = wal::each(pool, WEIGHED, async {
            for payload in payloads.iter().cycle().take(usize::try_from(WEIGHED)?) {
                transaction(connection, enqueue.then_some(payload)).await?;
            }
            Ok(())
        })
        .await?;
    }
    let row: f64 = sqlx::query_scalar(
        "select avg(pg_column_size(log.*))::float8
         from (select * from outbox.log order by seq desc limit 1000) as log",
    )
    .fetch_one(pool)
    .await?;
    let [plain, both] = bytes;
    report.add("B1 WAL of a message", "B", both - plain);
    report.add("B1 the message's row", "B", row);
    report.aim(
        "B1 WAL of a message beside its row",
        "B",
        Target::AtMost(WAL_BESIDE_ROW),
        both - plain - row,
    );
    Ok(())
}
