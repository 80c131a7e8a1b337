//! What people did to an outbox and an inbox: a row for each act, in its transaction.

use std::time::Duration;

use outbox::{
    Error,
    audit::{self, Author, Entry, Filter, Kept},
    incoming::parked as inbox,
    operator::{
        self, Paused, Resumed, parked,
        replay::{Replay, Selection},
    },
};
use serde_json::json;
use sqlx::PgPool;

use crate::{operating::run, world::World};

async fn entries(pool: &PgPool) -> Vec<Entry> {
    let mut all = audit::list(pool, &Filter::default(), None, 1_000)
        .await
        .unwrap();
    all.reverse();
    all
}

/// In short: actor, action, subject, reason.
async fn told(pool: &PgPool) -> Vec<(String, String, String, Option<String>)> {
    let all = entries(pool).await.into_iter();
    all.map(|entry| (entry.actor, entry.action, entry.subject, entry.reason))
        .collect()
}

fn line(
    actor: &str,
    action: &str,
    subject: &str,
    reason: Option<&str>,
) -> (String, String, String, Option<String>) {
    (
        actor.to_owned(),
        action.to_owned(),
        subject.to_owned(),
        reason.map(str::to_owned),
    )
}

/// Outbox: a key with a head 10 and a follower 11, and `held` 30. Inbox: 1 refused, 2 behind it.
async fn park(pool: &PgPool) {
    run(pool, "insert into outbox.blocked_key values ('t', 'k', 10)").await;
    run(
        pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, payload, created_at, class, reason)
         values (10, gen_random_uuid(), 't', 'k', 'kind', 's3cret', now(), 'poison', 'refused'),
                (11, gen_random_uuid(), 't', 'k', 'kind', 's3cret', now(), 'blocked', 'behind'),
                (30, gen_random_uuid(), 'u', 'held', 'kind', 's3cret', now(), 'held', 'no topic')",
    )
    .await;
    run(
        pool,
        "insert into outbox.inbox_blocked values ('c', 't', 'k')",
    )
    .await;
    run(
        pool,
        r#"insert into outbox.inbox_parked
               (consumer, message_id, topic, partition, "offset", key, payload, headers, class, reason, attempts)
           values ('c', gen_random_uuid(), 't', 3, 14, 'k', 's3cret', '[]', 'refused', 'no', 5),
                  ('c', gen_random_uuid(), 't', 3, 15, 'k', 's3cret', '[]', 'blocked', 'behind', 0)"#,
    )
    .await;
}

