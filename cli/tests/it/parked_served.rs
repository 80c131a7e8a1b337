//! `recompense parked …` against a service's routes on a real database.

use std::process::{Output, Stdio};

use axum::{Json, Router, extract::Path, http::StatusCode, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};

use crate::{
    parked::park,
    room::{SECRET, SOON, column, command, fact, recompense},
    served::Service,
};

async fn service(name: &str) -> Service {
    let service = Service::open(name).await;
    park(&service.room).await;
    service
}

impl Service {
    async fn parked_says(&self, arguments: &str) -> String {
        let ran = self.parked(arguments).await;
        assert_eq!((ran.status, &*ran.stderr), (Some(0), ""), "{arguments}");
        ran.stdout
    }

    async fn parked_json(&self, arguments: &str) -> Value {
        let text = self
            .parked_says(&format!("{arguments} --output json"))
            .await;
        serde_json::from_str(&text).unwrap()
    }

    async fn ids(&self, filter: &str) -> Vec<String> {
        column(&self.parked_says(&format!("ls {filter}")).await, "id")
    }
}

#[tokio::test]
async fn both_sides_are_one_list_and_one_is_shown() {
    let service = service("served_look").await;
    let all = [
        "outbox-10",
        "outbox-11",
        "outbox-12",
        "outbox-20",
        "outbox-30",
        "inbox-1",
        "inbox-2",
        "inbox-3",
        "inbox-4",
        "inbox-5",
    ];
    assert_eq!(service.ids("").await, all);
    assert_eq!(
        service.ids("--class blocked").await,
        ["outbox-11", "outbox-12", "inbox-2", "inbox-3"]
    );
    assert_eq!(
        service.ids("--side inbox --key alone --topic t").await,
        ["inbox-4"]
    );
    assert_eq!(service.ids("--consumer stock").await, ["inbox-5"]);
    let page = service.parked_says("ls --limit 3").await;
    let cursor = page.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(service.ids(&format!("--cursor {cursor}")).await, all[3..]);
    let page = service.parked_json("ls --side outbox").await;
    assert_eq!(
        (&page["total"], &page["items"][0]["id"]),
        (&json!(5), &json!("outbox-10"))
    );

    let shown = service.parked_says("show inbox-2").await;
    assert_eq!(fact(&shown, "behind"), "inbox-1");
    assert_eq!(fact(&shown, "place"), "partition 3, offset 7");
    assert_eq!(fact(&shown, "reason"), "no stock");
    assert!(
        shown.contains("a: b\n") && shown.contains("n: null\n"),
        "{shown}"
    );
    assert!(!shown.contains("payload"), "{shown}");
    let shown = service.parked_says("show outbox-10 --payload").await;
    assert_eq!(fact(&shown, "payload"), SECRET);
    let shown = service.parked_json("show outbox-10").await;
    assert_eq!(
        (&shown["class"], &shown["bytes"]),
        (&json!("poison"), &json!(6))
    );
}

#[tokio::test]
async fn what_would_come_of_it_is_said_and_then_done_under_a_name_and_a_reason() {
    let service = service("served_act").await;
    let asked = "select count(*) from outbox.parked where replay_at is not null";
    let would = service
        .parked_says("replay outbox-10 --reason mended --dry-run")
        .await;
    assert_eq!(
        would,
        "outbox-10: would be asked for; 2 wait behind it and come next\n"
    );
    assert_eq!(service.room.number(asked).await, 0);
    let did = service
        .parked_json("replay outbox-10 inbox-4 --reason mended")
        .await;
    assert_eq!(
        (&did[0]["outcome"], &did[0]["followers"], &did[1]["outcome"]),
        (&json!("requested"), &json!(2), &json!("requested"))
    );
    assert_eq!(service.room.number(asked).await, 1);
    let list = service.parked_says("ls --key k --side outbox").await;
    assert_eq!(column(&list, "replay"), ["by ann: mended", "", ""]);
    let audited = "select count(*) from outbox.audit where actor = 'ann' and reason = 'mended'";
    assert_eq!(service.room.number(audited).await, 2);

    // One that waits behind another keeps nobody back.
    let mixed = "replay outbox-11 inbox-1 outbox-99 outbox-10 --reason mended";
    let ran = service.parked(mixed).await;
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.contains("error: not everything could be done"),
        "{}",
        ran.stderr
    );
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with("outbox-11: it waits behind outbox-10 of its key"),
        "{}",
        ran.stdout
    );
    assert!(
        lines[1].starts_with("inbox-1: is asked for; 2 wait behind it"),
        "{}",
        ran.stdout
    );
    assert!(
        lines[2].starts_with("outbox-99: is not parked"),
        "{}",
        ran.stdout
    );
    assert!(
        lines[3].starts_with("outbox-10: was asked for before"),
        "{}",
        ran.stdout
    );
}

