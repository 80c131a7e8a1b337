//! Every metric there is, after a run in which everything happens.

use chassis::telemetry::Telemetry;
use outbox::{incoming::OnPoison, operator, outgoing::Config};
use uuid::Uuid;

use crate::{
    observing::{
        child::{self, say},
        traces::{CANARY, secret},
    },
    reading::{Effects, Reading, config},
    scripted::scripted,
    watchdog,
    world::{SOON, World},
};

/// Waits until a line of `/metrics` begins so and its value is as wanted.
async fn until_metric(telemetry: &Telemetry, series: &str, wanted: impl Fn(f64) -> bool) {
    testbed::until(SOON, &format!("{series} as wanted"), async || {
        let metrics = telemetry.metrics().render();
        let value = metrics.lines().find_map(|line| line.strip_prefix(series));
        value
            .filter(|value| wanted(value.trim().parse().unwrap()))
            .map(drop)
    })
    .await;
}

/// In the child: messages go well, fail once, fail for good, come twice; the broker refuses one; a
/// topic is missing; an operator pauses; a client stalls.
pub(super) async fn everything(telemetry: &Telemetry) {
    let world = World::kafka("measured").await;
    let effects = Effects::refusing([3]);
    effects.flaky.lock().unwrap().insert(2, 3);
    let run = Uuid::now_v7().simple();
    let (small, missing) = (format!("small.{run}"), format!("missing.{run}"));
    world
        .create_topic(&small, "max.message.bytes", "3000")
        .await;
    let reading = Reading::with(&world, effects, config(OnPoison::BlockKey));
    let mut relay = world.relay(Config::default());
    relay.leading().await;
    let topic = &world.topic;
    say("group", world.reader());
    say("missing", &missing);
    let mut poison = secret(&small, 4);
    poison.payload = Some(crate::observing::traces::incompressible(9_000));
    world
        .send(&[secret(topic, 1), secret(topic, 2), secret(topic, 3)])
        .await;
    world.wait_for_effects(&[1, 2]).await;
    // Behind the one that was refused, and the first once more.
    world.send(&[secret(topic, 3)]).await;
    world
        .produce(&secret(topic, 1).with_id(sent_first(&world).await), 1)
        .await;
    world.send(&[poison]).await;
    world.wait_for_unsent(&[("poison", 1)]).await;
    world.send(&[secret(&small, 4), secret(&missing, 5)]).await;
    world
        .wait_for_unsent(&[("blocked", 1), ("held", 1), ("poison", 1)])
        .await;
    what_is_parked_is_counted(telemetry, &world).await;
    let duplicates = format!(
        "inbox_messages_total{{consumer=\"{}\",outcome=\"duplicate\"}} ",
        world.reader()
    );
    until_metric(telemetry, &duplicates, |n| n >= 1.0).await;

    // The gauges: nothing waits; then an operator pauses and three do, and get older.
    until_metric(telemetry, "outbox_lease_held ", |held| held == 1.0).await;
    until_metric(telemetry, "outbox_backlog_messages ", |n| n == 0.0).await;
    until_metric(telemetry, "outbox_oldest_unpublished_seconds ", |age| {
        age == 0.0
    })
    .await;
    operator::pause(&world.pool, "the test").await.unwrap();
    until_metric(telemetry, "outbox_paused ", |paused| paused == 1.0).await;
    world
        .send(&[secret(topic, 6), secret(topic, 7), secret(topic, 8)])
        .await;
    until_metric(telemetry, "outbox_backlog_messages ", |n| n == 3.0).await;
    until_metric(telemetry, "outbox_oldest_unpublished_seconds ", |age| {
        age > 1.0
    })
    .await;
    // More than is counted is estimated, and not capped.
    let many: Vec<_> = (100..1_600).map(|n| secret(&small, n)).collect();
    world.send(&many).await;
    until_metric(telemetry, "outbox_backlog_messages ", |n| {
        (1_503.0..1_700.0).contains(&n)
    })
    .await;
    operator::resume(&world.pool, "ann").await.unwrap();
    until_metric(telemetry, "outbox_paused ", |paused| paused == 0.0).await;
    until_metric(telemetry, "outbox_backlog_messages ", |n| n == 0.0).await;
    world.wait_for_effects(&[1, 2, 6, 7, 8]).await;
    reading.stop().await;
    relay.stop().await;
    until_metric(telemetry, "outbox_lease_held ", |held| held == 0.0).await;
    half_a_tick(telemetry).await;
    watchdog::replace_a_stuck_client("measured_stuck").await;
}

