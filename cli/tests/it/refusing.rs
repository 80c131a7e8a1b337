//! What cannot be done: one clear line on stderr, nothing on stdout, no panic, no secret, and a status that
//! tells a wrong argument from a failure.

use testbed::free_port;

use crate::room::{Room, SECRET, recompense};

#[tokio::test]
async fn a_wrong_argument_is_named_and_exits_with_2() {
    let room = Room::new("usage").await;
    for (arguments, says) in [
        ("", "a subcommand is missing; see --help"),
        ("outbox", "a subcommand is missing"),
        ("outbox nonsense", "there is no such subcommand"),
        (
            "outbox status --output yaml",
            "--output: must be one of table, json",
        ),
        ("outbox status --nonsense", "--nonsense"),
        ("outbox lag --limit 0", "--limit"),
        ("outbox tail -n many", "--lines"),
        ("outbox tail --lines=-1", "--lines"),
        ("outbox topics --refresh", "--kafka-brokers"),
        ("outbox topics --kafka-brokers nowhere", "must be host:port"),
        ("outbox doctor --kafka-brokers :9092", "must be host:port"),
        (
            "outbox replay --since yesterday",
            "a time such as 2026-01-31T12:00:00Z will do as well",
        ),
        (
            "outbox replay --since 999999999999d",
            "--since: must be at most 36500d",
        ),
        ("outbox replay --since 1h --from-seq 3", "--from-seq"),
        ("outbox replay --from-seq abc", "--from-seq"),
        ("outbox parked", "a subcommand is missing"),
        (
            "outbox parked list --class refused",
            "--class: must be one of poison, blocked, held",
        ),
        ("outbox parked list -n 0", "--limit"),
        ("outbox parked show", "missing setting: <NUMBER>"),
        (
            "outbox parked show 6e8bc430-9c3a-11d9-9669-0800200c9a66",
            "<NUMBER>",
        ),
        ("outbox parked show 99999999999999999999", "<NUMBER>"),
        (
            "outbox parked replay",
            "say which messages: their numbers, or --all",
        ),
        ("outbox parked replay --topic t", "say --all"),
        ("outbox parked replay 1 --topic t", "cannot be used with"),
        ("outbox parked replay 1 --all", "cannot be used with"),
        (
            "outbox parked replay 1 --dry-run",
            "--dry-run goes with --all",
        ),
        ("outbox parked discard", "say which messages"),
        ("inbox", "a subcommand is missing"),
        ("inbox parked list --class poison", "--class: "),
        ("inbox parked replay --consumer c", "say --all"),
        ("inbox parked replay 1 --consumer c", "cannot be used with"),
        ("inbox parked discard x", "[NUMBERS]"),
    ] {
        room.refuses(arguments, 2, says).await;
    }
}

#[tokio::test]
async fn without_a_url_that_is_what_is_said_and_a_wrong_one_is_not_repeated() {
    let place = format!("127.0.0.1:{}", free_port());
    for (url, status, says) in [
        (String::new(), 2, "--database-url"),
        (SECRET.to_owned(), 2, "must begin with postgres://"),
        (
            format!("mysql://u:{SECRET}@{place}/d"),
            2,
            "must begin with postgres://",
        ),
        (
            format!("postgres://u:{SECRET}@127.0.0.1:port/d"),
            2,
            "not a database URL",
        ),
        (
            format!("postgres://u:{SECRET}/x@{place}/d"),
            2,
            "not a database URL",
        ),
        (
            format!("postgres://u:{SECRET}@[::1/d"),
            2,
            "not a database URL",
        ),
        (
            format!("postgres://u:{SECRET}@{place}/d"),
            1,
            "check --database-url",
        ),
        (
            format!("postgres://u:{SECRET}@no.host.invalid/d"),
            1,
            "check --database-url",
        ),
    ] {
        for command in [
            "outbox status",
            "inbox parked list",
            "migrate --schema outbox",
        ] {
            let ran = recompense(&url, command.split(' ')).await;
            ran.is_refusal(&format!("{command} at {url}"), status, says);
        }
    }
    let room = Room::empty("gone").await;
    let elsewhere = room.url.replace(&room.database.name, "no_such_database");
    let ran = recompense(&elsewhere, ["outbox", "status"]).await;
    ran.is_refusal("a database that is not there", 1, "no_such_database");
    // Typed in the wrong place.
    for (before, says) in [
        (&[][..], "no such subcommand"),
        (&["outbox"], "no such subcommand"),
        (&["outbox", "status"], "unexpected argument"),
        (&["outbox", "parked", "show"], "<NUMBER>"),
        (&["outbox", "replay", "--since"], "--since"),
        (&["outbox", "doctor", "--kafka-brokers"], "--kafka-brokers"),
        (&["outbox", "status", "--output"], "--output"),
    ] {
        let arguments = before.iter().copied().chain([room.url.as_str()]);
        let ran = recompense(&room.url, arguments).await;
        ran.is_refusal("a misplaced URL", 2, says);
    }
}

