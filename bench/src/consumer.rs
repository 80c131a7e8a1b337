//! B4: the consumer with its inbox and a handler that does nothing, over records that wait for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outbox::{Consumer, Error, Handler, Received};
use sqlx::{PgPool, PgTransaction};
use tokio_util::sync::CancellationToken;

use crate::{
    drain::produce,
    report::{Report, Target},
    settings::Arguments,
    wal,
    world::{LOOK, World},
};

/// Records of a run.
const RECORDS: i64 = 400_000;
/// Records whose WAL is weighed.
const WEIGHED: i64 = 50_000;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let topic = world.topic("consumer").await?;
    let tuning = arguments.relay().tuning;
    produce(&*world.broker, &topic, RECORDS, &tuning).await?;
    let few = world.topic("weighed").await?;
    produce(&*world.broker, &few, WEIGHED, &tuning).await?;
    for _ in 0..arguments.runs {
        let (database, pool) = world.database("consumer").await?;
        let rate = consume(world, &pool, &topic, RECORDS).await?;
        report.aim(
            "B4 consumer with inbox, empty handler",
            "msg/s",
            Target::AtLeast(50_000.0),
            rate,
        );
        world.discard(database, pool).await?;

        let (database, pool) = world.database("weighed").await?;
        let consuming = async { consume(world, &pool, &few, WEIGHED).await.map(drop) };
        report.aim(
            "B4 WAL of a message in the inbox",
            "B",
            Target::AtMost(250.0),
            wal::each(&pool, WEIGHED, consuming).await?,
        );
        world.discard(database, pool).await?;
    }
    Ok(())
}

struct Empty {
    handled: Arc<AtomicU64>,
}

impl Handler for Empty {
    async fn handle(&self, _: &mut PgTransaction<'_>, _: &Received) -> Result<(), Error> {
        self.handled.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// Messages per second, from the first handled (joining the group takes its own time) to the last.
async fn consume(world: &World, pool: &PgPool, topic: &str, records: i64) -> Result<f64> {
    // A group of its own, which begins at the beginning; its name, of a usual length, is in each row.
    static GROUPS: AtomicU64 = AtomicU64::new(0);
    let name = format!("payment-service-{}", GROUPS.fetch_add(1, Relaxed));
    let handled = Arc::new(AtomicU64::new(0));
    let handler = Empty {
        handled: Arc::clone(&handled),
    };
    let consumer = Consumer::new(
        &name,
        &[topic],
        pool.clone(),
        Arc::clone(&world.broker),
        handler,
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let running = tokio::spawn(async move { consumer.run(token).await });
    let started = Instant::now();
    let wanted = u64::try_from(records)?;
    let mut first = None;
    loop {
        let now = handled.load(Relaxed);
        if now > 0 {
            first.get_or_insert((now, Instant::now()));
        }
        if now >= wanted {
            break;
        }
        ensure!(
            !running.is_finished() && started.elapsed() < PATIENCE,
            "the consumer handled {now} of {wanted} messages"
        );
        tokio::time::sleep(LOOK).await;
    }
    let (before, since) = first.unwrap_or((0, started));
    let rate = (wanted - before) as f64 / since.elapsed().as_secs_f64();
    shutdown.cancel();
    running.await??;
    let noted: i64 = sqlx::query_scalar("select count(*) from outbox.inbox")
        .fetch_one(pool)
        .await?;
    ensure!(
        noted == records,
        "the inbox has {noted} of {records} messages"
    );
    Ok(rate)
}
