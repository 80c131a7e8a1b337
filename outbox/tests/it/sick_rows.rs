//! A row that no relay can send: the log refuses it, and where it was there before, it is parked with its
//! reason and stops nobody.

use outbox::{
    operator::{Filter, lag, parked, status, tail},
    outgoing::Config,
};

use crate::world::{SOON, World};

/// As if the rows of this test had been written before the log refused them.
async fn as_before(world: &World) {
    sqlx::raw_sql(
        "alter table outbox.log drop constraint log_headers_are_an_object_of_strings;
         alter table outbox.log drop constraint log_created_at_is_a_time",
    )
    .execute(&world.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_is_parked_with_its_reason_and_its_neighbours_are_sent() {
    let world = World::embedded("sickrows").await;
    as_before(&world).await;
    let headers = "its headers are not an object of strings";
    let time = "its created_at is no time of the years 1 to 9999";
    let topic = "a topic name has 1 to 249 letters, digits, dots, dashes or underscores";
    let sick = [
        ("'[\"a\"]'", "now()", headers),
        ("'{\"a\": 1}'", "now()", headers),
        ("'{\"a\": 1.7976931348623157e308}'", "now()", headers),
        ("'\"text\"'", "now()", headers),
        ("null", "'infinity'", time),
        ("null", "'-infinity'", time),
        ("null", "'290000-01-01 00:00:00+00'", time),
        ("null", "now()", topic),
    ];
    for (n, (headers, created_at, reason)) in sick.iter().enumerate() {
        let topic = match *reason == topic {
            true => "no topic has this name",
            false => world.topic.as_str(),
        };
        world.send(&[world.message("well", n as i64)]).await;
        let sql = format!(
            "insert into outbox.log (message_id, topic, key, kind, payload, headers, created_at)
             values (gen_random_uuid(), '{topic}', 'sick-{n}', 'test.v1', '{{}}', {headers}, {created_at})"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&world.pool)
            .await
            .unwrap();
        // Behind it in the order of its key.
        world
            .send(&[world.message(&format!("sick-{n}"), 100 + n as i64)])
            .await;
    }
    // What looks at the log meets them too.
    lag(&world.pool, 1_000).await.unwrap();
    status(&world.pool).await.unwrap();
    let mut relay = world.relay(Config::default());
    let mut oracle = world.oracle();
    // The eighth is of a topic of its own, so that what has its key here waits for nothing.
    oracle.wait_for(sick.len() + 1).await;
    relay.leading().await;
    let wanted = [("blocked", 7), ("poison", sick.len() as i64)];
    world.wait_for_unsent(&wanted).await;
    assert_eq!(
        oracle.of_key("well"),
        (0..sick.len() as i64).collect::<Vec<_>>()
    );
    let reasons: Vec<String> =
        sqlx::query_scalar("select reason from outbox.parked where class = 'poison' order by seq")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    assert_eq!(reasons, sick.map(|(_, _, reason)| reason));
    assert_eq!(
        world.count("select epoch from outbox.relay").await,
        1,
        "one session"
    );

    // It is listed and shown, and the ordinary tools mend it: asked for, it is refused with its reason again;
    // discarded, those behind it are sent.
    let all = parked::Selection::default();
    let listed = parked::list(&world.pool, &all, None, 100).await.unwrap();
    assert_eq!(listed.len(), 15);
    for item in listed
        .iter()
        .filter(|item| item.class == parked::Class::Poison)
    {
        parked::show(&world.pool, item.seq, false)
            .await
            .unwrap()
            .unwrap();
    }
    let poison: Vec<_> = listed
        .iter()
        .filter(|item| item.class == parked::Class::Poison)
        .map(|item| item.seq)
        .collect();
    parked::request_replay(&world.pool, &poison[..1], "ann")
        .await
        .unwrap();
    testbed::until(SOON, "it was refused once more", async || {
        let sql = "select count(*) from outbox.parked where attempts = 2 and replay_at is null";
        (world.count(sql).await == 1).then_some(())
    })
    .await;
    parked::discard(&world.pool, &poison, "ann").await.unwrap();
    world.wait_for_unsent(&[]).await;
    // 7 of their keys; the eighth was of another topic, so nothing waited behind it.
    oracle.wait_for(2 * sick.len()).await;
    tail(&world.pool, &Filter::default(), 100).await.unwrap();
    relay.stop().await;
}

#[tokio::test]
async fn the_log_refuses_a_row_that_no_relay_can_send() {
    let world = World::embedded("refused").await;
    for (column, value, constraint) in [
        (
            "headers",
            "'[\"a\"]'",
            "log_headers_are_an_object_of_strings",
        ),
        (
            "headers",
            "'{\"a\": [\"b\"]}'",
            "log_headers_are_an_object_of_strings",
        ),
        (
            "headers",
            "'{\"a\": null}'",
            "log_headers_are_an_object_of_strings",
        ),
        ("created_at", "'infinity'", "log_created_at_is_a_time"),
        ("created_at", "'-infinity'", "log_created_at_is_a_time"),
        ("xid", "'9'", "log_xid_is_its_own"),
        ("xid", "'4000000000000'", "log_xid_is_its_own"),
    ] {
        let sql = format!(
            "insert into outbox.log (message_id, topic, key, kind, {column})
             values (gen_random_uuid(), 't', 'k', 'kind', {value})"
        );
        let inserted = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&world.pool);
        let error = inserted.await.unwrap_err();
        let error = error.as_database_error().unwrap();
        assert_eq!(error.constraint(), Some(constraint), "{column} = {value}");
    }
    let taken = "insert into outbox.log (message_id, topic, key, kind, headers, xid)
                 values (gen_random_uuid(), 't', 'k', 'kind', '{\"a\": \"b\"}', pg_current_xact_id())";
    sqlx::raw_sql(taken).execute(&world.pool).await.unwrap();
}
