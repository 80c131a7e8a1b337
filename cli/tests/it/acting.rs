//! `recompense outbox pause | resume | replay`.

use serde_json::Value;

use crate::room::{Room, SOON, column, kafka};

#[tokio::test]
async fn a_pause_names_who_and_why_until_it_is_resumed() {
    let room = Room::new("pause").await;
    assert_eq!(room.says("outbox resume").await, "was not paused\n");
    assert_eq!(room.json("outbox resume").await["outcome"], "not_paused");
    let said = room.says("outbox pause --reason deploying").await;
    assert!(
        said.starts_with("paused since ") && said.ends_with(" by ann: deploying\n"),
        "{said}"
    );
    let json = room.json("outbox pause --by bob").await;
    assert_eq!(
        (&json["outcome"], &json["by"]),
        (&"already".into(), &"ann: deploying".into())
    );
    let said = room.says("outbox pause").await;
    assert!(said.starts_with("was paused already: since "), "{said}");
    assert_eq!(
        room.json("outbox status").await["paused"]["by"],
        "ann: deploying"
    );
    let json = room.json("outbox resume").await;
    assert_eq!(
        (&json["outcome"], &json["by"]),
        (&"resumed".into(), &"ann: deploying".into())
    );
    assert_eq!(room.json("outbox status").await["paused"], Value::Null);
    assert_eq!(room.json("outbox pause --by bob").await["by"], "bob");
    let said = room.says("outbox resume").await;
    assert!(
        said.starts_with("resumed; was paused since ") && said.ends_with(" by bob\n"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_counted_asked_for_and_enqueued_once_more() {
    let room = Room::new("replay").await;
    let (broker, topic) = kafka("replay", 1).await;
    room.send(&topic, "k", 0..5).await;
    let none = room.json("outbox replay --dry-run").await;
    assert_eq!(none["messages"], 0, "nothing is published yet");
    let relay = room.relay(&broker);
    testbed::until(SOON, "everything is published", async || {
        (room.json("outbox lag").await["messages"] == 0).then_some(())
    })
    .await;

    let text = room.says("outbox replay --dry-run --since 15m").await;
    assert_eq!(column(&text, "messages")[0], "5");
    assert!(
        text.contains("5 messages would be enqueued again"),
        "{text}"
    );
    assert!(
        text.contains("the log holds messages from number 1 on"),
        "{text}"
    );
    let json = room
        .json("outbox replay --dry-run --from-seq 2 --until-seq 3")
        .await;
    assert_eq!(
        (&json["messages"], &json["topics"][0]["topic"]),
        (&2.into(), &topic.clone().into())
    );
    assert_eq!(
        room.json("outbox replay --dry-run --since 2020-01-01T00:00:00Z")
            .await["messages"],
        5
    );
    assert_eq!(
        room.json("outbox replay --dry-run --since 2100-01-01T00:00:00Z")
            .await["messages"],
        0
    );

    // There is nobody to ask.
    room.refuses(
        "outbox replay",
        1,
        "this would enqueue 5 messages again; say --yes",
    )
    .await;
    room.refuses(
        "outbox replay --new-ids",
        1,
        "5 messages again as new ones; say --yes",
    )
    .await;
    assert_eq!(room.number("select count(*) from outbox.log").await, 5);
    let said = room.says("outbox replay --from-seq 4 --yes").await;
    assert_eq!(said, "2 messages enqueued again\n");
    let json = room
        .json("outbox replay --until-seq 3 --new-ids --yes")
        .await;
    assert_eq!(
        (&json["messages"], &json["last_seq"]),
        (&3.into(), &3.into())
    );
    assert_eq!(room.number("select count(*) from outbox.log").await, 10);
    assert_eq!(
        room.number("select count(distinct message_id) from outbox.log")
            .await,
        8
    );
    relay.stop().await;
}
