//! `recompense top`.

use serde_json::{Value, json};
use testbed::free_port;

use crate::{
    room::{Room, column, command, recompense},
    served::Service,
    terminal::Terminal,
};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

async fn busy(name: &str) -> Service {
    let service = Service::open(name).await;
    let (one, _) = (service.start().await, service.start().await);
    service.room.send("trip.commands", "k", 0..3).await;
    service
        .room
        .run(
            "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
             values (99, gen_random_uuid(), 't', 'k', 'kind', now(), 'held', 'no such topic')",
        )
        .await;
    service
        .says(&format!("cancel {one} --reason x --yes"))
        .await;
    service
}

#[tokio::test]
async fn one_frame_needs_no_terminal() {
    let service = busy("top_once").await;
    let once = ["top", "--once", "--interval", "50ms", "--url", &service.url];
    let ran = recompense(&service.room.url, once).await;
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
    let text = ran.stdout;
    assert_eq!(column(&text, "status")[..2], ["compensating", "running"]);
    assert_eq!(column(&text, "sagas")[..2], ["1", "1"]);
    for line in [
        "sagas: 2, 0.0/s started",
        "waiting for: reply 2",
        "nobody relays (epoch 0)",
        "parked messages: 1",
        "anomalies: none",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}: {text}");
    }
    assert!(
        text.contains("outbox: 6 messages wait, the oldest for "),
        "{text}"
    );
    assert_eq!(column(&text, "topic")[0], "trip.commands");
    assert_eq!(column(&text, "message")[0], "outbox-99");
    assert_eq!(column(&text, "reason")[0], "no such topic");

    let ran = recompense(
        &service.room.url,
        once.into_iter().chain(["--output", "json"]),
    )
    .await;
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["sagas_by_status"]["total"], 2);
    assert_eq!(told["outbox"]["status"]["backlog"]["messages"], 6);
    assert_eq!(told["parked_messages"]["items"][0]["id"], "outbox-99");
    assert_eq!(told["per_second"]["started"], json!(0.0));
}

#[tokio::test]
async fn without_a_terminal_or_a_service_it_says_so_in_a_line() {
    let room = Room::empty("top_none").await;
    let ran = recompense(&room.url, ["top"]).await;
    ran.is_refusal("top", 2, "say --once for one frame");
    let ran = recompense(&room.url, ["top", "--output", "json"]).await;
    ran.is_refusal("top", 2, "goes with --once");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let ran = recompense(&room.url, ["top", "--once", "--url", &nobody]).await;
    ran.is_refusal("top", 1, "does not answer; check --url");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_drawn_anew_paused_and_ended_by_a_key() {
    let service = busy("top_live").await;
    let mut top = command("");
    top.args(["top", "--interval", "50ms", "--url", &service.url]);
    let mut terminal = Terminal::start(top, &[0, 1, 2]);
    terminal.until("sagas: 2").await;
    service.start().await;
    terminal.until("sagas: 3").await;
    terminal.press("p");
    terminal.until("paused").await;
    terminal.press("p");
    service.start().await;
    terminal.until("sagas: 4").await;
    terminal.press("q");
    assert_eq!(terminal.ended().await, Some(0));
    let told = terminal.told();
    assert!(told.starts_with(ENTER) && told.ends_with(LEAVE), "{told:?}");
    assert!(
        told.rfind("\u{1b}[?25h") > told.rfind("\u{1b}[?25l"),
        "the cursor is back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_while_the_service_is_away_and_gives_the_terminal_back_when_told_to_end() {
    let mut service = busy("top_away").await;
    for end in ["\u{3}", "TERM"] {
        let mut top = command("");
        top.args(["top", "--interval", "50ms", "--url", &service.url]);
        let mut terminal = Terminal::start(top, &[0, 1, 2]);
        terminal.until("sagas: 2").await;
        service.go().await;
        terminal.until("no answer for ").await;
        terminal.until("does not answer; check --url").await;
        // What was seen last stays in sight.
        terminal.until_again("sagas: 2").await;
        service.come().await;
        terminal.until_again("anomalies: none").await;
        match end {
            "TERM" => testbed::signal(terminal.child.id().unwrap(), end).unwrap(),
            keys => terminal.press(keys),
        }
        assert_eq!(terminal.ended().await, Some(0), "{end}");
        assert!(terminal.told().ends_with(LEAVE));
    }
}
