//! One relay leads; whatever happens to it, another goes on from the same cursor.

use std::time::{Duration, Instant};

use outbox::outgoing::{Config, Status, lease};

use crate::world::{SOON, World};

fn quick() -> Config {
    Config {
        lease: Duration::from_millis(800),
        page: 200,
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_crashed_leader_and_nothing_is_lost() {
    let world = World::kafka("takeover").await;
    let mut first = world.relay(quick());
    first.leading().await;
    let mut second = world.relay(quick());
    let mut oracle = world.oracle();
    let mut sent = 0;
    for _ in 0..20 {
        let messages: Vec<_> = (0..50).map(|i| world.message("k", sent + i)).collect();
        sent += 50;
        world.send(&messages).await;
    }
    oracle.wait_for(100).await;
    assert_eq!(*second.status.borrow(), Status::Standby);
    first.crash().await;
    let crashed = Instant::now();
    for _ in 0..20 {
        let messages: Vec<_> = (0..50).map(|i| world.message("k", sent + i)).collect();
        sent += 50;
        world.send(&messages).await;
    }
    second.leading().await;
    // Twice the lease: generous for a starved machine, far below never.
    assert!(crashed.elapsed() < quick().lease * 2 + Duration::from_secs(1));
    oracle.wait_for(usize::try_from(sent).unwrap()).await;
    assert_eq!(
        oracle.numbers(),
        (0..sent).collect::<Vec<_>>(),
        "first occurrences in order"
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leader_hands_over_at_once() {
    let world = World::embedded("handover").await;
    // A lease so long that only a hand-over can be this quick.
    let long = Config {
        lease: Duration::from_secs(60),
        ..Config::default()
    };
    let mut first = world.relay(long.clone());
    first.leading().await;
    let mut second = world.relay(Config {
        lease: Duration::from_secs(2),
        ..long
    });
    world.send(&[world.message("k", 1)]).await;
    let mut oracle = world.oracle();
    oracle.wait_for(1).await;
    first.stop().await;
    second.leading().await;
    world.send(&[world.message("k", 2)]).await;
    oracle.wait_for(2).await;
    assert_eq!(oracle.duplicates, 0);
    second.stop().await;
    assert_eq!(lease(&world.pool).await.unwrap(), None, "given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_leader_writes_nothing_more_and_stands_by() {
    let world = World::embedded("fenced").await;
    let mut relay = world.relay(quick());
    relay.leading().await;
    // Another took the lease and keeps it, with the cursor where it is.
    let before: String = sqlx::query_scalar(
        "update outbox.relay set epoch = epoch + 1, owner = 'another',
                lease_until = clock_timestamp() + interval '1 hour', lease_length = interval '1 hour'
         returning settled::text || target::text || last_seq",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    let standby = relay.status.wait_for(|status| *status == Status::Standby);
    tokio::time::timeout(SOON, standby)
        .await
        .expect("stands by")
        .unwrap();
    world.send(&[world.message("k", 1)]).await;
    let after: (String, String) =
        sqlx::query_as("select settled::text || target::text || last_seq, owner from outbox.relay")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(after, (before, "another".to_owned()));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_session_is_killed_again_and_again_loses_nothing() {
    let world = World::embedded("sessions").await;
    let relay = world.relay(quick());
    let mut oracle = world.oracle();
    let mut killed = 0;
    for n in 0..200 {
        world.send(&[world.message("k", n)]).await;
        if n % 40 == 20 {
            killed += world
                .count(
                    "select count(*) from (
                         select pg_terminate_backend(pid) from pg_stat_activity
                         where datname = current_database() and application_name = 'outbox relay'
                     ) as killed",
                )
                .await;
        }
    }
    assert!(killed > 0, "the fault fired");
    oracle.wait_for(200).await;
    assert_eq!(oracle.numbers(), (0..200).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_under_whose_feet_a_database_is_restored_reads_nothing_of_it() {
    let world = World::embedded("restored_standby").await;
    let taken = "update outbox.relay set owner = 'another', lease_until = clock_timestamp() + interval '1 hour',
                 lease_length = interval '1 hour'";
    sqlx::query(taken).execute(&world.pool).await.unwrap();
    let mut relay = world.relay(quick());
    let standby = relay.status.wait_for(|status| *status == Status::Standby);
    tokio::time::timeout(SOON, standby).await.unwrap().unwrap();
    world.send(&[world.message("k", 1)]).await;
    // A lease that has long expired, and a cursor that another cluster wrote.
    let restored = "update outbox.relay set system_identifier = 1, lease_until = clock_timestamp() - interval '1 hour'";
    sqlx::query(restored).execute(&world.pool).await.unwrap();
    let error = tokio::time::timeout(SOON, relay.task).await;
    let error = error.expect("it gives up").unwrap().unwrap_err();
    assert!(
        error.to_string().contains("another database cluster"),
        "{error}"
    );
    let mut oracle = world.oracle();
    oracle.poll().await;
    assert!(oracle.seen.is_empty(), "nothing was sent");
    assert_eq!(
        world.count("select epoch from outbox.relay").await,
        1,
        "it had taken the lease"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_cluster_is_refused_with_advice() {
    let world = World::embedded("foreign").await;
    sqlx::query("update outbox.relay set system_identifier = 1")
        .execute(&world.pool)
        .await
        .unwrap();
    let relay = world.relay(quick());
    let error = tokio::time::timeout(SOON, relay.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        error.to_string().contains("another database cluster"),
        "{error}"
    );

    let world = World::embedded("rewound").await;
    sqlx::query("update outbox.relay set settled = '1:1:', target = '999999999:999999999:'")
        .execute(&world.pool)
        .await
        .unwrap();
    let relay = world.relay(quick());
    let error = tokio::time::timeout(SOON, relay.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        error.to_string().contains("ahead of this cluster"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_farther_away_than_it_is_long_is_taken_over_at_once() {
    let world = World::embedded("clock").await;
    // As after the clock was set back, or a failover to a server whose clock is behind.
    sqlx::query(
        "update outbox.relay set owner = 'before', epoch = 7,
                lease_until = clock_timestamp() + interval '2 days', lease_length = interval '1.5 seconds'",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    assert_eq!(lease(&world.pool).await.unwrap(), None, "nobody holds it");
    let status = outbox::operator::status(&world.pool).await.unwrap();
    assert_eq!(status.lease, None);
    let mut relay = world.relay(quick());
    relay.leading().await;
    world.send(&[world.message("k", 1)]).await;
    world.oracle().wait_for(1).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_behind_a_pooler_begins_anew_when_another_process_of_the_server_answers() {
    let world = World::embedded("pooler").await;
    // What a transaction pooler hides: the same session, and another process behind it.
    sqlx::raw_sql(
        "create schema fake;
         create table fake.backend as select 1 as pid;
         create function fake.pg_backend_pid() returns integer language sql volatile
             return (select pid from fake.backend);
         do $$ begin
             execute format('alter database %I set search_path = fake, pg_catalog, public',
                            current_database());
         end $$",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let mut relay = world.relay(quick());
    relay.leading().await;
    let epoch = world.count("select epoch from outbox.relay").await;
    sqlx::raw_sql("update fake.backend set pid = 2")
        .execute(&world.pool)
        .await
        .unwrap();
    testbed::until(SOON, "it begins anew", async || {
        (world.count("select epoch from outbox.relay").await > epoch).then_some(())
    })
    .await;
    world.send(&[world.message("k", 1)]).await;
    world.oracle().wait_for(1).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_again_and_again_is_not_called_well_in_between() {
    let world = World::embedded("again").await;
    let mut relay = world.relay(quick());
    relay.leading().await;
    // Something that every leader needs a moment after it began.
    let hide = "alter function outbox.readable_time(timestamptz) rename to hidden";
    sqlx::raw_sql(hide).execute(&world.pool).await.unwrap();
    let failed = relay
        .status
        .wait_for(|s| matches!(s, Status::Disconnected(_)));
    tokio::time::timeout(SOON, failed).await.unwrap().unwrap();
    let epoch = world.count("select epoch from outbox.relay").await;
    let (mut status, seen) = (relay.status.clone(), std::sync::Arc::default());
    let others: std::sync::Arc<std::sync::Mutex<Vec<Status>>> = std::sync::Arc::clone(&seen);
    let watching = tokio::spawn(async move {
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            if !matches!(now, Status::Disconnected(_)) {
                others.lock().unwrap().push(now);
            }
        }
    });
    testbed::until(SOON, "two leaderships more", async || {
        (world.count("select epoch from outbox.relay").await >= epoch + 2).then_some(())
    })
    .await;
    assert_eq!(*seen.lock().unwrap(), [], "what readiness was told");
    watching.abort();
    let show = "alter function outbox.hidden(timestamptz) rename to readable_time";
    sqlx::raw_sql(show).execute(&world.pool).await.unwrap();
    relay.leading().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_broker_than_the_one_that_acknowledged_is_noticed() {
    let world = World::embedded("broker").await;
    let noted = async || {
        let sql = "select broker from outbox.relay";
        let noted: Option<String> = sqlx::query_scalar(sql)
            .fetch_one(&world.pool)
            .await
            .unwrap();
        noted
    };
    let relay = world.relay(quick());
    let first = testbed::until(SOON, "the broker is noted", noted).await;
    relay.stop().await;
    // The embedded broker ended with its process, and the next one is empty.
    let other = outbox::broker::Embedded::start().unwrap();
    let relay = crate::world::Running::start(outbox::Relay::new(
        world.database.options().unwrap(),
        std::sync::Arc::new(other),
        quick(),
    ));
    testbed::until(SOON, "another broker is noted", async || {
        noted().await.filter(|broker| *broker != first)
    })
    .await;
    relay.stop().await;
}
