//! The two doors in, the Rust functions and `outbox.enqueue`: the same messages let in, the same
//! refused in the same words, the same promises kept.

use outbox::{
    Error, Message,
    outgoing::{MAX_HEADER_BYTES, MAX_HEADERS, MAX_KEY, MAX_KIND, MAX_TOPIC},
};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::world::{World, header};

/// What every record is taken to have beside what its sender put into it.
const ENVELOPE: usize = 1024;
/// The topic `small` takes so much.
const SMALL: usize = 4096;

async fn enqueue_by_sql(
    connection: &mut PgConnection,
    message: &Message,
) -> Result<Uuid, sqlx::Error> {
    let headers = (!message.headers.is_empty()).then_some(Json(&message.headers));
    sqlx::query_scalar("select outbox.enqueue($1, $2, $3, $4, $5, $6)")
        .bind(&message.topic)
        .bind(&message.key)
        .bind(&message.kind)
        .bind(&message.payload)
        .bind(headers)
        .bind(message.id)
        .fetch_one(connection)
        .await
}

/// Everything of a message's row but its place and time.
type Row = (
    String,
    String,
    String,
    Option<Vec<u8>>,
    Option<String>,
    Option<serde_json::Value>,
);

async fn row(connection: &mut PgConnection, id: Uuid) -> Row {
    sqlx::query_as(
        "select topic, key, kind, payload, traceparent, headers from outbox.log
         where message_id = $1",
    )
    .bind(id)
    .fetch_one(connection)
    .await
    .unwrap()
}

fn good() -> Message {
    Message::raw("t", "k", "kind.v1", b"{}".to_vec())
}

fn good_in(topic: &str) -> Message {
    Message::raw(topic, "k", "kind.v1", b"{}".to_vec())
}

fn with_key(key: impl Into<String>) -> Message {
    Message::raw("t", key, "kind.v1", b"{}".to_vec())
}

fn with_kind(kind: impl Into<String>) -> Message {
    Message::raw("t", "k", kind, b"{}".to_vec())
}

fn with_headers(count: usize) -> Message {
    (0..count).fold(good(), |m, i| m.with_header(format!("h{i}"), "v"))
}

/// For the topic `small`: as large as `bytes` by the rule of record sizes.
fn sized(bytes: usize) -> Message {
    let message = Message::raw("small", "schlüssel", "kind.v1", Vec::new())
        .with_header("straße", "größe")
        .with_header("traceparent", "00-1-2-01");
    let headers = "straße".len() + "größe".len() + "traceparent00-1-2-01".len() + 2 * 10;
    let rest = ENVELOPE + 2 * "schlüssel".len() + "kind.v1".len() + headers;
    let payload = Some(vec![b'x'; bytes - rest]);
    Message { payload, ..message }
}