#[tokio::test]
async fn nothing_is_given_up_without_a_word() {
    let service = service("served_discard").await;
    let left =
        "select (select count(*) from outbox.parked) + (select count(*) from outbox.inbox_parked)";
    let discard = "discard outbox-20 inbox-5 --reason old";
    let unsure = service.parked(discard).await;
    unsure.is_refusal(
        discard,
        1,
        "this would discard 2 parked messages for good; say --yes",
    );
    let all = "discard --all --side inbox --reason old";
    let unsure = service.parked(all).await;
    unsure.is_refusal(
        all,
        1,
        "this would discard 5 parked messages for good; say --yes",
    );
    let would = service.parked_json(&format!("{all} --dry-run")).await;
    assert_eq!(would.as_array().unwrap().len(), 5);
    assert_eq!(service.room.number(left).await, 10);

    let did = service.parked_says(&format!("{discard} --yes")).await;
    assert_eq!(did, "outbox-20: is discarded\ninbox-5: is discarded\n");
    // Those behind another go before it: else they would be handled when it is gone.
    let did = service.parked_json(&format!("{all} --key k --yes")).await;
    let ids: Vec<_> = did
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["inbox-3", "inbox-2", "inbox-1"]);
    assert_eq!(service.ids("--side inbox").await, ["inbox-4"]);
    assert_eq!(service.room.number(left).await, 5);
    let gone = service.parked(&format!("{discard} --yes")).await;
    assert_eq!(gone.status, Some(1), "{}", gone.stdout);
}

#[tokio::test]
async fn many_are_counted_and_only_the_first_of_each_key_is_asked_for() {
    let service = service("served_all").await;
    let all = "replay --all --side outbox --reason mended";
    let unsure = service.parked(all).await;
    unsure.is_refusal(
        all,
        1,
        "ask for 3 parked messages to be sent or handled again; say --yes",
    );
    let did = service.parked_json(&format!("{all} --yes")).await;
    let ids: Vec<_> = did
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["outbox-10", "outbox-20", "outbox-30"]);
    let none = "discard --all --topic nobody --reason r";
    assert_eq!(
        service.parked_says(none).await,
        "nothing is parked like that\n"
    );
    assert_eq!(service.parked_json(none).await, json!([]));
    // More than fit on one page.
    let more = "insert into outbox.parked (seq, message_id, topic, key, kind, payload, created_at, class, reason)
         select n, gen_random_uuid(), 'many', 'k' || n, 'kind', '', now(), 'held', 'r' from generate_series(100, 349) as n";
    service.room.run(more).await;
    let would = service
        .parked_json("replay --all --topic many --reason r --dry-run")
        .await;
    assert_eq!(would.as_array().unwrap().len(), 250);
}