/// Also when nothing is any more.
async fn what_is_parked_is_counted(telemetry: &Telemetry, world: &World) {
    let mut census = operator::Census::new(world.pool.clone());
    let consumer = world.reader();
    let inbox = format!("inbox_parked_messages{{consumer=\"{consumer}\"}} ");
    let of = |class: &str| format!("outbox_parked_messages{{class=\"{class}\"}} ");
    let counted = census.run_once().await.unwrap();
    assert_eq!(counted.inbox, [(consumer, 2)]);
    for class in ["blocked", "held", "poison"] {
        until_metric(telemetry, &of(class), |messages| messages == 1.0).await;
    }
    until_metric(telemetry, &inbox, |messages| messages == 2.0).await;
    let held =
        "with gone as (delete from outbox.parked where class = 'held' returning *) table gone";
    let was_held = sqlx::query(held).fetch_all(&world.pool).await.unwrap();
    assert_eq!(was_held.len(), 1);
    census.run_once().await.unwrap();
    until_metric(telemetry, &of("held"), |messages| messages == 0.0).await;
    until_metric(telemetry, &of("poison"), |messages| messages == 1.0).await;
}

/// What is acknowledged of a tick under way is not counted.
async fn half_a_tick(telemetry: &Telemetry) {
    let (world, script) = scripted("measured_tick").await;
    *script.outage_from.lock().unwrap() = Some(6);
    let messages: Vec<_> = (0..10).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    let relay = world.relay(Config::default());
    until_metric(telemetry, "outbox_backlog_messages ", |n| n == 4.0).await;
    *script.outage_from.lock().unwrap() = None;
    until_metric(telemetry, "outbox_backlog_messages ", |n| n == 0.0).await;
    relay.stop().await;
}

/// The id of the first message enqueued.
async fn sent_first(world: &World) -> Uuid {
    sqlx::query_scalar("select message_id from outbox.log order by seq limit 1")
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_docs_is_there_after_a_run_with_everything_in_it() {
    let left = child::run("metrics", None, &[]).await;
    let metrics = &left.metrics;
    let docs = include_str!("../../../../docs/telemetry.md");
    let rows = docs.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let kind = ["counter", "gauge", "histogram"]
            .into_iter()
            .find(|kind| rest.starts_with(*kind))?;
        (name.starts_with("outbox_") || name.starts_with("inbox_")).then_some((name, kind))
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() >= 23, "{rows:?}");
    for (name, kind) in rows {
        assert!(
            metrics.contains(&format!("# TYPE {name} {kind}\n")),
            "{name}: {metrics}"
        );
        assert!(
            metrics.contains(&format!("# HELP {name} ")),
            "{name} is described"
        );
    }
    let consumer = left.one("group");
    for series in [
        "outbox_commit_to_ack_seconds_bucket{le=\"0.0005\"}".to_owned(),
        "outbox_page_messages_bucket{le=\"1\"}".to_owned(),
        "outbox_parked_total{class=\"poison\",reason=\"too_large\"} 1".to_owned(),
        "outbox_parked_total{class=\"blocked\",reason=\"key_blocked\"}".to_owned(),
        "outbox_parked_total{class=\"held\",reason=\"unknown_topic\"} 1".to_owned(),
        format!("inbox_handler_seconds_bucket{{consumer=\"{consumer}\",le=\"0.0005\"}}"),
        format!("inbox_batch_messages_bucket{{consumer=\"{consumer}\",le=\"1\"}}"),
        format!("inbox_messages_total{{consumer=\"{consumer}\",outcome=\"handled\"}} 5"),
        format!("inbox_messages_total{{consumer=\"{consumer}\",outcome=\"parked\"}} 2"),
        format!("inbox_parked_total{{consumer=\"{consumer}\",class=\"refused\"}} 1"),
        format!("inbox_parked_total{{consumer=\"{consumer}\",class=\"blocked\"}} 1"),
        format!("inbox_retries_total{{consumer=\"{consumer}\"}} "),
    ] {
        assert!(metrics.contains(&series), "{series}: {metrics}");
    }
    assert!(!metrics.contains(CANARY) && !left.log.contains(CANARY));
    // A topic that takes nothing is named, with what the broker said.
    let missing = left.one("missing");
    let mut lines = left.log.lines();
    let told = lines.find(|line| line.contains("takes no messages") && line.contains(missing));
    assert!(
        told.is_some_and(|line| line.contains("UnknownTopic")),
        "{}",
        left.log
    );
}