#[tokio::test]
async fn a_database_without_the_schema_says_how_it_is_made() {
    let room = Room::empty("no_schema").await;
    for command in [
        "outbox status",
        "outbox lag",
        "outbox tail",
        "outbox tail --follow",
        "outbox topics",
        "outbox parked list",
        "outbox parked show 1",
        "outbox parked replay 1",
        "outbox parked discard 1 --yes",
        "outbox replay --dry-run",
        "outbox pause",
        "outbox resume",
        "outbox doctor",
        "inbox parked list",
        "inbox parked show 1",
        "inbox parked replay --all --yes",
        "inbox parked discard 1 --yes",
    ] {
        let says = "run recompense migrate up --schema outbox";
        room.refuses(command, 1, says).await;
    }
}

#[tokio::test]
async fn a_broker_that_is_away_fails_what_needs_it_and_is_a_finding_of_the_doctor() {
    let room = Room::new("no_broker").await;
    let broker = format!("--kafka-brokers 127.0.0.1:{}", free_port());
    room.run("insert into outbox.topic (name) values ('t')")
        .await;
    room.refuses(&format!("outbox topics {broker}"), 1, "broker: ")
        .await;
    room.refuses(&format!("outbox topics --refresh {broker}"), 1, "broker: ")
        .await;
    let ran = room
        .recompense(format!("outbox doctor {broker}").split(' '))
        .await;
    assert_eq!((ran.status, &*ran.stderr), (Some(3), ""));
    assert!(ran.stdout.contains("PROBLEM  broker"), "{}", ran.stdout);
}

/// What is not there is not an error of the words.
#[tokio::test]
async fn a_topic_that_nobody_uses_selects_nothing() {
    let room = Room::new("unknown_topic").await;
    room.send("t", "k", [1]).await;
    for command in ["outbox parked list", "inbox parked list"] {
        let none = room.json(&format!("{command} --topic nowhere")).await;
        assert_eq!(none, serde_json::json!([]));
    }
    assert_eq!(
        room.says("outbox tail --topic nowhere --output json").await,
        ""
    );
    let total = room
        .json("outbox parked discard --all --topic nowhere --yes")
        .await;
    assert_eq!((&total["selected"], &total["done"]), (&0.into(), &0.into()));
    let plan = room.json("outbox replay --topic nowhere --dry-run").await;
    assert_eq!(plan["messages"], 0);
}

#[tokio::test]
async fn who_has_closed_the_pipe_has_seen_enough() {
    for arguments in [
        vec!["--help"],
        vec!["outbox", "replay", "--help"],
        vec!["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_recompense"));
        command.args(&arguments).stdout(writer);
        let ran = command.output().await.unwrap();
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(0), "{arguments:?}: {complaint}");
        assert_eq!(complaint, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_list_has_one_name_everywhere_and_its_short_form() {
    let room = Room::new("one_way").await;
    for command in ["outbox parked", "inbox parked"] {
        assert_eq!(
            room.says(&format!("{command} list")).await,
            room.says(&format!("{command} ls")).await
        );
    }
    for command in ["saga", "saga bulk", "parked"] {
        for name in ["list", "ls"] {
            let help = room.says(&format!("{command} {name} --help")).await;
            assert!(help.contains("list [OPTIONS]"), "{command} {name}: {help}");
        }
    }
}

#[tokio::test]
async fn a_pause_and_its_end_have_their_reasons() {
    let room = Room::new("reasons").await;
    room.says("outbox pause --by ann --reason broken").await;
    room.says("outbox resume --by bob --reason mended").await;
    let acts: Vec<(String, String, Option<String>)> =
        sqlx::query_as("select action, actor, reason from outbox.audit order by id")
            .fetch_all(&room.pool)
            .await
            .unwrap();
    let act = |action: &str, actor: &str, reason: &str| {
        (action.to_owned(), actor.to_owned(), Some(reason.to_owned()))
    };
    assert_eq!(
        acts,
        [
            act("relay.pause", "ann", "broken"),
            act("relay.resume", "bob", "mended")
        ]
    );
}
