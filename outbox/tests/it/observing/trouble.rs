//! A collector that is away, hangs or refuses costs spans, and nothing else.

use outbox::outgoing::Config;
use testbed::collector::{Collector, Mood};
use tracing::Instrument;

use crate::{
    observing::{
        child::{self, Left, say},
        traces::secret,
    },
    reading::{Effects, Reading},
    world::World,
};

/// In the child: traced messages go where they should.
pub(super) async fn business_as_usual() {
    let world = World::embedded("trouble").await;
    let relay = world.relay(Config::default());
    let reading = Reading::start(&world, &Effects::default());
    for n in 0..50 {
        let span = tracing::info_span!("request");
        world
            .send(&[secret(&world.topic, n)])
            .instrument(span)
            .await;
    }
    world.wait_for_effects(&(0..50).collect::<Vec<_>>()).await;
    reading.stop().await;
    relay.stop().await;
    say("handled", world.effects().await.len());
}

fn assert_unharmed(left: &Left, most_ms: u64) {
    assert_eq!(left.one("handled"), "50");
    let warnings = left.log.matches("spans could not be exported").count();
    // One in ten seconds; the whole child may last longer on a starved machine.
    assert!((1..=6).contains(&warnings), "{warnings} warnings");
    let flushed: u64 = left.one("flushed_in_ms").parse().unwrap();
    assert!(flushed < most_ms, "flushed in {flushed} ms");
    let lost = left.all("spans").into_iter().find_map(|line| {
        let lost = line.strip_prefix("trace_spans_lost_total ")?;
        lost.parse::<u64>().ok()
    });
    assert!(lost.is_some_and(|lost| lost > 0), "{lost:?} are lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_harms_nothing() {
    let collector = Collector::start(Mood::Refuses).await.unwrap();
    let left = child::run("trouble", Some(&collector), &[]).await;
    assert!(collector.requests() > 0, "the fault fired");
    assert!(left.log.contains("answered 500"), "{}", left.log);
    assert_unharmed(&left, 5_500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_harms_nothing_and_holds_up_no_end() {
    let collector = Collector::start(Mood::Hangs).await.unwrap();
    let timeout = [("OTEL_EXPORTER_OTLP_TIMEOUT", "400")];
    let left = child::run("trouble", Some(&collector), &timeout).await;
    assert!(collector.requests() > 0, "the fault fired");
    assert_unharmed(&left, 5_500);
    // With the timeout it has by default, an export is under way when the process wants to end.
    let left = child::run("trouble", Some(&collector), &[]).await;
    let flushed: u64 = left.one("flushed_in_ms").parse().unwrap();
    assert!(flushed < 5_500, "flushed in {flushed} ms");
    assert_eq!(left.one("handled"), "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_nothing() {
    let nobody = format!("http://127.0.0.1:{}", testbed::free_port());
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", nobody.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let left = child::run("trouble", None, &environment).await;
    assert!(left.log.contains("cannot connect"), "{}", left.log);
    assert_unharmed(&left, 5_500);
}
