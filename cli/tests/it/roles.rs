//! Which role may do what: the table of docs/operations.md, tried.

use outbox::operator;
use uuid::Uuid;

use crate::room::{Room, kafka, recompense, secret_url};

const ROLES: [&str; 5] = ["reader", "relay", "consumer", "producer", "owner"];

#[tokio::test]
async fn each_role_may_do_what_the_operations_page_says_and_is_told_which_role_may() {
    let room = Room::new("roles").await;
    let prefix = format!("c{}", Uuid::now_v7().simple());
    outbox::make_roles(&room.pool, &prefix).await.unwrap();
    let urls: Vec<_> = ROLES
        .iter()
        .map(|role| secret_url(&room.url, &format!("{prefix}_{role}_user")))
        .collect();
    for role in ROLES {
        let user = format!("{prefix}_{role}");
        room.run(format!("create role {user}_user login in role {user}"))
            .await;
    }
    room.send("t", "k", 0..3).await;
    // As if a relay had published them.
    room.run(
        "update outbox.relay set settled = pg_current_snapshot(), target = pg_current_snapshot()",
    )
    .await;
    let (broker, topic) = kafka("roles", 1).await;
    let refresh = format!(
        "outbox topics --refresh --kafka-brokers {}",
        broker.bootstrap()
    );
    // Both roles together may do what neither may alone.
    room.run(format!(
        "create role {prefix}_both login in role {prefix}_relay, {prefix}_producer;
         insert into outbox.topic (name) values ('{topic}')"
    ))
    .await;
    for (command, may) in [
        ("outbox status", "reader owner"),
        ("outbox lag", "reader relay owner"),
        ("outbox topics", "reader relay consumer producer owner"),
        (&refresh, "relay consumer producer owner"),
        ("outbox tail", "relay owner"),
        ("outbox tail --payload", "relay owner"),
        ("outbox parked list", "reader relay owner"),
        ("outbox parked show 10", "relay owner"),
        ("outbox parked replay 10", "relay owner"),
        ("outbox parked replay --all --yes", "relay owner"),
        ("outbox parked discard --all --key a --yes", "relay owner"),
        ("outbox replay --dry-run", "relay owner"),
        ("outbox replay --yes", "owner"),
        ("outbox pause", "relay owner"),
        ("outbox resume", "relay owner"),
        ("audit", "reader consumer producer owner"),
        ("inbox parked list", "reader consumer owner"),
        ("inbox parked show 1", "consumer owner"),
        ("inbox parked replay 1", "consumer owner"),
        ("inbox parked replay --all --yes", "consumer owner"),
        ("inbox parked discard --all --key a --yes", "consumer owner"),
    ] {
        for (role, url) in ROLES.iter().zip(&urls) {
            fill(&room, &topic).await;
            let ran = recompense(url, command.split(' ')).await;
            let case = format!("{command} as {role}");
            if may.split(' ').any(|may| may == *role) {
                assert_eq!((ran.status, &*ran.stderr), (Some(0), ""), "{case}");
            } else {
                ran.is_refusal(
                    &case,
                    1,
                    "this user may not do that; connect as a member of",
                );
                let told = ran.stderr.split(" role").next().unwrap();
                let told = told.split("outbox's ").nth(1).unwrap();
                for word in told.split(" or ").flat_map(|words| words.split(", ")) {
                    assert!(
                        may.contains(word),
                        "{case}: sent to {word}, who may not either"
                    );
                }
            }
        }
    }
    let both = secret_url(&room.url, &format!("{prefix}_both"));
    let ran = recompense(&both, ["outbox", "replay", "--yes"]).await;
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""));
    assert!(room.number("select count(*) from outbox.log").await > 3);
    // The doctor says of what it may not look at that it is unknown.
    for (role, url) in ROLES.iter().zip(&urls) {
        let ran = recompense(url, ["outbox", "doctor"]).await;
        assert_eq!((ran.status, &*ran.stderr), (Some(3), ""), "{role}");
    }
}

/// Something to show, replay and discard.
async fn fill(room: &Room, topic: &str) {
    operator::resume(&room.pool, "ann").await.unwrap();
    room.run(format!(
        "delete from outbox.parked;
         update outbox.topic set max_bytes = 17 where name = '{topic}';
         delete from outbox.inbox_parked;
         insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         values (10, gen_random_uuid(), 't', 'k', 'kind', now(), 'held', 'r'),
                (11, gen_random_uuid(), 't', 'a', 'kind', now(), 'held', 'r');
         alter table outbox.inbox_parked alter column id restart;
         insert into outbox.inbox_parked (consumer, message_id, topic, partition, \"offset\", key, headers, class,
                                          reason, attempts)
         values ('c', gen_random_uuid(), 't', 0, 0, 'k', '[]', 'refused', 'r', 1),
                ('c', gen_random_uuid(), 't', 0, 0, 'a', '[]', 'refused', 'r', 1)",
    ))
    .await;
}