#[tokio::test]
async fn a_replay_is_waited_for() {
    let service = service("served_wait").await;
    let replay =
        "parked replay outbox-20 outbox-30 inbox-1 --reason mended --wait --timeout 30s --url";
    let mut running = command(&service.room.url);
    running.args(replay.split(' ')).arg(&service.url);
    let running = running
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let running = running.spawn().unwrap();
    let asked = "select (select count(*) from outbox.parked where replay_at is not null)
         + (select count(*) from outbox.inbox_parked where replay_at is not null)";
    testbed::until(SOON, "all are asked for", async || {
        (service.room.number(asked).await == 3).then_some(())
    })
    .await;
    // As the relay and the consumer would.
    let turn = "delete from outbox.parked where seq = 20;
         update outbox.parked set replay_at = null, replay_by = null, reason = 'still too large' where seq = 30;
         delete from outbox.inbox_parked where id = 1";
    service.room.run(turn).await;
    let Output {
        status,
        stdout,
        stderr,
    } = timeout(SOON, running.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(status.code(), Some(1), "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "outbox-20: parked no more",
            "outbox-30: parked again: still too large",
            "inbox-1: parked no more; 2 wait behind it and come next",
        ]
    );
    let vain = "replay inbox-4 --reason mended --wait --timeout 1ms";
    let ran = service.parked(vain).await;
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("1 messages have had no turn yet"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stdout, "inbox-4: not tried yet\n");
}

/// Only the one before it was asked for is said, and why no other.
#[tokio::test]
async fn what_was_done_is_said_when_the_service_goes_away_in_between() {
    let answer = post(async |Path(id): Path<String>| {
        let done = json!({"id": id, "outcome": "requested", "dry_run": false, "followers": 0});
        match id.as_str() {
            "outbox-1" => (StatusCode::OK, Json(done)),
            _ => (
                StatusCode::SERVICE_UNAVAILABLE,
                Json(json!({"detail": "the database is away"})),
            ),
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/parked/{id}/replay", answer);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let replay = format!("parked replay outbox-1 outbox-2 outbox-3 --reason r --url {url}");
    let ran = recompense("", replay.split(' ')).await;
    assert_eq!(ran.status, Some(1));
    assert_eq!(ran.stdout, "outbox-1: is asked for\n");
    let says = "error: only 1 of 3 were asked for: the database is away (503)\n";
    assert_eq!(ran.stderr, says);
    let none = format!("parked replay outbox-2 --reason r --url {url}");
    let ran = recompense("", none.split(' ')).await;
    ran.is_refusal(&none, 1, "error: the database is away (503)");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_one_line() {
    let service = service("served_wrong").await;
    for (arguments, status, says) in [
        (
            "show 12",
            2,
            "must be the id of a parked message, as in outbox-12",
        ),
        (
            "show outbox-1/../..",
            2,
            "must be the id of a parked message",
        ),
        (
            "show outbox-99",
            1,
            "no message with this id is parked (404)",
        ),
        ("replay outbox-10", 2, "--reason"),
        (
            "replay --reason r",
            2,
            "say which messages: their ids, or --all",
        ),
        (
            "discard --reason r --yes",
            2,
            "say which messages: their ids, or --all",
        ),
        ("replay --topic t --reason r", 2, "say --all"),
        (
            "replay outbox-10 --topic t --reason r",
            2,
            "cannot be used with",
        ),
        (
            "replay outbox-10 --all --reason r",
            2,
            "cannot be used with",
        ),
        (
            "discard outbox-10 --reason r --dry-run --yes",
            2,
            "cannot be used with",
        ),
        (
            "replay outbox-10 --reason r --dry-run --wait",
            2,
            "nothing to wait for",
        ),
        ("ls --class odd", 1, "must be one of poison, "),
        ("ls --cursor odd", 1, "next_cursor"),
    ] {
        service
            .parked(arguments)
            .await
            .is_refusal(arguments, status, says);
    }
    let away = ["parked", "ls", "--url", "http://127.0.0.1:9"];
    let ran = recompense(&service.room.url, away).await;
    ran.is_refusal("ls", 1, "does not answer; check --url");
}
