//! Time passes.

use std::time::Duration;

use saga::{Coordinator, Fired, Status, event::Event, wire::Outcome};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::*;

fn impatient() -> Coordinator {
    coordinator_of(definition_with(Duration::from_millis(1)))
}

#[tokio::test]
async fn nothing_fires_before_its_time() {
    let orders = database("orders").await;
    start(&coordinator(), &orders, &Trip::default()).await;
    let timers = coordinator().timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    assert_eq!(count(&orders, "outbox.log").await, 1);
}

#[tokio::test]
async fn an_overdue_answer_sends_the_same_operation_again_whoever_notices() {
    let orders = database("orders").await;
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    // Each firing by a coordinator built anew: the timer is a row and survives.
    make_due(&orders, None).await;
    let fired = coordinator()
        .timers(orders.clone())
        .run_once()
        .await
        .unwrap();
    assert_eq!(fired, Fired::Some(1));
    make_due(&orders, None).await;
    let fired = coordinator()
        .timers(orders.clone())
        .run_once()
        .await
        .unwrap();
    assert_eq!(fired, Fired::Some(1));

    let commands = sent(&orders, "trip.commands").await;
    let [first, again] = &commands[..] else {
        panic!("{} commands", commands.len())
    };
    assert_ne!(first.id, again.id, "another message");
    let operation = |m| saga::wire::Command::parse(m).unwrap();
    assert_eq!(
        operation(first).op_key,
        operation(again).op_key,
        "the same operation"
    );
    assert_eq!((operation(first).attempt, operation(again).attempt), (1, 2));
    // Either attempt's answer counts, once.
    let reply = answer(first, Outcome::Succeeded);
    deliver(&orders, &coordinator().replies(), &reply)
        .await
        .unwrap();
    assert_eq!(instance(&orders, saga.id).await.data["done"][0], "hold");
}

#[tokio::test]
async fn a_step_that_never_answers_is_undone_and_the_loop_stops_when_told() {
    let (orders, services) = (database("orders").await, database("services").await);
    let saga = start(&impatient(), &orders, &Trip::with("hold", "silent")).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(impatient().timers(orders.clone()).run(shutdown.clone()));
    let mut carried = std::collections::HashSet::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        for command in sent(&orders, "trip.commands").await {
            if carried.insert(command.id) {
                deliver(&services, &participant(), &command).await.unwrap();
            }
        }
        for reply in sent(&services, REPLIES).await {
            if carried.insert(reply.id) {
                deliver(&orders, &impatient().replies(), &reply)
                    .await
                    .unwrap();
            }
        }
        let state = instance(&orders, saga.id).await;
        if state.status.is_terminal() {
            assert_eq!(state.status, Status::Compensated);
            assert_eq!(state.reason.as_deref(), Some("hold did not answer in time"));
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{state:?}");
    }
    let history = history(&orders, saga.id).await;
    let null = |event: &Event| matches!(event, Event::StepNullCompensated { .. });
    assert!(history.iter().any(null), "{history:?}");
    assert!(effects(&services).await.is_empty());
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap()
        .unwrap();
}

async fn timer_of(pool: &PgPool, id: Uuid) -> (i32, bool) {
    sqlx::query_as("select failures, look_at > clock_timestamp() from saga.instance where id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_timer_that_fails_is_put_off_and_starves_no_other() {
    let orders = database("orders").await;
    let sick = start(&coordinator(), &orders, &Trip::default()).await;
    sqlx::query("update saga.instance set hash = 'of another graph'")
        .execute(&orders)
        .await
        .unwrap();
    let healthy = start(&coordinator(), &orders, &Trip::default()).await;
    make_due(&orders, None).await;
    let timers = coordinator().timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Postponed);
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    let history = history(&orders, healthy.id).await;
    assert!(
        history
            .iter()
            .any(|event| matches!(event, Event::AttemptTimedOut { .. }))
    );
    assert_eq!(
        timer_of(&orders, sick.id).await,
        (1, true),
        "kept, for later"
    );
    assert_eq!(
        count(&orders, "saga.event").await,
        2 + 4,
        "nothing of the sick one is written"
    );
}

#[tokio::test]
async fn timers_of_a_version_that_this_replica_lacks_are_left_to_another_and_starve_nobody() {
    let orders = database("orders").await;
    // More than a look finds at once, and all of them overdue for longer.
    for _ in 0..250 {
        start(&coordinator(), &orders, &Trip::default()).await;
    }
    sqlx::query("update saga.instance set version = 9")
        .execute(&orders)
        .await
        .unwrap();
    make_due(&orders, None).await;
    let known = start(&coordinator(), &orders, &Trip::default()).await;
    make_due(&orders, None).await;
    let timers = coordinator().timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    let history = history(&orders, known.id).await;
    let timed_out = |event: &&Event| matches!(event, Event::AttemptTimedOut { .. });
    assert_eq!(history.iter().filter(timed_out).count(), 1);
}