#[tokio::test]
async fn each_act_leaves_a_row_and_what_does_nothing_leaves_none() {
    let World { pool, .. } = World::embedded("audit").await;
    let pool = &pool;
    let ann = Author::new("ann")
        .with_role(Some("operator"))
        .because("the bank: closed");
    assert!(matches!(
        operator::pause(pool, &ann).await.unwrap(),
        Paused::Paused(_)
    ));
    assert!(matches!(
        operator::pause(pool, "bob").await.unwrap(),
        Paused::Already(_)
    ));
    let Resumed::Resumed(pause) = operator::resume(pool, "bob: it is open").await.unwrap() else {
        panic!("it was paused");
    };
    assert_eq!(pause.by, "ann: the bank: closed");
    assert_eq!(
        operator::resume(pool, "bob").await.unwrap(),
        Resumed::NotPaused
    );
    let paused = line("ann", "relay.pause", "outbox", Some("the bank: closed"));
    let resumed = line("bob", "relay.resume", "outbox", Some("it is open"));
    assert_eq!(told(pool).await, [paused, resumed]);
    let entry = entries(pool).await.remove(0);
    assert_eq!(entry.role.as_deref(), Some("operator"));
    assert_eq!(entry.details, json!({}));

    park(pool).await;
    run(pool, "truncate outbox.audit").await;
    // Asked for twice, behind a head, and of something that is not there.
    parked::request_replay(pool, &[10, 11, 30, 99], "ann: mended")
        .await
        .unwrap();
    parked::request_replay(pool, &[10, 11, 30, 99], "bob")
        .await
        .unwrap();
    let all = parked::Selection::default();
    assert_eq!(
        parked::request_replay_of_all(pool, &all, "bob")
            .await
            .unwrap(),
        0
    );
    inbox::request_replay(pool, 1, "ann: mended").await.unwrap();
    inbox::request_replay(pool, 1, "bob").await.unwrap();
    inbox::request_replay(pool, 2, "bob").await.unwrap();
    inbox::request_replay(pool, 99, "bob").await.unwrap();
    let inbox_all = inbox::Filter::default();
    assert_eq!(
        inbox::request_replay_all(pool, &inbox_all, "bob")
            .await
            .unwrap(),
        1
    );
    let replay = |subject| line("ann", "parked.replay", subject, Some("mended"));
    let replays = ["parked/outbox-10", "parked/outbox-30", "parked/inbox-1"].map(replay);
    assert_eq!(told(pool).await, replays);

    run(pool, "truncate outbox.audit").await;
    for _ in 0..2 {
        parked::discard(pool, &[10, 99], "ann: too large")
            .await
            .unwrap();
        inbox::discard(pool, 1, "ann: too large").await.unwrap();
    }
    assert_eq!(parked::discard_all(pool, &all, "bob").await.unwrap(), 2);
    assert_eq!(
        inbox::discard_all(pool, &inbox_all, "bob").await.unwrap(),
        1
    );
    let discard = |actor, subject, reason| line(actor, "parked.discard", subject, reason);
    assert_eq!(
        told(pool).await,
        [
            discard("ann", "parked/outbox-10", Some("too large")),
            discard("ann", "parked/inbox-1", Some("too large")),
            discard("bob", "parked/outbox-30", None),
            discard("bob", "parked/outbox-11", None),
            discard("bob", "parked/inbox-2", None),
        ]
    );
    for entry in entries(pool).await {
        assert!(entry.details["message_id"].is_string(), "{entry:?}");
        assert!(!format!("{entry:?}").contains("s3cret"), "{entry:?}");
    }
}

#[tokio::test]
async fn many_at_once_are_one_row_for_each_transaction() {
    let World { pool, .. } = World::embedded("audit_many").await;
    run(
        &pool,
        "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
         select n, gen_random_uuid(), 't', n::text, 'kind', now(), 'held', '' from generate_series(1, 2500) as n",
    )
    .await;
    let all = parked::Selection {
        topic: Some("t".to_owned()),
        ..parked::Selection::default()
    };
    assert_eq!(
        parked::request_replay_of_all(&pool, &all, "ann")
            .await
            .unwrap(),
        2500
    );
    let all = entries(&pool).await;
    let messages: Vec<_> = all
        .iter()
        .map(|entry| entry.details["messages"].clone())
        .collect();
    assert_eq!(messages, [1000, 1000, 500]);
    assert!(
        all.iter()
            .all(|entry| entry.subject == "parked" && entry.details["topic"] == "t")
    );
}

#[tokio::test]
async fn a_replay_of_the_log_is_told_page_by_page() {
    let world = World::embedded("audit_replay").await;
    let pool = &world.pool;
    let messages: Vec<_> = (0..3).map(|n| world.message("k", n)).collect();
    world.send(&messages).await;
    // As if a relay had sent it all.
    run(
        pool,
        "update outbox.relay set settled = pg_current_snapshot(), target = pg_current_snapshot(), last_seq = 0",
    )
    .await;
    let mut replay = Replay::begin(pool, Selection::default(), false, "ann: they lost it")
        .await
        .unwrap();
    assert_eq!(entries(pool).await, [], "nothing has been done yet");
    while replay.page().await.unwrap().is_some() {}
    let all = entries(pool).await;
    assert_eq!(
        told(pool).await,
        [line("ann", "log.replay", "outbox", Some("they lost it"))]
    );
    assert_eq!(
        (&all[0].details["messages"], &all[0].details["new_ids"]),
        (&json!(3), &json!(false))
    );
}