/// Each message, and the words of its refusal if it is one.
fn cases() -> Vec<(Message, Option<&'static str>)> {
    let topic = "topic name";
    let mut cases = vec![
        (good(), None),
        (good_in(&"x".repeat(MAX_TOPIC)), None),
        (good_in("A.b-c_9"), None),
        (good_in(""), Some(topic)),
        (good_in("."), Some(topic)),
        (good_in(".."), Some(topic)),
        (good_in("a b"), Some(topic)),
        (good_in("a\nb"), Some(topic)),
        (good_in("a\n"), Some(topic)),
        (good_in("straße"), Some(topic)),
        (good_in(&"x".repeat(MAX_TOPIC + 1)), Some(topic)),
        (with_key(""), None),
        (with_key("k".repeat(MAX_KEY)), None),
        (
            with_key("k".repeat(MAX_KEY + 1)),
            Some("key has at most 1024"),
        ),
        // Bytes are counted, not letters.
        (with_key("ü".repeat(MAX_KEY / 2)), None),
        (with_key("ü".repeat(MAX_KEY / 2 + 1)), Some("key has")),
        (with_kind("k".repeat(MAX_KIND)), None),
        (
            with_kind("k".repeat(MAX_KIND + 1)),
            Some("kind has 1 to 255"),
        ),
        (with_kind(""), Some("kind has")),
        (with_headers(MAX_HEADERS), None),
        (with_headers(MAX_HEADERS + 1), Some("at most 64 headers")),
        (
            good().with_header("h", "v".repeat(MAX_HEADER_BYTES - 1)),
            None,
        ),
        (
            good().with_header("h", "v".repeat(MAX_HEADER_BYTES)),
            Some("at most 16384 bytes together, these have 16385"),
        ),
        (good().with_header("", "v"), Some("header's name")),
        (good().with_header("ce_id", "1"), Some("begin with ce_")),
        (good().with_header("ce-id", "1"), None),
        (good().with_header("ceiling", "1"), None),
        (good().with_header("quote", "\"'\\ \u{1F600}"), None),
        (good().with_content_type("image/png"), None),
        (good().with_header("traceparent", "00-1-2-01"), None),
        (
            good()
                .with_header("traceparent", "00-1-2-01")
                .with_header("tracestate", "a=1"),
            None,
        ),
        (Message::tombstone("t", "k", "gone.v1"), None),
        (Message::raw("t", "k", "kind.v1", Vec::new()), None),
        (Message::raw("t", "k", "kind.v1", vec![0, 255, 10]), None),
        (sized(SMALL), None),
        (
            sized(SMALL + 1),
            Some("has 4097 bytes with key, headers and envelope, topic small takes at most 4096"),
        ),
        // The first breach is the one that is named.
        (
            Message {
                topic: "small".to_owned(),
                ..with_key("k".repeat(5000))
            },
            Some("key has"),
        ),
    ];
    let whole = (1 << 20) - ENVELOPE - 2 - "kind.v1".len();
    for (size, refused) in [(whole, None), (whole + 1, Some("takes at most 1048576"))] {
        let message = Message::raw("unknown", "k", "kind.v1", vec![7; size]);
        cases.push((message, refused));
    }
    cases
}