#[tokio::test]
async fn many_due_timers_share_transactions_and_each_is_fired_once() {
    let orders = database("orders").await;
    for _ in 0..250 {
        start(&coordinator(), &orders, &Trip::default()).await;
    }
    make_due(&orders, None).await;
    let timers = [
        coordinator().timers(orders.clone()),
        coordinator().timers(orders.clone()),
    ];
    let (mut fired, mut looks) = (0, 0);
    loop {
        let (one, two) = tokio::join!(timers[0].run_once(), timers[1].run_once());
        let all: usize = [one.unwrap(), two.unwrap()]
            .into_iter()
            .map(|seen| match seen {
                Fired::Some(count) => count,
                Fired::None => 0,
                Fired::Postponed => panic!("nothing is sick here"),
            })
            .sum();
        fired += all;
        looks += 1;
        if all == 0 {
            break;
        }
    }
    assert_eq!(fired, 250);
    assert!(looks <= 5, "{looks} looks");
    let timed_out: i64 =
        sqlx::query_scalar("select count(*) from saga.event where kind = 'attempt_timed_out'")
            .fetch_one(&orders)
            .await
            .unwrap();
    assert_eq!(timed_out, 250);
}

#[tokio::test]
async fn a_locked_saga_is_skipped_and_does_not_hold_up_the_others() {
    let orders = database("orders").await;
    let held = start(&coordinator(), &orders, &Trip::default()).await;
    let free = start(&coordinator(), &orders, &Trip::default()).await;
    make_due(&orders, None).await;
    let mut tx = orders.begin().await.unwrap();
    sqlx::query("select 1 from saga.instance where id = $1 for update")
        .bind(held.id)
        .execute(&mut *tx)
        .await
        .unwrap();
    let timers = coordinator().timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    assert_ne!(instance(&orders, free.id).await, free);
    tx.rollback().await.unwrap();
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
}

#[tokio::test]
async fn a_parked_pivot_waits_and_goes_on_with_the_late_answer() {
    let orders = database("orders").await;
    let only_pivot = saga::Definition::<Trip>::builder("trip", 1).pivot(step("pay"));
    let coordinator = coordinator_of(only_pivot.build().unwrap());
    let saga = start(&coordinator, &orders, &Trip::default()).await;
    let timers = coordinator.timers(orders.clone());
    testbed::until(PATIENCE, "the saga to be parked", || async {
        timers.run_once().await.unwrap();
        let state = instance(&orders, saga.id).await;
        (state.status == Status::Parked).then_some(())
    })
    .await;
    assert_eq!(count(&orders, "saga.timer").await, 0);
    let command = sent(&orders, "trip.commands").await.remove(0);
    let reply = answer(&command, Outcome::Succeeded);
    deliver(&orders, &coordinator.replies(), &reply)
        .await
        .unwrap();
    assert_eq!(instance(&orders, saga.id).await.status, Status::Completed);
}

#[tokio::test]
async fn a_step_after_the_pivot_refused_once_gets_a_new_round_and_nothing_is_undone() {
    let (orders, services) = (database("orders").await, database("services").await);
    let steps = saga::Definition::<Trip>::builder("trip", 1)
        .pivot(step("pay"))
        .retriable(step("print"));
    let coordinator = coordinator_of(steps.build().unwrap());
    let trip = Trip::with("print", "refuse first round");
    let saga = start(&coordinator, &orders, &trip).await;
    // Each command and each reply is carried once, and the timers fire in between.
    let carried = std::sync::Mutex::new(std::collections::HashSet::new());
    let new = |message: &outbox::Received| carried.lock().unwrap().insert(message.id);
    testbed::until(PATIENCE, "the saga to complete", || async {
        for command in sent(&orders, "trip.commands").await.into_iter().filter(new) {
            deliver(&services, &participant(), &command).await.unwrap();
        }
        for reply in sent(&services, REPLIES).await.into_iter().filter(new) {
            let replies = coordinator.replies();
            deliver(&orders, &replies, &reply).await.unwrap();
        }
        coordinator.timers(orders.clone()).run_once().await.unwrap();
        let state = instance(&orders, saga.id).await;
        (state.status == Status::Completed).then_some(())
    })
    .await;
    assert_eq!(effects(&services).await, ["done pay", "done print"]);
    assert_eq!(
        instance(&orders, saga.id)
            .await
            .step("print")
            .unwrap()
            .round,
        2
    );
    let history = history(&orders, saga.id).await;
    assert!(
        history
            .iter()
            .any(|event| matches!(event, Event::RoundPlanned { round: 2, .. }))
    );
}

