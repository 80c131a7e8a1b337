//! `recompense outbox parked …` and `recompense inbox parked …`: one form, two sides.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use outbox::{
    Consumer, Error, Handler, Received,
    broker::{Broker, Topic},
};
use serde_json::{Value, json};
use sqlx::PgTransaction;
use tokio_util::sync::CancellationToken;

use crate::room::{Counted, Room, Running, SECRET, SOON, column, fact, kafka};

/// On each side: a key with a head and two followers, a head alone; and a held one, or one of another consumer
/// whose key is no text.
pub(crate) async fn room(name: &str) -> Room {
    let room = Room::new(name).await;
    park(&room).await;
    room
}

pub(crate) async fn park(room: &Room) {
    room.run(format!(
        r#"insert into outbox.blocked_key values ('t', 'k', 10), ('t', 'alone', 20);
           insert into outbox.parked (seq, message_id, topic, key, kind, payload, created_at, class, reason, headers)
           select seq, gen_random_uuid(), 't', key, 'kind', '{SECRET}', now(), class, 'too large', '{{"a": "b"}}'
           from (values (10, 'k', 'poison'), (11, 'k', 'blocked'), (12, 'k', 'blocked'), (20, 'alone', 'poison'),
                        (30, 'held', 'held')) as rows (seq, key, class);
           insert into outbox.inbox_blocked (consumer, topic, key)
           values ('billing', 't', 'k'), ('billing', 't', 'alone'), ('stock', 't', '\x00ff');
           insert into outbox.inbox_parked (consumer, message_id, topic, partition, "offset", key, payload, headers,
                                            class, reason, attempts)
           select consumer, gen_random_uuid(), 't', 3, 7, key, '{SECRET}', '[["a", "62"], ["n", null]]', class, 'no stock', 2
           from (values ('billing', 'k'::bytea, 'refused'), ('billing', 'k', 'blocked'), ('billing', 'k', 'blocked'),
                        ('billing', 'alone', 'exhausted'), ('stock', '\x00ff', 'refused')) as rows (consumer, key, class)"#
    ))
    .await;
}