/// Where no row can be written nothing is done: the two are one transaction.
#[tokio::test]
async fn what_cannot_be_told_is_not_done() {
    let World { pool, .. } = World::embedded("audit_fails").await;
    let pool = &pool;
    park(pool).await;
    run(
        pool,
        "create function refuse() returns trigger language plpgsql as
             $$ begin raise exception 'no room'; end $$;
         create trigger refuse before insert on outbox.audit for each row execute function refuse()",
    )
    .await;
    let state = async || -> String {
        let state = "select concat_ws(' ', (select paused_by from outbox.relay),
                        (select string_agg(parked::text, ',' order by seq) from outbox.parked),
                        (select string_agg(inbox_parked::text, ',' order by id) from outbox.inbox_parked),
                        (select count(*) from outbox.blocked_key), (select count(*) from outbox.inbox_blocked))";
        sqlx::query_scalar(state).fetch_one(pool).await.unwrap()
    };
    let before = state().await;
    let (all, inbox_all) = (parked::Selection::default(), inbox::Filter::default());
    let failed: [Result<(), Error>; 8] = [
        operator::pause(pool, "ann").await.map(drop),
        parked::request_replay(pool, &[10], "ann").await.map(drop),
        parked::request_replay_of_all(pool, &all, "ann")
            .await
            .map(drop),
        parked::discard(pool, &[10], "ann").await.map(drop),
        parked::discard_all(pool, &all, "ann").await.map(drop),
        inbox::request_replay(pool, 1, "ann").await.map(drop),
        inbox::request_replay_all(pool, &inbox_all, "ann")
            .await
            .map(drop),
        inbox::discard(pool, 1, "ann").await.map(drop),
    ];
    for (place, failed) in failed.into_iter().enumerate() {
        assert!(
            matches!(failed, Err(Error::Database(_))),
            "{place}: {failed:?}"
        );
    }
    assert_eq!(state().await, before);
    run(
        pool,
        "update outbox.relay set paused_at = now(), paused_by = 'ann'",
    )
    .await;
    let before = state().await;
    assert!(operator::resume(pool, "ann").await.is_err());
    assert_eq!(state().await, before);
}

#[tokio::test]
async fn the_list_is_filtered_and_walked_and_what_is_old_is_forgotten() {
    let World { pool, .. } = World::embedded("audit_list").await;
    run(
        &pool,
        "insert into outbox.audit (at, actor, action, subject)
         select now() - n * interval '1 day', case when n % 2 = 0 then 'ann' else 'bob' end,
                'relay.pause', 'outbox' from generate_series(400, 1, -1) as n",
    )
    .await;
    let ann = Filter {
        actor: Some("ann".to_owned()),
        ..Filter::default()
    };
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = audit::list(&pool, &ann, before, 70).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page.iter().map(|entry| entry.id));
    }
    assert_eq!(seen.len(), 200);
    assert!(
        seen.is_sorted_by(|one, next| one > next),
        "newest first, none twice"
    );
    let since = chrono::Utc::now() - Duration::from_secs(10 * 86_400 + 3_600);
    let week = Filter {
        since: Some(since),
        ..Filter::default()
    };
    assert_eq!(
        audit::list(&pool, &week, None, 100).await.unwrap().len(),
        10
    );
    for nothing in [
        Filter {
            action: Some("relay.resume".to_owned()),
            ..Filter::default()
        },
        Filter {
            subject: Some("parked".to_owned()),
            ..Filter::default()
        },
    ] {
        assert_eq!(audit::list(&pool, &nothing, None, 100).await.unwrap(), []);
    }

    let days = |days: u64| Duration::from_secs(days * 86_400);
    assert_eq!(
        audit::forget(&pool, days(365)).await.unwrap(),
        Kept::Forgotten(36)
    );
    assert_eq!(audit::forget(&pool, days(365)).await.unwrap(), Kept::All);
    assert_eq!(entries(&pool).await.len(), 364);
    assert!(
        audit::forget(&pool, Duration::from_secs(3_600))
            .await
            .is_err()
    );
    assert_eq!(entries(&pool).await.len(), 364);
}
