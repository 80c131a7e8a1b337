//! A message that was parked and is sent later has its span then.

use outbox::outgoing::Config;
use testbed::collector::{Ask, Collector, Mood};
use tracing::Instrument;

use crate::{
    observing::child::{self, say},
    scripted::scripted,
    world::World,
};

/// In the child: one message is refused, parked, and sent because a person asks for it.
pub(super) async fn later() {
    let (world, script) = scripted("later").await;
    script.sicken(1);
    let relay = world.relay(Config::default());
    let span = tracing::info_span!("request");
    let message = world.message("k", 1);
    world.send(&[message]).instrument(span).await;
    world.wait_for_unsent(&[("poison", 1)]).await;
    ask_for_replay(&world).await;
    // Refused once more, so that there are two tries.
    testbed::until(crate::world::SOON, "it is refused again", async || {
        let tries = "select coalesce(max(attempts), 0)::bigint from outbox.parked";
        (world.count(tries).await >= 2).then_some(())
    })
    .await;
    script.heal(1);
    ask_for_replay(&world).await;
    world.wait_for_unsent(&[]).await;
    world.oracle().wait_for(1).await;
    relay.stop().await;
    say("topic", &world.topic);
}

async fn ask_for_replay(world: &World) {
    let sql = "update outbox.parked set replay_at = now(), replay_by = 'test'";
    sqlx::query(sql).execute(&world.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_parked_has_a_send_span_for_each_later_try() {
    let collector = Collector::start(Mood::Takes).await.unwrap();
    let left = child::run("later", Some(&collector), &[]).await;
    let topic = left.one("topic");
    let creates = collector.named(&format!("create {topic}"));
    let [create] = &creates[..] else {
        panic!("one create: {creates:#?}")
    };
    let mut sends = collector.named(&format!("send {topic}"));
    sends.sort_by_key(|span| span.start_time_unix_nano);
    let carries = |send: &_| Ask::linked(send) == [create.span_id.clone()];
    assert!(sends.iter().all(carries), "{sends:#?}");
    let failed: Vec<_> = sends.iter().map(Ask::failed).collect();
    let (last, before) = failed.split_last().expect("a span");
    assert!(!last, "the last was taken: {sends:#?}");
    // In company and alone by the log's producer, then once for the first wish.
    assert!(before.len() >= 2 && before.iter().all(|failed| *failed));
    let taken = sends.last().unwrap();
    assert_eq!(taken.trace_id, create.trace_id);
    let count = taken.attribute("messaging.batch.message_count");
    assert_eq!(count.as_deref(), Some("1i"));
}