#[tokio::test]
async fn a_timer_nobody_waits_for_fires_once_and_is_gone() {
    let orders = database("orders").await;
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    sqlx::query(
        r#"update saga.instance set look_at = now(),
             timers = (timers::jsonb || jsonb '[["pay", "action", 1, 1, 0]]')::json
           where id = $1"#,
    )
    .bind(saga.id)
    .execute(&orders)
    .await
    .unwrap();
    let timers = coordinator().timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    assert_eq!(instance(&orders, saga.id).await, saga);
}

#[tokio::test]
async fn an_ended_saga_leaves_no_timer_behind_and_an_early_look_fires_nothing() {
    let orders = database("orders").await;
    let day = Duration::from_secs(24 * 60 * 60);
    let only_pivot = saga::Definition::<Trip>::builder("trip", 1).pivot(step("pay").timeout(day));
    let coordinator = coordinator_of(only_pivot.deadline(day).build().unwrap());
    let saga = start(&coordinator, &orders, &Trip::default()).await;
    assert_eq!(count(&orders, "saga.timer").await, 2);
    sqlx::query("update saga.instance set look_at = now() where id = $1")
        .bind(saga.id)
        .execute(&orders)
        .await
        .unwrap();
    let timers = coordinator.timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    let waits = "saga.instance where look_at = (select min(fire_at) from saga.timer)";
    assert_eq!(count(&orders, waits).await, 1, "moved to when it is due");
    let command = sent(&orders, "trip.commands").await.remove(0);
    let reply = answer(&command, Outcome::Succeeded);
    deliver(&orders, &coordinator.replies(), &reply)
        .await
        .unwrap();
    assert_eq!(instance(&orders, saga.id).await.status, Status::Completed);
    assert_eq!(count(&orders, "saga.timer").await, 0);
    let looked_at = "saga.instance where look_at is not null";
    assert_eq!(count(&orders, looked_at).await, 0);
}

#[tokio::test]
async fn what_a_timer_sends_goes_on_with_the_trace_for_an_hour() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (age, goes_on) in [("59 minutes", true), ("61 minutes", false)] {
        let orders = database("orders").await;
        start(&coordinator(), &orders, &Trip::default()).await;
        // Its first command is on no trace, its second on that of the reply.
        let first = sent(&orders, "trip.commands").await.pop().unwrap();
        let mut reply = answer(&first, Outcome::Succeeded);
        let header = ("traceparent".to_owned(), trace.to_owned());
        reply.headers.extend([header]);
        deliver(&orders, &coordinator().replies(), &reply)
            .await
            .unwrap();
        sqlx::query("update saga.event set recorded_at = recorded_at - $1::text::interval")
            .bind(age)
            .execute(&orders)
            .await
            .unwrap();
        for _ in 0..2 {
            make_due(&orders, None).await;
            let timers = coordinator().timers(orders.clone());
            assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
        }
        let traces: Vec<Option<String>> = sqlx::query_scalar(
            "select traceparent from outbox.log where topic = 'trip.commands' order by seq",
        )
        .fetch_all(&orders)
        .await
        .unwrap();
        let traces: Vec<_> = traces.iter().map(Option::as_deref).collect();
        assert_eq!(
            traces,
            [None, Some(trace), goes_on.then_some(trace)],
            "{age}"
        );
    }
}

/// A relay has sent everything there is, and stands still from here on.
async fn relay_has_sent(pool: &PgPool) {
    sqlx::query(
        "update outbox.relay set epoch = 1, settled = pg_current_snapshot(),
             target = pg_current_snapshot(), last_seq = 0",
    )
    .execute(pool)
    .await
    .unwrap();
}

/// A relay is in the middle of what is there, up to this number.
async fn relay_is_at(pool: &PgPool, last_seq: i64) {
    sqlx::query("update outbox.relay set target = pg_current_snapshot(), last_seq = $1")
        .bind(last_seq)
        .execute(pool)
        .await
        .unwrap();
}

