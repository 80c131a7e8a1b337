//! `recompense outbox status | lag | tail | topics | doctor`: for eyes, and for programs.

use std::process::Stdio;

use outbox::broker::{Broker, Topic};
use serde_json::Value;
use testbed::{Postgres, postgres::Options};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::room::{Room, SECRET, SOON, column, command, fact, kafka};

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_who_leads_what_waits_and_what_is_parked() {
    let room = Room::new("status").await;
    let (broker, topic) = kafka("status", 2).await;
    room.send(&topic, "k", [1, 2]).await;
    room.run(
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         values (-1, gen_random_uuid(), 't', 'k', 'kind', now(), 'poison', 'r');
         insert into outbox.blocked_key values ('t', 'k', -1);
         insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\", headers, class,
                                          reason, attempts)
         values ('billing', gen_random_uuid(), 't', 0, 0, '[]', 'refused', 'r', 1)",
    )
    .await;
    let text = room.says("outbox status").await;
    assert_eq!(fact(&text, "relay"), "nobody leads, epoch 0");
    assert_eq!(fact(&text, "backlog"), "2 messages");
    assert!(fact(&text, "parked").starts_with("1 poison, "), "{text}");
    assert_eq!(fact(&text, "blocked"), "1 keys");
    assert!(
        fact(&text, "inbox parked").starts_with("1 by billing, "),
        "{text}"
    );
    assert_eq!(
        column(&text, "partition"),
        ["log_0", "log_1", "log_2", "log_3"]
    );
    let json = room.json("outbox status").await;
    assert_eq!(
        (&json["lease"], &json["paused"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        json["backlog"],
        serde_json::json!({"messages": 2, "exact": true})
    );
    assert!(json["oldest_unpublished_seconds"].is_f64());
    assert_eq!(json["parked"][0]["class"], "poison");
    assert_eq!(json["blocked_keys"], 1);
    assert_eq!(json["inbox_parked"][0]["consumer"], "billing");
    assert_eq!(json["partitions"].as_array().unwrap().len(), 4);
    assert_eq!(json["turn"]["seq"], 2);

    let relay = room.relay(&broker);
    testbed::until(SOON, "everything is published", async || {
        let json = room.json("outbox status").await;
        (json["lease"]["seconds_left"].is_f64() && json["backlog"]["messages"] == 0).then_some(())
    })
    .await;
    let text = room.says("outbox status").await;
    assert!(
        fact(&text, "relay").contains(" leads, lease for "),
        "{text}"
    );
    relay.stop().await;
}

#[tokio::test]
async fn lag_counts_by_topic_and_says_where_it_stopped() {
    let room = Room::new("lag").await;
    room.send("orders", "k", 0..3).await;
    room.send("payments", "k", 0..2).await;
    let text = room.says("outbox lag").await;
    assert_eq!(column(&text, "topic"), ["orders", "payments", "all"]);
    assert_eq!(column(&text, "messages"), ["3", "2", "5"]);
    let json = room.json("outbox lag").await;
    assert_eq!(
        (&json["messages"], &json["at_least"]),
        (&5.into(), &false.into())
    );
    assert_eq!(json["topics"][0]["topic"], "orders");
    assert_eq!(json["topics"][1]["messages"], 2);
    assert!(json["oldest_seconds"].as_f64().unwrap() >= 0.0);
    let text = room.says("outbox lag --limit 4").await;
    assert_eq!(column(&text, "messages").last().unwrap(), "≥ 4");
    assert_eq!(room.json("outbox lag --limit 4").await["at_least"], true);
}

#[tokio::test]
async fn tail_shows_the_newest_and_payloads_only_to_who_asks() {
    let room = Room::new("tail").await;
    room.send("orders", "a", 0..3).await;
    room.send("payments", "b", [7]).await;
    let text = room.says("outbox tail").await;
    assert_eq!(column(&text, "seq"), ["1", "2", "3", "4"]);
    assert_eq!(
        column(&text, "topic"),
        ["orders", "orders", "orders", "payments"]
    );
    assert_eq!(column(&text, "key"), ["a", "a", "a", "b"]);
    assert_eq!(column(&text, "state"), ["unpublished"; 4]);
    assert_eq!(column(&room.says("outbox tail -n 1").await, "seq"), ["4"]);
    assert_eq!(
        column(&room.says("outbox tail --key a -n 2").await, "seq"),
        ["2", "3"]
    );
    assert_eq!(
        column(&room.says("outbox tail --kind x").await, "seq"),
        [""; 0]
    );
    let lines = room
        .says("outbox tail --topic payments --output json")
        .await;
    let json: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(
        (&json["seq"], &json["state"]),
        (&4.into(), &"unpublished".into())
    );
    assert_eq!(json["kind"], "test.counted.v1");
    assert_eq!(json.get("payload"), None);
    let lines = room.says("outbox tail --payload --output json").await;
    let numbers: Vec<_> = lines
        .lines()
        .map(|line| {
            let json: Value = serde_json::from_str(line).unwrap();
            let payload = json["payload"]["text"].as_str().unwrap();
            let payload: Value = serde_json::from_str(payload).unwrap();
            assert_eq!(payload["word"], SECRET);
            payload["n"].as_i64().unwrap()
        })
        .collect();
    assert_eq!(numbers, [0, 1, 2, 7]);
    assert!(room.says("outbox tail --payload").await.contains(SECRET));
}

#[tokio::test]
async fn a_key_cannot_command_the_terminal() {
    let room = Room::new("escape").await;
    room.send("t", "\u{1b}[31mred\nline", [1]).await;
    let text = room.says("outbox tail").await;
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(column(&text, "key"), ["\u{fffd}[31mred\u{fffd}line"]);
}

#[tokio::test]
async fn following_goes_on_with_what_is_committed_until_nobody_reads() {
    let room = Room::new("follow").await;
    room.send("t", "k", [1]).await;
    let mut child = command(&room.url)
        .args(["outbox", "tail", "--follow", "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(SOON, lines.next_line()).await;
        let line = line.expect("it goes on").unwrap().unwrap();
        let json: Value = serde_json::from_str(&line).unwrap();
        json["seq"].as_i64().unwrap()
    };
    assert_eq!(next().await, 1);
    for seq in 2..4 {
        room.send("t", "k", [seq]).await;
        assert_eq!(next().await, seq);
    }
    // As `| head` does.
    drop(lines);
    room.send("t", "k", [4]).await;
    let ended = tokio::time::timeout(SOON, child.wait_with_output()).await;
    let ended = ended.expect("it ends").unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), &*said), (Some(0), ""));
}

