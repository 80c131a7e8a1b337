//! P4 and P7 on the way in: one effect per message; what cannot be handled is kept, the rest flow.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use outbox::{BatchHandler, Batched, Consumer, Error, Handler, Received, incoming::OnPoison};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use sqlx::{Connection, PgConnection, PgTransaction};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    reading::{Effects, OtherGroup, Reading, config, reader_pool},
    world::{Counted, SOON, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_message_delivered_three_times_has_one_effect() {
    let world = World::kafka("thrice").await;
    for n in 0..20 {
        world.produce(&world.message(&format!("k{n}"), n), 3).await;
    }
    let reading = Reading::start(&world, &Effects::default());
    let expected: Vec<_> = (0..20).collect();
    world.wait_for_effects(&expected).await;
    reading.stop().await;
    // A consumer whose offsets are lost reads everything again; the inbox knows it all.
    let again = Consumer::new(
        &world.reader(),
        &[&world.topic],
        world.pool.clone(),
        Arc::new(OtherGroup(Arc::clone(&world.broker))),
        Effects::default(),
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let mut joined = again.joined();
    let task = tokio::spawn(async move { again.run(token).await });
    tokio::time::timeout(SOON, joined.wait_for(|r| *r))
        .await
        .expect("reads again")
        .unwrap();
    world.produce(&world.message("k0", 20), 1).await;
    let expected: Vec<_> = (0..=20).collect();
    world.wait_for_effects(&expected).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_every_sort_is_parked_with_its_reason_and_the_rest_flow_on() {
    let world = World::kafka("poison_in").await;
    let effects = Effects {
        panics_at: Some(13),
        swallows_at: Some(14),
        ..Effects::default()
    };
    world.produce(&world.message("k", 1), 1).await;

    let mut invalid_json = world.message("k", 0);
    invalid_json.payload = Some(b"{nonsense".to_vec());
    let mut null = world.message("k", 0);
    null.payload = None;
    let mut empty = world.message("k", 0);
    empty.payload = Some(vec![]);
    let mut unknown_kind = world.message("k", 0);
    unknown_kind.kind = "test.unheard_of.v9".to_owned();
    let mut deep = world.message("k", 0);
    deep.payload = Some([b"[".repeat(100_000), b"]".repeat(100_000)].concat());
    let panics = world.message("k", 13);
    let swallows = world.message("k", 14);
    let ours = [
        &invalid_json,
        &null,
        &empty,
        &unknown_kind,
        &deep,
        &panics,
        &swallows,
    ];
    for sick in ours {
        world.produce(sick, 1).await;
    }
    // Bytes of strangers, with the client itself: no headers, a header and a key that are not
    // UTF-8, ten thousand headers.
    let raw: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", testbed::kafka().await.bootstrap())
        .create()
        .unwrap();
    let header = |name: &'static str, value: &'static [u8]| Header {
        key: name,
        value: Some(value),
    };
    let many = (0..10_000).fold(OwnedHeaders::new(), |h, _| h.insert(header("x", b"y")));
    let strange = OwnedHeaders::new().insert(header("ce_id", b"\xff\xfe"));
    for headers in [OwnedHeaders::new(), strange, many] {
        let record = BaseRecord::to(&world.topic)
            .key("k")
            .payload(&b"\xff\x00"[..])
            .headers(headers);
        raw.send(record).map_err(|(error, _)| error).unwrap();
    }
    let record = BaseRecord::to(&world.topic)
        .key(&b"\xff"[..])
        .payload("")
        .partition(0);
    raw.send(record).map_err(|(error, _)| error).unwrap();
    raw.flush(SOON).unwrap();
    world.produce(&world.message("k", 2), 1).await;

    let reading = Reading::start(&world, &effects);
    world.wait_for_effects(&[1, 2]).await;
    testbed::until(SOON, "eleven sick messages", async || {
        (world.sick().await.len() == 11).then_some(())
    })
    .await;
    let sick = world.sick().await;
    let count = |class: &str| sick.iter().filter(|(c, _)| c == class).count();
    assert_eq!((count("refused"), count("unreadable")), (7, 4), "{sick:?}");
    let reasons: Vec<_> = sick.iter().map(|(_, reason)| reason.as_str()).collect();
    for part in [
        "line 1 column",
        "is null",
        "expected the kind",
        "panicked",
        "current transaction is aborted",
        "ce_specversion is missing",
        "not a text in UTF-8",
    ] {
        assert!(
            reasons.iter().any(|reason| reason.contains(part)),
            "{part}: {reasons:?}"
        );
    }
    assert!(
        !reasons.iter().any(|reason| reason.contains("nonsense")),
        "no payload in a reason"
    );
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_heals_and_a_lasting_one_is_parked_when_its_budget_is_spent() {
    let world = World::embedded("budget").await;
    let effects = Effects::default();
    effects
        .flaky
        .lock()
        .unwrap()
        .extend([(3, 2), (5, u32::MAX)]);
    let relay = world.relay(Default::default());
    let messages: Vec<_> = (0..10).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    let reading = Reading::start(&world, &effects);
    world.wait_for_effects(&[0, 1, 2, 3, 4, 6, 7, 8, 9]).await;
    assert_eq!(effects.flaky.lock().unwrap()[&3], 0, "the fault fired");
    assert_eq!(
        world.sick().await,
        [("exhausted".to_owned(), "scripted".to_owned())]
    );
    let attempts = world
        .count("select attempts::bigint from outbox.inbox_parked")
        .await;
    assert_eq!(attempts, 4);
    reading.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_database_sessions_use_up_no_budget() {
    let world = World::embedded("storm").await;
    let relay = world.relay(Default::default());
    let reading = Reading::start(&world, &Effects::default());
    let storm = {
        let options = world.database.options().unwrap();
        tokio::spawn(async move {
            let connect = <PgConnection as Connection>::connect_with(&options);
            let mut connection = connect.await.unwrap();
            let mut killed = 0;
            // Only sessions in the middle of something.
            while killed < 10 {
                killed += sqlx::query(
                    "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and application_name = 'reader'
                       and state <> 'idle'",
                )
                .execute(&mut connection)
                .await
                .unwrap()
                .rows_affected();
            }
        })
    };
    let mut sent = 0;
    while !storm.is_finished() {
        world
            .send(&[world.message(&format!("k{}", sent % 3), sent)])
            .await;
        sent += 1;
    }
    storm.await.unwrap();
    world.wait_for_effects(&(0..sent).collect::<Vec<_>>()).await;
    assert_eq!(world.sick().await, []);
    reading.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_parks_nothing() {
    let world = World::embedded("readonly").await;
    let reading = Reading::start(&world, &Effects::default());
    world.produce(&world.message("k", 1), 1).await;
    world.wait_for_effects(&[1]).await;
    // As after a failover to a standby: every session of the reader is on a read-only server.
    let name = &world.database.name;
    let read_only = async |setting: &str| -> DateTime<Utc> {
        let sql = format!("alter database {name} set default_transaction_read_only = {setting}");
        let sql = sqlx::AssertSqlSafe(sql);
        // It takes hold of our own new sessions too.
        let mut tx = world.pool.begin_with("begin read write").await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let now = sqlx::query_scalar("select clock_timestamp()");
        now.fetch_one(&world.pool).await.unwrap()
    };
    let end_sessions_from_before = async |then: DateTime<Utc>| {
        let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and application_name = 'reader'
                     and backend_start < $1";
        let end = sqlx::query(end).bind(then);
        end.execute(&world.pool).await.unwrap();
    };
    // Whoever is about to insert into the inbox is held up there, and can be seen.
    let close_gate = async || {
        let mut gate = world.pool.begin_with("begin read write").await.unwrap();
        let close = "lock table outbox.inbox in share mode";
        sqlx::query(close).execute(&mut *gate).await.unwrap();
        gate
    };
    let then = read_only("on").await;
    let mut gate = close_gate().await;
    world.produce(&world.message("k", 2), 1).await;
    let waits_at_the_gate = async |since: DateTime<Utc>| {
        testbed::until(SOON, "the reader waits to insert", async || {
            end_sessions_from_before(then).await;
            let waiting = "select query_start from pg_stat_activity
                           where datname = current_database() and application_name = 'reader'
                             and backend_start >= $1 and query_start > $2
                             and wait_event_type = 'Lock' and query like 'insert into outbox.inbox (%'";
            let waiting = sqlx::query_scalar(waiting).bind(then).bind(since);
            let waiting: Option<DateTime<Utc>> =
                waiting.fetch_optional(&world.pool).await.unwrap();
            waiting
        })
        .await
    };
    let mut last = waits_at_the_gate(then).await;
    // Let through it is refused, and comes again: first in a batch, then alone, and alone again.
    for _ in 0..3 {
        gate.rollback().await.unwrap();
        gate = close_gate().await;
        last = waits_at_the_gate(last).await;
    }
    assert_eq!(world.effects().await, [1], "the fault fired");
    let then = read_only("off").await;
    end_sessions_from_before(then).await;
    gate.rollback().await.unwrap();
    world.wait_for_effects(&[1, 2]).await;
    assert_eq!(world.sick().await, []);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_readers_share_the_partitions_and_a_rebalance_repeats_no_effect() {
    let world = World::kafka("rebalance").await;
    let relay = world.relay(Default::default());
    let first = Reading::start(&world, &Effects::default());
    let send = async |from: i64, to: i64| {
        for n in from..to {
            world
                .send(&[world.message(&format!("k{}", n % 16), n)])
                .await;
        }
    };
    send(0, 100).await;
    world.wait_for_effects(&(0..100).collect::<Vec<_>>()).await;
    let second = Reading::start(&world, &Effects::default());
    send(100, 300).await;
    world.wait_for_effects(&(0..300).collect::<Vec<_>>()).await;
    first.stop().await;
    send(300, 400).await;
    world.wait_for_effects(&(0..400).collect::<Vec<_>>()).await;
    assert_eq!(world.sick().await, []);
    second.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_goes_on_where_the_message_came_from() {
    // Without a subscriber there is no current span, so the header given is what must arrive.
    let world = World::embedded("trace").await;
    let relay = world.relay(Default::default());
    let seen = Arc::new(Mutex::new(None));
    struct Look(Arc<Mutex<Option<Received>>>);
    impl Handler for Look {
        async fn handle(&self, _: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
            *self.0.lock().unwrap() = Some(message.clone());
            Ok(())
        }
    }
    let reader = Consumer::new(
        &format!("look-{}", Uuid::now_v7().simple()),
        &[&world.topic],
        world.pool.clone(),
        Arc::clone(&world.broker),
        Look(Arc::clone(&seen)),
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let task = tokio::spawn(async move { reader.run(token).await });
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let message = world
        .message("k", 1)
        .with_header("traceparent", traceparent);
    world.send(std::slice::from_ref(&message)).await;
    let received = testbed::until(SOON, "the message", async || seen.lock().unwrap().clone()).await;
    assert_eq!(received.id, message.id);
    assert_eq!(received.header("traceparent"), Some(traceparent));
    assert_eq!(received.source, "/outbox");
    assert!(received.time.is_some());
    shutdown.cancel();
    task.await.unwrap().unwrap();
    relay.stop().await;
}

/// Writes a batch with one statement, or refuses all of it.
struct Together {
    batches: Arc<Mutex<Vec<Vec<i64>>>>,
}

impl BatchHandler for Together {
    async fn handle_batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), Error> {
        let numbers: Vec<i64> = batch
            .iter()
            .map(|message| Ok(message.decode::<Counted>()?.n))
            .collect::<Result<_, Error>>()?;
        self.batches.lock().unwrap().push(numbers.clone());
        sqlx::query("insert into effect select unnest($1::bigint[])")
            .bind(&numbers)
            .execute(&mut **tx)
            .await?;
        if numbers.contains(&13) {
            return Err(Error::permanent("scripted"));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_handled_together_without_duplicates_and_redone_in_halves_when_it_fails() {
    let world = World::embedded("batched").await;
    let batches = Arc::<Mutex<Vec<Vec<i64>>>>::default();
    let handler = Batched(Together {
        batches: Arc::clone(&batches),
    });
    // There before the reader, so that they come as one batch.
    for n in 0..10 {
        world.produce(&world.message("k", n), 2).await;
    }
    let reading = Reading::with(&world, handler, config(OnPoison::SkipMessage));
    world.wait_for_effects(&(0..10).collect::<Vec<_>>()).await;
    let largest = batches.lock().unwrap().iter().map(Vec::len).max();
    assert!(largest > Some(1), "handled together: {batches:?}");
    let messages: Vec<_> = (10..20).map(|n| world.message("k", n)).collect();
    let relay = world.relay(Default::default());
    world.send(&messages).await;
    let expected: Vec<_> = (0..20).filter(|n| *n != 13).collect();
    world.wait_for_effects(&expected).await;
    assert!(
        batches.lock().unwrap().contains(&vec![13]),
        "redone with slices of one"
    );
    testbed::until(SOON, "the sick one", async || {
        (world.sick().await == [("refused".to_owned(), "scripted".to_owned())]).then_some(())
    })
    .await;
    reading.stop().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_large_and_many_headed_records_are_handled_and_do_not_fill_memory() {
    let mut world = World::kafka("sizes").await;
    // The size is the topic's: the broker's default is 1 MiB.
    world.topic = format!("large.{}", Uuid::now_v7().simple());
    let bootstrap = testbed::kafka().await.bootstrap();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap();
    let large = NewTopic::new(&world.topic, 1, TopicReplication::Fixed(1))
        .set("max.message.bytes", "12000000");
    let created = admin.create_topics([&large], &AdminOptions::new()).await;
    created.unwrap()[0].as_ref().unwrap();

    let raw: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("message.max.bytes", "12000000")
        .create()
        .unwrap();
    let send = |n: i64, padding: usize, headers: usize| {
        let id = Uuid::now_v7().to_string();
        let mut all = OwnedHeaders::new();
        for (key, value) in [
            ("ce_specversion", "1.0"),
            ("ce_id", &id),
            ("ce_type", "test.counted.v1"),
            ("ce_source", "/test"),
        ] {
            all = all.insert(Header {
                key,
                value: Some(value),
            });
        }
        for _ in 0..headers {
            all = all.insert(Header {
                key: "x",
                value: Some("y"),
            });
        }
        let payload = format!("{{\"n\": {n}{}}}", " ".repeat(padding));
        let record = BaseRecord::to(&world.topic)
            .key("k")
            .payload(&payload)
            .headers(all);
        raw.send(record).map_err(|(error, _)| error).unwrap();
    };
    send(0, 0, 10_000);
    for n in 1..4 {
        send(n, 1_000_000, 0);
    }
    for n in 4..9 {
        send(n, 10_000_000, 0);
    }
    send(9, 0, 0);
    raw.flush(SOON).unwrap();
    let reading = Reading::start(&world, &Effects::default());
    world.wait_for_effects(&(0..10).collect::<Vec<_>>()).await;
    assert_eq!(world.sick().await, []);
    reading.stop().await;
}

/// A record of ours with a client's own settings and headers of strangers on it.
async fn raw_producer(settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", testbed::kafka().await.bootstrap());
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

fn send_raw(producer: &BaseProducer, topic: &str, n: i64, strange: &[(&str, &[u8])]) {
    let id = Uuid::now_v7().to_string();
    let ours = [
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_type", "test.counted.v1"),
        ("ce_source", "/test"),
    ];
    let ours = ours.into_iter().map(|(key, value)| (key, value.as_bytes()));
    let headers = ours.chain(strange.iter().copied());
    let headers = headers.fold(OwnedHeaders::new(), |all, (key, value)| {
        let value = Some(value);
        all.insert(Header { key, value })
    });
    let payload = format!("{{\"n\": {n}}}");
    let record = BaseRecord::to(topic)
        .key("k")
        .payload(&payload)
        .headers(headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_strangers_hold_nothing_up() {
    let world = World::kafka("strangers").await;
    let producer = raw_producer(&[]).await;
    let offset = 123_456_789_012_345_u64.to_be_bytes();
    let sick: [&[u8]; 3] = [b"\xff\xfe", b"a\0b", &offset];
    for (n, value) in (0..).zip(sick) {
        send_raw(
            &producer,
            &world.topic,
            n,
            &[("x-agent", value), ("traceparent", value)],
        );
    }
    producer.flush(SOON).unwrap();
    let reading = Reading::with(&world, Effects::default(), config(OnPoison::BlockKey));
    world.wait_for_effects(&[0, 1, 2]).await;
    assert_eq!(world.sick().await, []);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_every_codec_are_read() {
    let world = World::kafka("codecs").await;
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for (n, codec) in (0..).zip(codecs) {
        let producer = raw_producer(&[("compression.type", codec)]).await;
        // Long enough that it pays.
        let padding = [b'x'; 2_000];
        send_raw(&producer, &world.topic, n, &[("x-padding", &padding)]);
        producer.flush(SOON).unwrap();
    }
    let reading = Reading::start(&world, &Effects::default());
    world.wait_for_effects(&[0, 1, 2, 3, 4]).await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_nobody_asked_for_is_skipped_and_another_version_of_one_is_parked() {
    let world = World::embedded("kinds").await;
    let effects = Effects {
        kinds: vec!["test.counted.v1"],
        ..Effects::default()
    };
    let of_kind = |n, kind: &str| {
        let mut message = world.message("k", n);
        message.kind = kind.to_owned();
        message
    };
    let mut unreadable = of_kind(0, "test.moved.v1");
    unreadable.payload = Some(b"\xff".to_vec());
    let (strange, newer) = (of_kind(2, "other.v1"), of_kind(4, "test.counted.v2"));
    let messages = [
        &world.message("k", 1),
        &strange,
        &unreadable,
        &world.message("k", 3),
        &newer,
        &world.message("k", 5),
    ]
    .map(Clone::clone);
    world.produce_each(&messages).await;
    let reading = Reading::with(&world, effects, config(OnPoison::BlockKey));
    world.wait_for_effects(&[1, 3]).await;
    testbed::until(SOON, "two are parked", async || {
        let classes: Vec<_> = world
            .sick()
            .await
            .into_iter()
            .map(|(class, _)| class)
            .collect();
        (classes == ["refused", "blocked"]).then_some(())
    })
    .await;
    reading.stop().await;
}

/// A consumer with one session, so that what is wrong with it is met again.
fn on_one_session(world: &World, handler: impl Handler) -> Reading {
    let pool = reader_pool(world, 1);
    let broker = Arc::clone(&world.broker);
    Reading::on(world, pool, broker, handler, config(OnPoison::BlockKey))
}

/// Selects everything of a table that changes, or makes its session read-only at a number.
struct Stale {
    read_only_at: Option<i64>,
}

impl Handler for Stale {
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let Counted { n } = message.decode()?;
        sqlx::query("select * from keyed")
            .fetch_all(&mut **tx)
            .await?;
        let insert = sqlx::query("insert into effect values ($1)").bind(n);
        insert.execute(&mut **tx).await?;
        if self.read_only_at == Some(n) {
            // As on a server that was the primary: it holds from the next transaction on.
            sqlx::query("set session characteristics as transaction read only")
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_plans_are_stale_is_closed_and_nothing_is_parked() {
    let world = World::embedded("stale_plan").await;
    let reading = on_one_session(&world, Stale { read_only_at: None });
    for n in 0..4 {
        world.produce(&world.message("k", n), 1).await;
        world.wait_for_effects(&(0..=n).collect::<Vec<_>>()).await;
        let change = format!("alter table keyed add column c{n} integer");
        sqlx::raw_sql(sqlx::AssertSqlSafe(change))
            .execute(&world.pool)
            .await
            .unwrap();
    }
    assert_eq!(world.sick().await, []);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_become_read_only_is_closed() {
    let world = World::embedded("stale_session").await;
    let handler = Stale {
        read_only_at: Some(1),
    };
    let reading = on_one_session(&world, handler);
    for n in 0..4 {
        world.produce(&world.message("k", n), 1).await;
        world.wait_for_effects(&(0..=n).collect::<Vec<_>>()).await;
    }
    assert_eq!(world.sick().await, []);
    reading.stop().await;
}

/// Fails once with a batch of several, because of the database; and says how it commits.
struct Away {
    calls: Arc<Mutex<Vec<usize>>>,
    failed: Arc<Mutex<Option<usize>>>,
    modes: Arc<Mutex<Vec<String>>>,
}

impl BatchHandler for Away {
    async fn handle_batch(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &[Received],
    ) -> Result<(), Error> {
        let mode = sqlx::query_scalar("select current_setting('synchronous_commit')");
        let mode = mode.fetch_one(&mut **tx).await?;
        self.modes.lock().unwrap().push(mode);
        self.calls.lock().unwrap().push(batch.len());
        let fails = batch.len() > 10 && self.failed.lock().unwrap().is_none();
        if fails {
            *self.failed.lock().unwrap() = Some(batch.len());
            return Err(sqlx::Error::PoolTimedOut.into());
        }
        let numbers: Result<Vec<i64>, Error> = batch
            .iter()
            .map(|message| Ok(message.decode::<Counted>()?.n))
            .collect();
        sqlx::query("insert into effect select unnest($1::bigint[])")
            .bind(numbers?)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_failed_with_the_database_is_done_again_as_it_was_and_commits_synchronously() {
    let world = World::embedded("away_batch").await;
    // What somebody may have set for all of a database; it counts for new sessions.
    let name = &world.database.name;
    let set = format!("alter database {name} set synchronous_commit = off");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set))
        .execute(&world.pool)
        .await
        .unwrap();
    let messages: Vec<_> = (0..300).map(|n| world.message("k", n)).collect();
    world.produce_each(&messages).await;
    let (calls, failed, modes) =
        <(Arc<Mutex<_>>, Arc<Mutex<_>>, Arc<Mutex<Vec<String>>>)>::default();
    let handler = Batched(Away {
        calls: Arc::clone(&calls),
        failed: Arc::clone(&failed),
        modes: Arc::clone(&modes),
    });
    let reading = Reading::with(&world, handler, config(OnPoison::BlockKey));
    world.wait_for_effects(&(0..300).collect::<Vec<_>>()).await;
    let failed = failed.lock().unwrap().expect("the fault fired");
    let calls = calls.lock().unwrap().clone();
    let at = calls.iter().position(|call| *call == failed).unwrap();
    assert_eq!(calls[at + 1], failed, "{calls:?}");
    assert_eq!(world.sick().await, []);
    let modes = modes.lock().unwrap().clone();
    assert!(modes.iter().all(|mode| mode == "on"), "{modes:?}");
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_read_from_its_start() {
    let world = World::kafka("made_anew").await;
    let all = |from: i64, to: i64| {
        (from..to)
            .map(|n| world.message("k", n))
            .collect::<Vec<_>>()
    };
    world.produce_each(&all(0, 50)).await;
    let reading = Reading::start(&world, &Effects::default());
    world.wait_for_effects(&(0..50).collect::<Vec<_>>()).await;

    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", testbed::kafka().await.bootstrap())
        .create()
        .unwrap();
    let options = AdminOptions::new();
    let gone = admin
        .delete_topics(&[&world.topic], &options)
        .await
        .unwrap();
    gone[0].as_ref().unwrap();
    testbed::until(SOON, "the topic is there anew", async || {
        let topic = NewTopic::new(&world.topic, 4, TopicReplication::Fixed(1));
        let made = admin.create_topics([&topic], &options).await.unwrap();
        made[0].is_ok().then_some(())
    })
    .await;
    let topics = [outbox::broker::Topic::new(&world.topic, 4)];
    world.broker.ensure_topics(&topics).await.unwrap();
    // More than there were: the old position is one of the new topic's too.
    world.produce_each(&all(100, 300)).await;
    let expected: Vec<_> = (0..50).chain(100..300).collect();
    world.wait_for_effects(&expected).await;
    assert_eq!(world.sick().await, []);
    // What is noted is the new one: nothing is read again for ever.
    world.produce_each(&all(300, 301)).await;
    let expected: Vec<_> = expected.into_iter().chain([300]).collect();
    world.wait_for_effects(&expected).await;
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_member_name_one_says_so_and_the_other_works() {
    let world = World::kafka("one_name").await;
    let bootstrap = testbed::kafka().await.bootstrap();
    let member = || {
        let kafka = outbox::broker::Kafka::new(bootstrap).unwrap();
        let named = kafka.member(Some("replica-0".to_owned()));
        let handler = Effects::default();
        Reading::from(&world, Arc::new(named), handler, config(OnPoison::BlockKey))
    };
    let mut first = member();
    world.produce(&world.message("k", 0), 1).await;
    world.wait_for_effects(&[0]).await;
    let second = member();
    let fenced = first.refused.wait_for(Option::is_some);
    let fenced = tokio::time::timeout(SOON, fenced).await;
    let reason = fenced.expect("it says so").unwrap().clone().unwrap();
    assert!(reason.contains("KAFKA_MEMBER"), "{reason}");
    for n in 1..10 {
        world.produce(&world.message("k", n), 1).await;
        world.wait_for_effects(&(0..=n).collect::<Vec<_>>()).await;
    }
    assert_eq!(*second.refused.borrow(), None, "the first lets it work");
    assert!(first.refused.borrow().is_some());
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_missing_is_told_with_what_to_do() {
    let database = testbed::Database::fresh("no_schema").await;
    let pool = database.pool(1).await.unwrap();
    let message = outbox::Message::new("t", "k", &Counted { n: 1 }).unwrap();
    let mut tx = pool.begin().await.unwrap();
    let error = outbox::enqueue(&mut tx, &message)
        .await
        .unwrap_err()
        .to_string();
    for part in ["the schema outbox", "recompense migrate"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_join_is_told_in_the_brokers_words() {
    // Our session timeout is shorter than this broker allows.
    let options = testbed::kafka::Options {
        settings: vec![(
            "group.min.session.timeout.ms".to_owned(),
            "60000".to_owned(),
        )],
        ..Default::default()
    };
    let server = testbed::Kafka::start_with(options).await.unwrap();
    let kafka = outbox::broker::Kafka::new(server.bootstrap()).unwrap();
    let world = World::with("refused_join", Arc::new(kafka)).await;
    let mut reading = Reading::start(&world, &Effects::default());
    let told = reading.refused.wait_for(Option::is_some);
    let told = tokio::time::timeout(SOON, told)
        .await
        .expect("told in time");
    let told = told.unwrap().clone().unwrap();
    assert!(told.contains("InvalidSessionTimeout"), "{told}");
    reading.stop().await;
}