#[tokio::test]
async fn both_doors_let_in_and_refuse_the_same_in_the_same_words() {
    let world = World::embedded("doors").await;
    sqlx::query("insert into outbox.topic (name, max_bytes) values ('small', $1)")
        .bind(i32::try_from(SMALL).unwrap())
        .execute(&world.pool)
        .await
        .unwrap();
    for (message, refused) in cases() {
        let case = format!(
            "{:?} {:?} {:?} {} B {:?}",
            message.topic,
            message.key,
            message.kind,
            message.payload.as_ref().map_or(0, Vec::len),
            message.headers
        );
        let mut tx = world.pool.begin().await.unwrap();
        let by_rust = outbox::enqueue(&mut tx, &message).await;
        let first = match &by_rust {
            Ok(id) => Some(row(&mut tx, *id).await),
            Err(_) => None,
        };
        tx.rollback().await.unwrap();

        let mut tx = world.pool.begin().await.unwrap();
        let in_company = [good(), message.clone(), good()];
        let in_company = outbox::enqueue_all(&mut tx, &in_company).await;
        let rows: i64 = sqlx::query_scalar("select count(*) from outbox.log")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        tx.rollback().await.unwrap();

        let mut tx = world.pool.begin().await.unwrap();
        let by_sql = enqueue_by_sql(&mut tx, &message).await;
        match (refused, by_rust, by_sql) {
            (None, Ok(one), Ok(other)) => {
                assert_eq!((one, other), (message.id, message.id), "{case}");
                assert_eq!(first, Some(row(&mut tx, other).await), "{case}");
                in_company.expect(&case);
                assert_eq!(rows, 3, "{case}");
            }
            (Some(words), Err(one), Err(sqlx::Error::Database(other))) => {
                assert!(one.to_string().contains(words), "{one} is not {words}");
                assert!(matches!(one, Error::Refused(_)), "{case}");
                assert_eq!(one.to_string(), other.message(), "{case}");
                assert_eq!(other.code().as_deref(), Some("OB001"), "{case}");
                let bulk = in_company.unwrap_err().to_string();
                assert_eq!(bulk, one.to_string(), "{case}");
                assert_eq!(rows, 0, "none of the company is inserted: {case}");
            }
            (_, one, other) => panic!("{case}: Rust said {one:?}, SQL {other:?}"),
        }
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn what_only_one_door_can_be_asked_is_refused_there() {
    let world = World::embedded("oneasked").await;
    // PostgreSQL has no text with a NUL, so the SQL function never sees one.
    for message in [
        with_key("k\0"),
        with_kind("k\0"),
        good().with_header("h", "\0"),
        good().with_header("\0", "v"),
    ] {
        let mut tx = world.pool.begin().await.unwrap();
        let error = outbox::enqueue(&mut tx, &message).await.unwrap_err();
        assert!(error.to_string().contains("NUL"), "{error}");
        let error = enqueue_by_sql(&mut tx, &message).await.unwrap_err();
        let code = error.as_database_error().unwrap().code().unwrap();
        assert!(["22021", "22P05"].contains(&&*code), "{error}");
    }
    for (arguments, words) in [
        ("null, 'k', 'kind', ''", "topic name"),
        ("'t', null, 'kind', ''", "key is not null"),
        ("'t', 'k', null, ''", "kind has"),
        ("'t', 'k', 'kind', '', '[]'", "object of strings"),
        ("'t', 'k', 'kind', '', '\"text\"'", "object of strings"),
        ("'t', 'k', 'kind', '', 'null'", "object of strings"),
        ("'t', 'k', 'kind', '', '{\"h\": 1}'", "object of strings"),
        ("'t', 'k', 'kind', '', '{\"h\": null}'", "object of strings"),
        (
            "'t', 'k', 'kind', '', '{\"h\": {\"a\": \"b\"}}'",
            "object of strings",
        ),
    ] {
        let sql = sqlx::AssertSqlSafe(format!("select outbox.enqueue({arguments})"));
        let error = sqlx::query(sql).execute(&world.pool).await.unwrap_err();
        let error = error.as_database_error().unwrap();
        assert!(error.message().contains(words), "{arguments}: {error}");
        assert_eq!(error.code().as_deref(), Some("OB001"), "{arguments}");
    }
    assert_eq!(world.count("select count(*) from outbox.log").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_enqueues_and_a_savepoint_rolled_back_takes_its_message_along() {
    let world = World::embedded("trigger").await;
    let topic = &world.topic;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "create table parcel (id text primary key, n bigint not null);
         create function tell() returns trigger language plpgsql as $$
         begin
             perform outbox.enqueue_json(
                 '{topic}', new.id, 'test.counted.v1', jsonb_build_object('n', new.n),
                 jsonb_build_object('tenant', 'blue', 'traceparent', '00-1-2-01'));
             return null;
         end $$;
         create trigger tell after insert or update on parcel
             for each row execute function tell()"
    )))
    .execute(&world.pool)
    .await
    .unwrap();
    let run = async |tx: &mut PgConnection, sql: &'static str| {
        sqlx::raw_sql(sql).execute(tx).await.unwrap();
    };

    let mut tx = world.pool.begin().await.unwrap();
    run(&mut tx, "insert into parcel values ('a', 1)").await;
    run(
        &mut tx,
        "savepoint s; update parcel set n = 2; rollback to s",
    )
    .await;
    run(&mut tx, "update parcel set n = 3").await;
    run(
        &mut tx,
        "savepoint s; update parcel set n = 4; release savepoint s",
    )
    .await;
    tx.commit().await.unwrap();
    let mut tx = world.pool.begin().await.unwrap();
    run(&mut tx, "update parcel set n = 5").await;
    tx.rollback().await.unwrap();
    let mut tx = world.pool.begin().await.unwrap();
    let gone = format!("select outbox.enqueue('{topic}', 'a', 'test.gone.v1', null)");
    let id: Uuid = sqlx::query_scalar(sqlx::AssertSqlSafe(gone))
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();

    let relay = world.relay(Default::default());
    let mut oracle = world.oracle();
    oracle.wait_for(4).await;
    let gone = oracle.seen.pop().unwrap();
    assert_eq!(
        (gone.payload.as_deref(), header(&gone, "ce_id")),
        (None, id.to_string())
    );
    assert_eq!(oracle.of_key("a"), [1, 3, 4]);
    for record in &oracle.seen {
        assert_eq!(header(record, "ce_type"), "test.counted.v1");
        assert_eq!(header(record, "ce_subject"), "a");
        assert_eq!(header(record, "content-type"), "application/json");
        assert_eq!(header(record, "tenant"), "blue");
        assert_eq!(header(record, "traceparent"), "00-1-2-01");
        let traces = record.headers.iter().filter(|(n, _)| n == "traceparent");
        assert_eq!(traces.count(), 1, "once, not also among the headers");
    }
    relay.stop().await;
}

