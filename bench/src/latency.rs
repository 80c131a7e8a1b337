//! B3: from the return of the commit to the consumer, with an open loop.
//!
//! The relay runs inside this process, alone on its runtime; the writers and the consumer have
//! threads of their own.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use hdrhistogram::Histogram;
use outbox::Relay;
use tokio_util::sync::CancellationToken;

use crate::{
    brokers::Watched,
    open_loop::{Arrivals, Load, Stamps},
    report::{Report, Target},
    settings::Arguments,
    world::World,
};

/// What is written at first is not counted: connections are made, statements prepared, partitions
/// found.
pub(crate) const WARM_UP: Duration = Duration::from_secs(2);
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];

pub(crate) async fn measure(
    world: &World,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    for &rate in &arguments.rates {
        for _ in 0..arguments.runs {
            let stages = run(world, rate, arguments, false).await?;
            stages.report(&format!("B3 at {rate}/s"), report);
        }
    }
    Ok(())
}

/// Times in µs.
pub(crate) struct Stages {
    /// The quantity with a target.
    pub(crate) commit_to_consumer: Histogram<u64>,
    due_to_commit: Histogram<u64>,
    commit_to_sent: Histogram<u64>,
    sent_to_acknowledged: Histogram<u64>,
    sent_to_consumer: Histogram<u64>,
    due_to_consumer: Histogram<u64>,
    /// Commits per second.
    achieved: f64,
}

impl Stages {
    fn report(&self, name: &str, report: &mut Report) {
        report.add(&format!("{name}: commits achieved"), "tx/s", self.achieved);
        for (quantile, share) in QUANTILES {
            let what = format!("{name}: commit → consumer, {quantile}");
            let value = milliseconds(&self.commit_to_consumer, share);
            match quantile {
                "p50" => report.aim(&what, "ms", Target::AtMost(2.5), value),
                "p99" => report.aim(&what, "ms", Target::AtMost(10.0), value),
                _ => report.add(&what, "ms", value),
            }
        }
        let stages = [
            ("due → committed", &self.due_to_commit),
            ("commit → read and sent", &self.commit_to_sent),
            ("sent → acknowledged", &self.sent_to_acknowledged),
            ("sent → consumer", &self.sent_to_consumer),
            ("due → consumer", &self.due_to_consumer),
        ];
        for (stage, times) in stages {
            for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
                let what = format!("{name}: {stage}, {quantile}");
                report.add(&what, "ms", milliseconds(times, share));
            }
        }
    }
}

pub(crate) fn milliseconds(times: &Histogram<u64>, share: f64) -> f64 {
    times.value_at_quantile(share) as f64 / 1e3
}

/// One run; `held` with a transaction open all the time that has written a message itself.
pub(crate) async fn run(
    world: &World,
    rate: u64,
    arguments: &Arguments,
    held: bool,
) -> Result<Stages> {
    let (database, pool) = world.database("latency").await?;
    let topic = world.topic("latency").await?;
    let length = WARM_UP + arguments.length();
    let messages = usize::try_from(rate * length.as_secs())?;
    let stamps = Arc::new(Stamps::new(messages));
    let shutdown = CancellationToken::new();
    let relay = Relay::new(
        database.options()?,
        Arc::new(Watched {
            broker: Arc::clone(&world.broker),
            stamps: Arc::clone(&stamps),
        }),
        arguments.relay(),
    );
    let token = shutdown.clone();
    let relay = tokio::spawn(async move { relay.run(token).await });
    let mut open = pool.begin().await?;
    if held {
        let message = outbox::Message::raw("latency.held", "held", "bench.held.v1", vec![]);
        outbox::enqueue(&mut open, &message).await?;
    }
    let deadline = length + Duration::from_secs(60);
    let arrivals = Arrivals::of(
        &*world.broker,
        &topic,
        messages,
        deadline,
        Arc::clone(&stamps),
    )
    .await?;
    let load = Load {
        rate,
        messages,
        writers: arguments.writers,
        begin: stamps.epoch.elapsed() + Duration::from_millis(300),
    };
    let writing = load.write(
        database.options()?,
        &topic,
        Arc::clone(&stamps),
        shutdown.clone(),
    );
    writing.await?;
    arrivals.all().await?;
    open.rollback().await?;
    // The consumer may have a message before the relay hears that it was taken.
    testbed::wait_for(deadline, "the acknowledgements", async || {
        Ok((0..messages)
            .all(|n| stamps.acknowledged.of(n).is_some())
            .then_some(()))
    })
    .await?;
    shutdown.cancel();
    relay.await??;
    world.discard(database, pool).await?;
    stages(&load, &stamps, usize::try_from(rate * WARM_UP.as_secs())?)
}

fn stages(load: &Load, stamps: &Stamps, warm_up: usize) -> Result<Stages> {
    let due = |n| Some(u64::try_from(load.due(n).as_micros()).unwrap_or(u64::MAX));
    let between = |from: &dyn Fn(usize) -> Option<u64>, to: &dyn Fn(usize) -> Option<u64>| {
        let mut times = Histogram::<u64>::new(3)?;
        for n in warm_up..load.messages {
            if let (Some(from), Some(to)) = (from(n), to(n)) {
                // A message may be read and even arrive before its writer hears of its own commit.
                times.record(to.saturating_sub(from))?;
            }
        }
        anyhow::Ok(times)
    };
    let committed = |n| stamps.committed.of(n);
    let sent = |n| stamps.sent.of(n);
    let acknowledged = |n| stamps.acknowledged.of(n);
    let consumed = |n| stamps.consumed.of(n);
    let first = due(warm_up).unwrap_or(0);
    let last = (warm_up..load.messages).filter_map(committed).max();
    let seconds = last.unwrap_or(first).saturating_sub(first) as f64 / 1e6;
    Ok(Stages {
        commit_to_consumer: between(&committed, &consumed)?,
        due_to_commit: between(&due, &committed)?,
        commit_to_sent: between(&committed, &sent)?,
        sent_to_acknowledged: between(&sent, &acknowledged)?,
        sent_to_consumer: between(&sent, &consumed)?,
        due_to_consumer: between(&due, &consumed)?,
        achieved: (load.messages - warm_up) as f64 / seconds,
    })
}
