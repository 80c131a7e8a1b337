//! `--wait`.

use saga::operator::bulk::Bulks;
use serde_json::{Value, json};

use crate::{
    room::{Ran, Room, SOON, command, fact},
    served::Service,
    terminal::Terminal,
};

#[tokio::test]
async fn a_cancellation_is_waited_for_until_it_is_done() {
    let service = Service::open("wait_cancel").await;
    let id = service.start().await;
    let cancel = format!("cancel {id} --reason x --yes --wait");
    let (ran, ()) = tokio::join!(service.run(&cancel), async {
        service.until(id, "compensating").await;
        service
            .says(&format!("skip {id} hold --reason byhand --yes"))
            .await;
    });
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(lines[0].contains("is compensating at event 6"), "{lines:?}");
    assert!(
        lines.last().unwrap().contains("is compensated at event "),
        "{lines:?}"
    );
    // Under the same key it is done already, and there is nothing to wait for.
    let other = service.start().await;
    let cancel = format!("cancel {other} --reason x --yes --key k --output json");
    service.says(&cancel).await;
    service
        .says(&format!("skip {other} hold --reason byhand --yes"))
        .await;
    let ran = service.says(&format!("{cancel} --wait")).await;
    let ran: Value = serde_json::from_str(&ran).unwrap();
    assert_eq!(
        (&ran["outcome"], &ran["status"]),
        (&json!("repeated"), &json!("compensating"))
    );
    assert_eq!(ran["waited"]["result"], "done");
    assert_eq!(ran["waited"]["status"], "compensated");
}

#[tokio::test]
async fn another_end_is_a_failure_and_no_end_in_time_is_3() {
    let service = Service::open("wait_vain").await;
    let id = service.start().await;
    let cancel = format!("cancel {id} --reason x --yes --key k --wait");
    let ran = service.run(&format!("{cancel} --timeout 300ms")).await;
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with("error: not after 300ms: saga "),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains(" is compensating at event 6"),
        "{}",
        ran.stderr
    );
    let json = service
        .run(&format!("{cancel} --timeout 0ms --output json"))
        .await;
    assert_eq!(json.status, Some(3));
    let told: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(told["waited"]["result"], "timed_out");

    let (ran, ()) = tokio::join!(service.run(&cancel), async {
        service
            .says(&format!("abandon {id} --reason x --yes"))
            .await;
    });
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.contains("it was given up: saga "),
        "{}",
        ran.stderr
    );
    for (arguments, says) in [
        ("--wait --dry-run", "cannot be used with"),
        ("--timeout 3s", "missing setting: --wait"),
        ("--wait --timeout soon", "--timeout"),
    ] {
        let cancel = format!("cancel {id} --reason x {arguments}");
        service.run(&cancel).await.is_refusal(&cancel, 2, says);
    }
}

#[tokio::test]
async fn a_bulk_operation_is_waited_for_and_each_saga_must_have_had_it() {
    let mut service = Service::open("wait_bulk").await;
    let (one, _) = (service.start().await, service.start().await);
    let bulks = Bulks::new(service.coordinator.clone(), service.room.pool.clone());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let working = tokio::spawn(bulks.run(shutdown.clone()));
    let start = "bulk start pause --definition trip --reason closed --yes --per-second 1000 --wait";
    let done = service.says(start).await;
    assert_eq!((fact(&done, "status"), fact(&done, "done")), ("done", "2"));

    // One of them is not paused any more, so only that one can be.
    service
        .says(&format!("resume {one} --reason x --yes"))
        .await;
    let ran = service.run(&format!("{start} --output json")).await;
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("only 1 of 2 sagas"), "{}", ran.stderr);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&told["status"], &told["sagas"]["refused"]),
        (&json!("done"), &json!(1))
    );
    let id = told["id"].as_str().unwrap();
    let shown = service.run(&format!("bulk show {id} --wait")).await;
    assert_eq!(shown.status, Some(1), "{}", shown.stderr);

    // Nobody works, and the service is away for a moment.
    shutdown.cancel();
    working.await.unwrap();
    let begun = service
        .json("bulk start resume --definition trip --reason open --yes")
        .await;
    let show = format!(
        "bulk show {} --wait --timeout",
        begun["id"].as_str().unwrap()
    );
    let ran = service.run(&format!("{show} 200ms")).await;
    assert_eq!(ran.status, Some(3));
    assert!(
        ran.stderr.contains("2 of 2 sagas have had no turn yet"),
        "{}",
        ran.stderr
    );
    let waiting = service.command(&format!("{show} 30s"));
    let mut waiting = Terminal::start(waiting, &[2]);
    waiting.until("sagas 0 of 2 ░░░░░░░░░░░░░░░░░░░░ 0 %").await;
    service.go().await;
    service.is_asked_in_vain().await;
    service.come().await;
    let bulks = Bulks::new(service.coordinator.clone(), service.room.pool.clone());
    let working = tokio::spawn(bulks.run(Default::default()));
    assert_eq!(waiting.ended().await, Some(0));
    working.abort();
    assert!(
        waiting.told().ends_with("\r\u{1b}[2K"),
        "the line is gone again"
    );
}