#[tokio::test]
async fn ids_made_in_sql_are_of_version_7_and_of_now() {
    let world = World::embedded("ids").await;
    let before = Uuid::now_v7();
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select outbox.enqueue('t', 'k', 'kind', '') from generate_series(1, 500)",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let after = Uuid::now_v7();
    let millis = |id: &Uuid| id.as_u128() >> 80;
    for id in &ids {
        assert_eq!(
            (id.get_version_num(), id.get_variant()),
            (7, uuid::Variant::RFC4122),
            "{id}"
        );
        // The same clock, on one machine.
        assert!((millis(&before)..=millis(&after)).contains(&millis(id)));
    }
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len());
}

#[tokio::test]
async fn the_sql_door_makes_a_lax_transaction_durable() {
    let world = World::embedded("sqldurable").await;
    for (set, expected) in [("off", "on"), ("local", "local"), ("on", "on")] {
        let mut tx = world.pool.begin().await.unwrap();
        let set = format!("set local synchronous_commit = {set}");
        sqlx::query(sqlx::AssertSqlSafe(set))
            .execute(&mut *tx)
            .await
            .unwrap();
        enqueue_by_sql(&mut tx, &good()).await.unwrap();
        let setting: String = sqlx::query_scalar("show synchronous_commit")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(setting, expected);
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn the_lock_of_a_key_is_the_same_through_both_doors() {
    let world = World::embedded("samelock").await;
    let tries = "set local lock_timeout = '50ms'; select outbox.lock_key('k')";
    let mut rust = world.pool.begin().await.unwrap();
    outbox::lock_key(&mut rust, "k").await.unwrap();
    let mut sql = world.pool.begin().await.unwrap();
    let refused = sqlx::raw_sql(tries).execute(&mut *sql).await.unwrap_err();
    let code = refused.as_database_error().unwrap().code().unwrap();
    assert_eq!(code, "55P03", "held by the other door");
    sql.rollback().await.unwrap();

    let mut sql = world.pool.begin().await.unwrap();
    sqlx::raw_sql("set local lock_timeout = '50ms'; select outbox.lock_key('other')")
        .execute(&mut *sql)
        .await
        .unwrap();
    rust.rollback().await.unwrap();
    sqlx::raw_sql(tries).execute(&mut *sql).await.unwrap();
    let mut rust = world.pool.begin().await.unwrap();
    sqlx::raw_sql("set local lock_timeout = '50ms'")
        .execute(&mut *rust)
        .await
        .unwrap();
    let refused = outbox::lock_key(&mut rust, "k").await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_in_sql_that_lock_the_key_leave_in_the_order_of_their_transactions() {
    const WRITERS: i64 = 8;
    const EACH: i64 = 40;
    let world = World::embedded("sqlorder").await;
    sqlx::query("insert into keyed select 'k' || k, 0 from generate_series(0, 2) as k")
        .execute(&world.pool)
        .await
        .unwrap();
    let relay = world.relay(Default::default());
    let mut oracle = world.oracle();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (pool, topic) = (world.pool.clone(), world.topic.clone());
        writers.spawn(async move {
            for i in 0..EACH {
                let key = format!("k{}", (writer + i) % 3);
                let mut tx = pool.begin().await.unwrap();
                sqlx::query("select outbox.lock_key($1)")
                    .bind(&key)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                // No row lock before the message: only the advisory one keeps the order.
                sqlx::query(
                    "select outbox.enqueue_json($1, $2, 'test.counted.v1',
                                                jsonb_build_object('n', n + 1))
                     from keyed where key = $2",
                )
                .bind(&topic)
                .bind(&key)
                .execute(&mut *tx)
                .await
                .unwrap();
                sqlx::query("update keyed set n = n + 1 where key = $1")
                    .bind(&key)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let all = usize::try_from(WRITERS * EACH).unwrap();
    oracle.wait_for(all).await;
    let mut count = 0;
    for key in ["k0", "k1", "k2"] {
        let numbers = oracle.of_key(key);
        let expected: Vec<_> = (1..=i64::try_from(numbers.len()).unwrap()).collect();
        assert_eq!(numbers, expected, "{key}");
        count += numbers.len();
    }
    assert_eq!(count, all);
    relay.stop().await;
}