async fn waits_for(pool: &PgPool, id: Uuid) -> (String, bool) {
    sqlx::query_as(
        "select waiting_for, waiting_until > clock_timestamp() from saga.instance where id = $1",
    )
    .bind(id)
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn timeouts(pool: &PgPool, id: Uuid) -> usize {
    let history = history(pool, id).await;
    let timed_out = |event: &&Event| matches!(event, Event::AttemptTimedOut { .. });
    history.iter().filter(timed_out).count()
}

#[tokio::test]
async fn a_command_that_the_relay_has_not_sent_has_not_been_ignored() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    let timers = coordinator.timers(orders.clone());
    relay_has_sent(&orders).await;
    let saga = start(&coordinator, &orders, &Trip::default()).await;
    for _ in 0..3 {
        make_due(&orders, None).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::None);
        assert_eq!(
            waits_for(&orders, saga.id).await,
            ("relay".to_owned(), true)
        );
    }
    assert_eq!(
        instance(&orders, saga.id).await,
        saga,
        "no attempt is spent"
    );
    relay_is_at(&orders, 0).await;
    make_due(&orders, None).await;
    assert_eq!(
        timers.run_once().await.unwrap(),
        Fired::None,
        "not up to here"
    );
    assert_eq!(waits_for(&orders, saga.id).await.0, "relay");
    relay_is_at(&orders, i64::MAX).await;
    make_due(&orders, None).await;
    assert_eq!(
        timers.run_once().await.unwrap(),
        Fired::None,
        "its whole time"
    );
    assert_eq!(
        waits_for(&orders, saga.id).await,
        ("reply".to_owned(), true)
    );
    make_due(&orders, None).await;
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
    assert_eq!(timeouts(&orders, saga.id).await, 1);
    // The second attempt, and a topic that is not there.
    make_due(&orders, None).await;
    assert_eq!(
        timers.run_once().await.unwrap(),
        Fired::Some(1),
        "the pause is over"
    );
    relay_has_sent(&orders).await;
    sqlx::query(
        "insert into outbox.parked
           (seq, message_id, topic, key, kind, payload, created_at, class, reason)
         select seq, message_id, topic, key, kind, payload, created_at, 'held', 'no such topic'
         from outbox.log order by seq desc limit 1",
    )
    .execute(&orders)
    .await
    .unwrap();
    make_due(&orders, None).await;
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    assert_eq!(
        waits_for(&orders, saga.id).await,
        ("relay".to_owned(), true)
    );
    assert_eq!(timeouts(&orders, saga.id).await, 1);
}

#[tokio::test]
async fn a_command_that_was_sent_is_overdue_when_its_time_is_over() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    let sagas = [
        start(&coordinator, &orders, &Trip::default()).await,
        start(&coordinator, &orders, &Trip::default()).await,
    ];
    relay_has_sent(&orders).await;
    // The second's history does not say in which transaction it was sent: it is of before.
    sqlx::query("update saga.event set xid = null where saga_id = $1")
        .bind(sagas[1].id)
        .execute(&orders)
        .await
        .unwrap();
    make_due(&orders, None).await;
    let timers = coordinator.timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(2));
    for saga in sagas {
        assert_eq!(timeouts(&orders, saga.id).await, 1);
    }
}

#[tokio::test]
async fn a_timer_that_turns_out_to_be_long_overdue_fires_too() {
    let orders = database("orders").await;
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(coordinator().timers(orders.clone()).run(shutdown.clone()));
    for attempt in 1..=2 {
        // Nothing is due for a while, so only what has become due since is looked at.
        make_due(&orders, None).await;
        testbed::until(PATIENCE, "the timer", || async {
            let told = history(&orders, saga.id).await.len();
            (told >= 3 + attempt).then_some(())
        })
        .await;
    }
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn what_was_looked_at_is_not_walked_over_again() {
    let orders = database("orders").await;
    start(&coordinator(), &orders, &Trip::default()).await;
    // An old snapshot keeps every index entry that ever stood there.
    let mut old = orders
        .begin_with("begin isolation level repeatable read")
        .await
        .unwrap();
    sqlx::query("select pg_current_xact_id()")
        .execute(&mut *old)
        .await
        .unwrap();
    sqlx::raw_sql(
        "do $$ begin
             for i in 1..3000 loop
                 update saga.instance set look_at = now() - interval '1 hour' + i * interval '1 ms';
             end loop;
             update saga.instance set look_at = now() + interval '1 hour';
         end $$",
    )
    .execute(&orders)
    .await
    .unwrap();
    let mut session = orders.acquire().await.unwrap();
    sqlx::query("set enable_seqscan = off")
        .execute(&mut *session)
        .await
        .unwrap();
    let mut blocks = Vec::new();
    for since in ["'-infinity'", "now() - interval '1 second'"] {
        let sql = format!(
            "explain (analyze, buffers, format json)
             select min(look_at) from saga.instance where look_at >= {since}"
        );
        let plan: serde_json::Value = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(&mut *session)
            .await
            .unwrap();
        blocks.push(plan[0]["Plan"]["Shared Hit Blocks"].as_i64().unwrap());
    }
    assert!(blocks[1] * 10 < blocks[0], "{blocks:?}");
    old.rollback().await.unwrap();
}