/// Waits until so many messages are asked for, and does with them what the relay or the consumer would.
async fn turn(room: &Room, table: &str, asked_for: i64, and: &str) {
    let asked = format!("select count(*) from {table} where replay_at is not null");
    testbed::until(SOON, "it is asked for", async || {
        let count = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(asked.clone()));
        (count.fetch_one(&room.pool).await.unwrap() == asked_for).then_some(())
    })
    .await;
    room.run(and).await;
}

/// Until another session has looked at what is parked since now.
async fn looks_again(room: &Room) {
    let now = "select clock_timestamp()::text";
    let now: String = sqlx::query_scalar(now).fetch_one(&room.pool).await.unwrap();
    testbed::until(SOON, "it looks again", async || {
        let looked = "select exists (select from pg_stat_activity where datname = current_database()
             and pid <> pg_backend_pid() and query_start > $1::timestamptz and query like '%outbox.parked%')";
        let looked = sqlx::query_scalar(looked).bind(&now);
        let looked: bool = looked.fetch_one(&room.pool).await.unwrap();
        looked.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_replay_is_waited_for_until_the_message_is_gone_or_parked_again() {
    let room = crate::parked::room("wait_replay").await;
    for (side, table, number, ok, sick, done) in [
        ("outbox", "outbox.parked", "seq", 10, 20, "sent"),
        ("inbox", "outbox.inbox_parked", "id", 1, 4, "handled"),
    ] {
        let replay = async |more: String| -> Ran {
            let arguments = format!("{side} parked replay {more} --wait");
            room.recompense(arguments.split(' ')).await
        };
        let parked_again = format!(
            "delete from {table} where {number} = {ok};
             update {table} set replay_at = null, replay_by = null, reason = 'still too large'
              where {number} = {sick}"
        );
        let (ran, ()) = tokio::join!(
            replay(format!("{ok} {sick}")),
            turn(&room, table, 2, &parked_again)
        );
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
        let expected = format!("{ok}: {done}\n{sick}: parked again: still too large\n");
        assert_eq!(ran.stdout, expected);

        let ran = replay(format!("{sick} --timeout 200ms")).await;
        assert_eq!(
            (ran.status, ran.stdout),
            (Some(3), format!("{sick}: not {done} yet\n"))
        );
        // So that what comes next is what asks.
        let asked = "set replay_at = null, replay_by = null";
        room.run(format!("update {table} {asked}")).await;
        let gone = format!("delete from {table}");
        let (ran, ()) = tokio::join!(
            replay(format!("{sick} --output json")),
            turn(&room, table, 1, &gone)
        );
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(
            (&told[0][number], &told[0]["waited"]),
            (&json!(sick), &json!("done"))
        );
        let ran = replay(sick.to_string()).await;
        assert_eq!(ran.status, Some(1), "{}", ran.stdout);
    }
}

#[tokio::test]
async fn all_that_is_selected_is_waited_for_with_what_follows_it() {
    let room = crate::parked::room("wait_all").await;
    let replay = "outbox parked replay --key k --all --yes --wait";
    let heads = "delete from outbox.parked where seq = 10";
    let (ran, ()) = tokio::join!(room.recompense(replay.split(' ')), async {
        turn(&room, "outbox.parked", 1, heads).await;
        // Those behind it go by themselves, later: when it has seen that nothing is asked for, and looked
        // again. A look is two statements, and the last word one more.
        for _ in 0..4 {
            looks_again(&room).await;
        }
        room.run("delete from outbox.parked where key = 'k'").await;
    });
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
    assert_eq!(ran.stdout, "1 messages asked for of 3 selected\n");
    let replay = "inbox parked replay --consumer billing --all --yes --wait --output json";
    let refused = "update outbox.inbox_parked set replay_at = null, replay_by = null";
    let (ran, ()) = tokio::join!(
        room.recompense(replay.split(' ')),
        turn(&room, "outbox.inbox_parked", 2, refused)
    );
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.contains("4 of what is selected are parked"),
        "{}",
        ran.stderr
    );
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&told["selected"], &told["parked"]), (&json!(4), &json!(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_shows_how_far_it_is_on_a_terminal_alone() {
    let room = Room::new("progress").await;
    let (broker, topic) = crate::room::kafka("progress", 1).await;
    room.send(&topic, "k", 0..3_000).await;
    let relay = room.relay(&broker);
    testbed::until(SOON, "everything is published", async || {
        (room.json("outbox lag").await["messages"] == 0).then_some(())
    })
    .await;
    let replay = |more: &[&str]| {
        let mut replay = command(&room.url);
        replay.args(["outbox", "replay", "--yes"]).args(more);
        replay
    };
    let mut terminal = Terminal::start(replay(&[]), &[2]);
    assert_eq!(terminal.ended().await, Some(0));
    terminal.until(" of 3000 █").await;
    assert!(
        terminal.told().ends_with("\r\u{1b}[2K"),
        "{:?}",
        terminal.told()
    );
    // A program reads along.
    let mut terminal = Terminal::start(replay(&["--output", "json"]), &[2]);
    assert_eq!(terminal.ended().await, Some(0));
    assert_eq!(terminal.told(), "");
    relay.stop().await;
}
