//! P1: a message leaves if and only if its transaction committed.

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

use crate::world::{World, header};

#[tokio::test(flavor = "multi_thread")]
async fn only_committed_messages_leave_also_from_savepoints() {
    let world = World::embedded("commit").await;
    let mut tx = world.pool.begin().await.unwrap();
    outbox::enqueue(&mut tx, &world.message("k", 1))
        .await
        .unwrap();
    tx.rollback().await.unwrap();

    let mut tx = world.pool.begin().await.unwrap();
    outbox::enqueue(&mut tx, &world.message("k", 2))
        .await
        .unwrap();
    let mut savepoint = sqlx::Acquire::begin(&mut *tx).await.unwrap();
    outbox::enqueue(&mut savepoint, &world.message("k", 3))
        .await
        .unwrap();
    savepoint.rollback().await.unwrap();
    let mut savepoint = sqlx::Acquire::begin(&mut *tx).await.unwrap();
    outbox::enqueue(&mut savepoint, &world.message("k", 4))
        .await
        .unwrap();
    savepoint.commit().await.unwrap();
    tx.commit().await.unwrap();

    let relay = world.relay(Default::default());
    let mut oracle = world.oracle();
    // A last message on the same key: what should not come would come before it.
    world.send(&[world.message("k", 5)]).await;
    oracle.wait_for(3).await;
    assert_eq!(oracle.numbers(), [2, 4, 5]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_leaves_when_it_is_committed_and_holds_up_nobody() {
    let world = World::embedded("prepared").await;
    let relay = world.relay(Default::default());
    let mut oracle = world.oracle();

    let mut connection = world.pool.acquire().await.unwrap();
    sqlx::query("begin")
        .execute(&mut *connection)
        .await
        .unwrap();
    sqlx::query(
        "insert into outbox.log (message_id, topic, key, kind, payload)
         values (gen_random_uuid(), $1, 'k', 'test.counted.v1', '{\"n\":1}')",
    )
    .bind(&world.topic)
    .execute(&mut *connection)
    .await
    .unwrap();
    let id = world.database.name.clone();
    let prepare = sqlx::AssertSqlSafe(format!("prepare transaction '{id}'"));
    sqlx::query(prepare)
        .execute(&mut *connection)
        .await
        .unwrap();
    world.send(&[world.message("k", 2)]).await;
    oracle.wait_for(1).await;
    let commit = sqlx::AssertSqlSafe(format!("commit prepared '{id}'"));
    sqlx::query(commit).execute(&mut *connection).await.unwrap();
    oracle.wait_for(2).await;
    assert_eq!(oracle.numbers(), [2, 1]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_carries_its_attributes_and_headers() {
    let world = World::embedded("headers").await;
    let relay = world.relay(Default::default());
    let mut oracle = world.oracle();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let message = world
        .message("key-1", 7)
        .with_header("traceparent", traceparent)
        .with_header("tenant", "blue");
    // The same through the bulk form.
    let bulk = [
        message.clone().with_id(uuid::Uuid::now_v7()),
        message.clone().with_id(uuid::Uuid::now_v7()),
    ];
    world.send(std::slice::from_ref(&message)).await;
    world.send(&bulk).await;
    oracle.wait_for(3).await;
    for record in &oracle.seen {
        assert_eq!(record.key.as_deref(), Some(&b"key-1"[..]));
        assert_eq!(record.payload.as_deref(), Some(&br#"{"n":7}"#[..]));
        assert_eq!(header(record, "ce_type"), "test.counted.v1");
        assert_eq!(header(record, "ce_subject"), "key-1");
        assert_eq!(header(record, "content-type"), "application/json");
        assert_eq!(header(record, "traceparent"), traceparent);
        assert_eq!(header(record, "tenant"), "blue");
    }
    assert_eq!(header(&oracle.seen[0], "ce_id"), message.id.to_string());
    let mut tombstone = world.oracle();
    world
        .send(&[outbox::Message::tombstone(
            &world.topic,
            "key-1",
            "test.gone.v1",
        )])
        .await;
    tombstone.wait_for(4).await;
    assert_eq!(
        tombstone
            .seen
            .iter()
            .filter(|record| record.payload.is_none())
            .count(),
        1
    );
    relay.stop().await;
}

#[tokio::test]
async fn a_refused_message_leaves_the_transaction_to_its_caller() {
    let world = World::embedded("refused").await;
    let mut tx = world.pool.begin().await.unwrap();
    let mut large = world.message("k", 1);
    large.payload = Some(vec![b'x'; outbox::broker::DEFAULT_MAX_BYTES]);
    let error = outbox::enqueue_all(&mut tx, &[world.message("k", 2), large])
        .await
        .unwrap_err();
    assert!(matches!(error, outbox::Error::Refused(_)), "{error}");
    tx.rollback().await.unwrap();
    assert_eq!(world.count("select count(*) from outbox.log").await, 0);
}

#[tokio::test]
async fn enqueueing_makes_a_lax_transaction_durable() {
    let world = World::embedded("durable").await;
    for bulk in [1, 2] {
        let mut tx = world.pool.begin().await.unwrap();
        sqlx::query("set local synchronous_commit = off")
            .execute(&mut *tx)
            .await
            .unwrap();
        let messages: Vec<_> = (0..bulk).map(|n| world.message("k", n)).collect();
        outbox::enqueue_all(&mut tx, &messages).await.unwrap();
        let setting: String = sqlx::query_scalar("show synchronous_commit")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(setting, "on");
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn the_trace_of_the_span_that_enqueues_travels_along_unless_the_caller_gave_another() {
    let world = World::embedded("trace").await;
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    let state = TraceState::from_key_value([("vendor", "one"), ("other", "two")]).unwrap();
    let remote = SpanContext::new(
        TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        SpanId::from(0xb7ad_6b71_6920_3331),
        TraceFlags::SAMPLED,
        true,
        state,
    );
    let given = world
        .message("k", 3)
        .with_header("traceparent", "00-1-2-01")
        .with_header("tenant", "blue");
    // Of this thread, which is the test's only one.
    let _tracing = tracing::subscriber::set_default(subscriber);
    let span = tracing::info_span!("sending");
    let parent = opentelemetry::Context::new().with_remote_span_context(remote);
    span.set_parent(parent).unwrap();
    async {
        world.send(&[world.message("k", 0)]).await;
        let two = [world.message("k", 1), world.message("k", 2)];
        world.send(&two).await;
        world.send(&[given]).await;
    }
    .instrument(span)
    .await;
    world.send(&[world.message("k", 4)]).await;

    let rows: Vec<(Option<String>, Option<serde_json::Value>)> =
        sqlx::query_as("select traceparent, headers from outbox.log order by seq")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    for (traceparent, headers) in &rows[..3] {
        let traceparent = traceparent.as_deref().unwrap();
        let ours = "00-0af7651916cd43dd8448eb211c80319c-";
        assert!(traceparent.starts_with(ours), "{traceparent}");
        assert!(!traceparent.contains("b7ad6b7169203331"), "our own span");
        let state = serde_json::json!({ "tracestate": "vendor=one,other=two" });
        assert_eq!(headers.as_ref(), Some(&state));
    }
    let blue = serde_json::json!({ "tenant": "blue" });
    assert_eq!(rows[3], (Some("00-1-2-01".to_owned()), Some(blue)));
    assert_eq!(rows[4], (None, None), "no span");
}