#[tokio::test]
async fn topics_are_compared_with_the_broker_and_refreshed() {
    let room = Room::new("topics").await;
    let (broker, topic) = kafka("topics", 3).await;
    outbox::declare(&room.pool, &broker, &[Topic::new(&topic, 3)])
        .await
        .unwrap();
    // As if it had been raised since, another did not exist, and nobody had asked for a third.
    let missing = format!("{topic}.missing");
    room.run(format!(
        "update outbox.topic set max_bytes = 1000;
         insert into outbox.topic (name, on_poison) values ('{missing}', 'skip-message')"
    ))
    .await;
    let text = room.says("outbox topics").await;
    assert_eq!(column(&text, "topic"), [&*topic, &*missing]);
    assert_eq!(column(&text, "policy"), ["block-key", "skip-message"]);
    assert_eq!(
        column(&text, "enqueue takes"),
        ["1000", "1048576 (not asked)"]
    );
    assert_eq!(column(&text, "partitions"), ["", ""]);
    assert_eq!(room.json("outbox topics").await[0]["broker"], Value::Null);

    let asked = format!("outbox topics --kafka-brokers {}", broker.bootstrap());
    let text = room.says(&asked).await;
    assert_eq!(column(&text, "broker takes"), ["1048588", ""]);
    assert_eq!(column(&text, "partitions"), ["3", "missing"]);
    assert_eq!(column(&text, "note"), ["differs: --refresh", ""]);
    let json = room.json(&asked).await;
    assert_eq!(
        (&json[0]["name"], &json[0]["max_bytes"]),
        (&topic.into(), &1000.into())
    );
    let there = serde_json::json!({"partitions": 3, "max_bytes": 1_048_588});
    assert_eq!(json[0]["broker"], there);
    assert_eq!(json[1]["broker"]["partitions"], Value::Null);
    assert_eq!(
        room.number("select max_bytes::bigint from outbox.topic order by 1 limit 1")
            .await,
        1000
    );

    let text = room.says(&format!("{asked} --refresh")).await;
    assert!(text.starts_with("1 limits have changed\n"), "{text}");
    assert_eq!(column(&text, "note"), ["", ""]);
    assert_eq!(column(&text, "enqueue takes")[0], "1048588");
    let json = room.json(&format!("{asked} --refresh")).await;
    assert_eq!(json[0]["max_bytes"], 1_048_588);
    assert_eq!(json[1]["max_bytes"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_problems_with_what_mends_them_and_exits_with_3() {
    // The shared server is fast and not durable, which is a problem.
    let options = Options {
        durable: true,
        ..Options::default()
    };
    let server = Postgres::start_with(options).await.unwrap();
    let room = Room::on(&server, "doctor").await;
    let (broker, topic) = kafka("doctor", 1).await;
    room.send(&topic, "k", [1]).await;
    room.run(
        "insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\", headers, class,
                                          reason, attempts, parked_at)
         values ('it''s billing', gen_random_uuid(), 't', 0, 0, '[]', 'refused', 'r', 1, now() - interval '2 days')",
    )
    .await;
    let ran = room.recompense(["doctor"]).await;
    assert_eq!((ran.status, &*ran.stderr), (Some(3), ""));
    let (problems, rest) = ran.stdout.split_once("unknown ").unwrap();
    assert!(
        problems.starts_with("PROBLEM "),
        "what is worst comes first: {problems}"
    );
    assert!(
        problems.contains("nobody relays, and messages are waiting"),
        "{problems}"
    );
    let fix = r"→ recompense inbox parked list --consumer 'it'\''s billing'";
    assert!(problems.contains(fix), "{problems}");
    assert!(!rest.contains("PROBLEM"), "{rest}");
    let ran = room
        .recompense(["outbox", "doctor", "--output", "json"])
        .await;
    assert_eq!((ran.status, &*ran.stderr), (Some(3), ""));
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let of = |json: &Value, check: &str| {
        let findings = json["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("{check}: {json}")).clone()
    };
    let relay = of(&json, "relay");
    assert_eq!(relay["verdict"], "problem");
    assert!(
        relay["fix"][0]
            .as_str()
            .unwrap()
            .starts_with("relay --database-url")
    );
    assert!(
        of(&json, "inbox_parked")["explanation"]
            .as_str()
            .unwrap()
            .contains("2.0 days")
    );
    assert_eq!(of(&json, "broker")["verdict"], "unknown");

    // The command that it prints is one.
    let listed = [
        "inbox",
        "parked",
        "list",
        "--consumer",
        "it's billing",
        "--output",
        "json",
    ];
    let ran = room.recompense(listed).await;
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let id = json[0]["id"].as_i64().unwrap();
    room.says(&format!("inbox parked discard {id} --yes")).await;
    let relay = room.relay(&broker);
    let asked = format!(
        "outbox doctor --kafka-brokers {} --output json",
        broker.bootstrap()
    );
    let json = testbed::until(SOON, "no problem is left", async || {
        let ran = room.recompense(asked.split(' ')).await;
        let json: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert!([Some(0), Some(3)].contains(&ran.status), "{}", ran.stderr);
        (ran.status == Some(0)).then_some(json)
    })
    .await;
    for check in ["relay", "inbox_parked", "broker", "topics"] {
        assert_eq!(of(&json, check)["verdict"], "ok", "{check}");
    }
    broker.ping().await.unwrap();
    relay.stop().await;
}