fn texts(json: &Value, field: &str) -> Vec<String> {
    let items = json.as_array().unwrap().iter();
    items
        .map(|item| match &item[field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect()
}

#[tokio::test]
async fn both_sides_list_what_is_selected() {
    let room = room("list").await;
    for (side, number, all, classes) in [
        (
            "outbox",
            "seq",
            ["10", "11", "12", "20", "30"],
            ["poison", "blocked", "blocked", "poison", "held"],
        ),
        (
            "inbox",
            "id",
            ["1", "2", "3", "4", "5"],
            ["refused", "blocked", "blocked", "exhausted", "refused"],
        ),
    ] {
        let list = format!("{side} parked list");
        let text = room.says(&list).await;
        assert_eq!(column(&text, number), all);
        assert_eq!(column(&text, "class"), classes);
        let reason = if side == "outbox" {
            "too large"
        } else {
            "no stock"
        };
        assert_eq!(column(&text, "reason"), [reason; 5]);
        let json = room.json(&list).await;
        assert_eq!(texts(&json, number), all);
        assert_eq!(texts(&json, "class"), classes);
        assert_eq!(texts(&json, "replay"), ["null"; 5]);
        assert!(json[0]["parked_seconds"].is_f64() && json[0]["message_id"].is_string());
        let numbers = async |more: &str| texts(&room.json(&format!("{list} {more}")).await, number);
        assert_eq!(numbers("--class blocked").await, all[1..3]);
        assert_eq!(numbers("--key k --topic t").await, all[..3]);
        assert_eq!(numbers("--key nobody").await, [""; 0]);
        assert_eq!(numbers("-n 2").await, all[..2]);
        assert_eq!(
            numbers(&format!("-n 2 --after {}", all[1])).await,
            all[2..4]
        );
    }
    let text = room.says("inbox parked list").await;
    assert_eq!(
        column(&text, "consumer"),
        ["billing", "billing", "billing", "billing", "stock"]
    );
    assert_eq!(column(&text, "key"), ["k", "k", "k", "alone", "0x00ff"]);
    let json = room.json("inbox parked list --consumer stock").await;
    assert_eq!(
        (&json[0]["key"], &json[0]["key_hex"]),
        (&Value::Null, &"00ff".into())
    );
    assert_eq!(json[0]["attempts"], 2);
    assert_eq!(json.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn both_sides_show_one_and_its_payload_only_when_asked() {
    let room = room("show").await;
    for (side, follower, head, gone) in [("outbox", 11, 10, "sent"), ("inbox", 2, 1, "handled")] {
        let show = format!("{side} parked show {follower}");
        let text = room.says(&show).await;
        assert_eq!(fact(&text, "class"), "blocked");
        assert_eq!(fact(&text, "key"), "k");
        assert_eq!(fact(&text, "behind"), head.to_string());
        assert_eq!(fact(&text, "header"), "a: b");
        assert_eq!(fact(&text, "size"), "6B");
        let json = room.json(&show).await;
        assert_eq!((&json["head"], &json["bytes"]), (&head.into(), &6.into()));
        assert_eq!((&json["key"], json.get("payload")), (&"k".into(), None));
        let text = room.says(&format!("{show} --payload")).await;
        assert_eq!(fact(&text, "payload"), SECRET);
        let json = room.json(&format!("{show} --payload")).await;
        assert_eq!(json["payload"], json!({ "text": SECRET }));
        let says = format!("no message 99 is parked: it was {gone} or discarded");
        room.refuses(&format!("{side} parked show 99"), 1, &says)
            .await;
    }
    let text = room.says("inbox parked show 5").await;
    assert_eq!(fact(&text, "place"), "partition 3, offset 7");
    assert_eq!(fact(&text, "consumer"), "stock");
    let json = room.json("inbox parked show 5").await;
    let headers = json!([{"name": "a", "value": {"text": "b"}}, {"name": "n", "value": null}]);
    assert_eq!((&json["headers"], &json["head"]), (&headers, &Value::Null));
}

#[tokio::test]
async fn both_sides_take_requests_for_heads_and_say_what_a_follower_waits_for() {
    let room = room("replay").await;
    for (side, number, head, follower, alone, wish) in [
        ("outbox", "seq", 10, 11, 20, "the relay will send it"),
        ("inbox", "id", 1, 2, 4, "the consumer will handle it"),
    ] {
        let replay = format!("{side} parked replay");
        assert_eq!(
            room.says(&format!("{replay} {head}")).await,
            format!("{head}: {wish}\n")
        );
        let listed = room.says(&format!("{side} parked list --key k")).await;
        assert_eq!(column(&listed, "replay"), ["by ann", "", ""]);
        // What could be done is done and said; the whole has failed.
        let arguments = format!("{replay} 99 {alone} {follower} {follower} --by bob");
        let ran = room.recompense(arguments.split(' ')).await;
        assert_eq!(
            (ran.status, &*ran.stderr),
            (Some(1), "error: not everything could be done\n")
        );
        let expected = format!(
            "{follower}: waits behind {head}: replay or discard that first\n{alone}: {wish}\n"
        );
        assert!(ran.stdout.starts_with(&expected), "{}", ran.stdout);
        assert!(
            ran.stdout.contains("99: is not parked: it was "),
            "{}",
            ran.stdout
        );
        let arguments = format!("{replay} {follower} --output json");
        let ran = room.recompense(arguments.split(' ')).await;
        assert_eq!(ran.status, Some(1));
        let answers: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(
            answers,
            json!([{ number: follower, "outcome": "behind_head", "head": head }])
        );
        let json = room.json(&format!("{side} parked show {alone}")).await;
        assert_eq!(json["replay"]["by"], "bob");
    }
    let json = room.json("outbox parked replay 10 --by bob").await;
    assert_eq!(
        (&json[0]["outcome"], &json[0]["by"]),
        (&"already_requested".into(), &"ann".into())
    );
}

#[tokio::test]
async fn both_sides_count_many_before_they_are_replayed_or_discarded() {
    let room = room("bulk").await;
    let left = async |side: &str| {
        let list = room.json(&format!("{side} parked list")).await;
        list.as_array().unwrap().len()
    };
    for (side, again) in [("outbox", "sent"), ("inbox", "handled")] {
        let said = room
            .says(&format!("{side} parked replay --all --dry-run"))
            .await;
        assert_eq!(said, "5 messages selected; nothing was done\n");
        let json = room
            .json(&format!("{side} parked discard --all --key k --dry-run"))
            .await;
        assert_eq!(json, json!({"selected": 3, "done": 0}));
        let says = format!("this would ask for 5 parked messages to be {again} again; say --yes");
        room.refuses(&format!("{side} parked replay --all"), 1, &says)
            .await;
        let says = "this would discard 3 parked messages for good; say --yes";
        room.refuses(&format!("{side} parked discard --all --key k"), 1, says)
            .await;
        room.refuses(
            &format!("{side} parked discard 10 11"),
            1,
            "discard 2 parked messages",
        )
        .await;
        let json = room.json(&format!("{side} parked list")).await;
        assert_eq!(texts(&json, "replay"), ["null"; 5], "nothing was done");

        let said = room
            .says(&format!("{side} parked replay --all --yes"))
            .await;
        assert_eq!(said, "3 messages asked for of 5 selected\n");
        let json = room
            .json(&format!("{side} parked discard --all --key k --yes"))
            .await;
        assert_eq!(json, json!({"selected": 3, "done": 3}));
        assert_eq!(left(side).await, 2);
    }
    let json = room
        .json("inbox parked discard --all --consumer billing --yes")
        .await;
    assert_eq!(json, json!({"selected": 1, "done": 1}));
    assert_eq!(
        room.number("select count(*) from outbox.inbox_blocked")
            .await,
        1
    );
}

#[tokio::test]
async fn both_sides_discard_the_youngest_first_and_release_what_is_behind_a_head() {
    let room = room("discard").await;
    let said = room.says("outbox parked discard 12 --yes").await;
    assert_eq!(said, "12: discarded\n");
    let said = room.says("outbox parked discard 10 --yes").await;
    assert_eq!(said, "10: discarded; 1 behind it will be sent\n");
    let json = room.json("outbox parked discard 20 --yes").await;
    let expected = json!([{"seq": 20, "outcome": "discarded", "released": 0, "key_opened": true}]);
    assert_eq!(json, expected);
    room.recompense("outbox parked discard 99 --yes".split(' '))
        .await;

    let said = room.says("inbox parked discard 1 2 --yes").await;
    assert_eq!(said, "2: discarded\n1: discarded\n");
    let json = room
        .json("inbox parked list --consumer billing --key k")
        .await;
    assert_eq!(
        (texts(&json, "id"), &json[0]["replay"]["by"]),
        (vec!["3".to_owned()], &"ann".into())
    );
    for side in ["outbox", "inbox"] {
        let arguments = format!("{side} parked discard 99 --yes");
        let ran = room.recompense(arguments.split(' ')).await;
        assert_eq!(ran.status, Some(1));
        assert!(
            ran.stdout.starts_with("99: is not parked"),
            "{}",
            ran.stdout
        );
    }
}

/// Refuses until it is told not to.
#[derive(Clone)]
struct Stock(Arc<AtomicBool>);

impl Handler for Stock {
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let Counted { n, .. } = message.decode()?;
        if !self.0.load(Ordering::SeqCst) {
            return Err(Error::permanent("no stock"));
        }
        sqlx::query("insert into effect values ($1)")
            .bind(n)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_sent_by_the_relay_and_handled_by_the_consumer() {
    let room = Room::new("through").await;
    room.run("create table effect (n bigint)").await;
    let (broker, topic) = kafka("through", 1).await;
    let missing = format!("{topic}.missing");
    let relay = room.relay(&broker);
    let stocked = Arc::new(AtomicBool::new(false));
    let consumer = Consumer::new(
        &format!("stock-{topic}"),
        &[&topic],
        room.pool.clone(),
        Arc::new(broker.clone()),
        Stock(Arc::clone(&stocked)),
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let task = tokio::spawn(async move { consumer.run(token).await });
    let consumer = Running { shutdown, task };
    room.send(&missing, "k", [1]).await;
    room.send(&topic, "k", [2, 3]).await;
    let listed = async |side: &str, wanted: usize| {
        testbed::until(SOON, &format!("{wanted} in the {side}"), async || {
            let list = room.json(&format!("{side} parked list")).await;
            (list.as_array().unwrap().len() == wanted).then_some(list)
        })
        .await
    };
    let held = listed("outbox", 1).await;
    assert_eq!(
        (&held[0]["class"], &held[0]["topic"]),
        (&"held".into(), &missing.clone().into())
    );
    let refused = listed("inbox", 2).await;
    assert_eq!(texts(&refused, "class"), ["refused", "blocked"]);
    assert_eq!(refused[0]["reason"], "no stock");

    broker
        .ensure_topics(&[Topic::new(missing, 1)])
        .await
        .unwrap();
    room.says("outbox parked replay --all --class held --yes")
        .await;
    listed("outbox", 0).await;
    stocked.store(true, Ordering::SeqCst);
    room.says(&format!("inbox parked replay {}", refused[0]["id"]))
        .await;
    listed("inbox", 0).await;
    assert_eq!(room.number("select sum(n)::bigint from effect").await, 5);
    consumer.stop().await;
    relay.stop().await;
}
