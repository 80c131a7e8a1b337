//! What people did, as the program tells it, and the tokens that it makes.

use serde_json::Value;

use crate::room::{Room, recompense};

#[tokio::test]
async fn what_is_done_by_the_program_is_told_by_it() {
    let room = Room::new("audit").await;
    for command in [
        "outbox pause --by ann --reason upgrade",
        "outbox pause --by bob",
        "outbox resume --by bob",
        "outbox resume --by bob",
    ] {
        let ran = recompense(&room.url, command.split(' ')).await;
        assert_eq!(ran.status, Some(0), "{command}: {}", ran.stderr);
    }
    let ran = recompense(&room.url, ["audit", "--output", "json"]).await;
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
    let all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|entry| [&entry["actor"], &entry["action"], &entry["reason"]].map(Value::as_str))
        .collect();
    assert_eq!(
        told,
        [
            [Some("bob"), Some("relay.resume"), None],
            [Some("ann"), Some("relay.pause"), Some("upgrade")],
        ]
    );
    let ran = recompense(
        &room.url,
        ["audit", "--actor", "ann", "--since", "1h", "-n", "1"],
    )
    .await;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stdout);
    assert!(lines[0].starts_with("id  at"), "{}", lines[0]);
    for word in ["ann", "relay.pause", "outbox", "upgrade"] {
        assert!(lines[1].contains(word), "{}", lines[1]);
    }
    for nothing in [
        "--action relay.stop",
        "--subject parked",
        "--actor eve",
        "--before 1",
    ] {
        let arguments = ["audit"].into_iter().chain(nothing.split(' '));
        let ran = recompense(&room.url, arguments).await;
        assert_eq!(ran.stdout.lines().count(), 1, "{nothing}: {}", ran.stdout);
    }
}

#[tokio::test]
async fn a_token_is_made_with_its_line_or_refused_in_one() {
    let room = Room::empty("token").await;
    let run = async |arguments: &'static str| recompense(&room.url, arguments.split(' ')).await;
    let ran = run("token new ann --role operator --expires 90d").await;
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let [_, token, _, line] = lines[..] else {
        panic!("{}", ran.stdout);
    };
    assert!(token.starts_with("rcp_") && line.starts_with("ann operator sha256:"));
    assert!(line.contains(" expires 2"), "{line}");
    for (arguments, says) in [
        ("token new ann", "missing setting: --role"),
        (
            "token new ann --role root",
            "must be one of viewer, operator, admin",
        ),
        (
            "token new ann --role viewer --expires 2020-01-01T00:00:00Z",
            "must be in the future",
        ),
        (
            "token new ann --role viewer --expires soon",
            "must be a time",
        ),
    ] {
        run(arguments).await.is_refusal(arguments, 2, says);
    }
    let ran = run("token new #ann --role viewer").await;
    ran.is_refusal("a name that a file cannot hold", 1, "a name has");
}
