//! One saga after another, each with its rows, its messages and its end.

use outbox::BatchHandler;
use saga::{
    Coordinator, Error, Fired, Status,
    event::{Event, IgnoredBecause},
    instance::StepStatus,
    wire::{self, Outcome},
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{self, *};

/// Carries messages both ways until nobody has anything to say. Each is handled by a coordinator
/// and a participant built anew: whatever is not in the database is gone between two of them.
async fn carry(orders: &PgPool, services: &PgPool, copies: usize) {
    let (mut commands_seen, mut replies_seen) = (0, 0);
    loop {
        let commands = sent(orders, "trip.commands").await.split_off(commands_seen);
        let replies = sent(services, REPLIES).await.split_off(replies_seen);
        if commands.is_empty() && replies.is_empty() {
            return;
        }
        commands_seen += commands.len();
        replies_seen += replies.len();
        for message in commands.iter().flat_map(|m| std::iter::repeat_n(m, copies)) {
            deliver(services, &participant(), message).await.unwrap();
        }
        for message in replies.iter().flat_map(|m| std::iter::repeat_n(m, copies)) {
            deliver(orders, &coordinator().replies(), message)
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_saga_completes_though_everybody_forgets_everything_between_two_messages() {
    let (orders, services) = (database("orders").await, database("services").await);
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    carry(&orders, &services, 1).await;

    let saga = instance(&orders, saga.id).await;
    assert_eq!(saga.status, Status::Completed);
    assert_eq!(
        saga.data["done"],
        serde_json::json!(["hold", "book", "pay", "print"])
    );
    let expected = ["done hold", "done book", "done pay", "done print"];
    assert_eq!(effects(&services).await, expected);
    assert_eq!(
        endings(&orders).await,
        [(saga.id, "completed".to_owned(), None)]
    );
    assert_eq!(
        count(&orders, "saga.timer").await,
        0,
        "nothing is left to wait for"
    );
}

#[tokio::test]
async fn a_refused_pivot_undoes_in_reverse_and_tells_why() {
    let (orders, services) = (database("orders").await, database("services").await);
    let saga = start(&coordinator(), &orders, &Trip::with("pay", "refuse")).await;
    carry(&orders, &services, 1).await;

    let saga = instance(&orders, saga.id).await;
    assert_eq!(saga.status, Status::Compensated);
    let expected = ["done hold", "done book", "undone book", "undone hold"];
    assert_eq!(effects(&services).await, expected);
    let why = Some("no, thank you".to_owned());
    assert_eq!(
        endings(&orders).await,
        [(saga.id, "compensated".to_owned(), why)]
    );
    assert_eq!(count(&orders, "saga.timer").await, 0);
}

#[tokio::test]
async fn every_message_three_times_changes_nothing() {
    let (orders, services) = (database("orders").await, database("services").await);
    let good = start(&coordinator(), &orders, &Trip::default()).await;
    let bad = start(&coordinator(), &orders, &Trip::with("book", "refuse")).await;
    carry(&orders, &services, 3).await;

    assert_eq!(instance(&orders, good.id).await.status, Status::Completed);
    assert_eq!(instance(&orders, bad.id).await.status, Status::Compensated);
    assert_eq!(effects(&services).await.len(), 4 + 2);
    assert_eq!(endings(&orders).await.len(), 2);
    let history = history(&orders, good.id).await;
    let ignored = history
        .iter()
        .filter(|event| matches!(event, Event::Ignored { .. }));
    assert!(ignored.count() > 0, "duplicates are seen, not lost");
}

#[tokio::test]
async fn a_command_carries_what_the_other_side_needs() {
    let orders = database("orders").await;
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    let [command] = &sent(&orders, "trip.commands").await[..] else {
        panic!("one command")
    };
    assert_eq!(command.key, saga.id.to_string());
    assert_eq!(command.kind, "trip.do.v1");
    let parsed = wire::Command::parse(command).unwrap();
    assert_eq!(parsed.reply_topic, REPLIES);
    assert_eq!(parsed.definition, "trip");
    assert_eq!((parsed.attempt, parsed.operation.round), (1, 1));
    let ahead = parsed.expires_at - chrono::Utc::now();
    assert!(ahead > chrono::TimeDelta::hours(23), "{ahead}");
}

#[tokio::test]
async fn a_failing_hook_rolls_the_whole_turn_back() {
    let orders = database("orders").await;
    let trip = Trip {
        hook: "fail".to_owned(),
        ..Trip::default()
    };
    let saga = start(&coordinator(), &orders, &trip).await;
    let command = sent(&orders, "trip.commands").await.remove(0);
    let before = instance(&orders, saga.id).await;
    let refusal = answer(&command, Outcome::Failed);
    let error = deliver(&orders, &coordinator().replies(), &refusal)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the hook broke");
    assert_eq!(instance(&orders, saga.id).await, before);
    assert!(endings(&orders).await.is_empty());
    assert_eq!(count(&orders, "saga.timer").await, 1, "it still waits");
}

#[tokio::test]
async fn a_start_rolled_back_never_was() {
    let orders = database("orders").await;
    let mut tx = orders.begin().await.unwrap();
    let id = Uuid::now_v7();
    let trip = Trip::default();
    coordinator()
        .start(&mut tx, id, "trip", "key", &trip)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    for table in ["saga.instance", "saga.event", "saga.timer", "outbox.log"] {
        assert_eq!(count(&orders, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn starting_again_with_the_same_business_key_finds_the_first() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    let mut tx = orders.begin().await.unwrap();
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let trip = Trip::default();
    let first = coordinator
        .start(&mut tx, one, "trip", "order-1", &trip)
        .await
        .unwrap();
    let again = coordinator
        .start(&mut tx, two, "trip", "order-1", &trip)
        .await
        .unwrap();
    assert_eq!(again, first);
    let error = coordinator
        .start(&mut tx, one, "trip", "order-2", &trip)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::IdTaken(id) if id == one), "{error}");
    tx.commit().await.unwrap();
    assert_eq!(count(&orders, "saga.instance").await, 1);
    assert_eq!(count(&orders, "outbox.log").await, 1);
}

#[tokio::test]
async fn two_starts_with_one_business_key_at_once_are_one_saga() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    let mut under_way = orders.begin().await.unwrap();
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let trip = Trip::default();
    coordinator
        .start(&mut under_way, one, "trip", "key", &trip)
        .await
        .unwrap();
    let (pool, other) = (orders.clone(), coordinator.clone());
    let second = tokio::spawn(async move {
        let mut tx = pool.begin().await?;
        let found = other
            .start(&mut tx, two, "trip", "key", &Trip::default())
            .await?;
        tx.commit().await?;
        Ok::<_, Error>(found.id)
    });
    somebody_waits(&orders).await;
    under_way.commit().await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), one);
    assert_eq!(count(&orders, "outbox.log").await, 1);
}

#[tokio::test]
async fn an_unknown_definition_and_foreign_data_do_not_start() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    let mut tx = orders.begin().await.unwrap();
    let id = Uuid::now_v7();
    let error = coordinator
        .start(&mut tx, id, "tirp", "key", &Trip::default())
        .await;
    assert!(matches!(error, Err(Error::UnknownDefinition { .. })));
    let error = coordinator
        .start(&mut tx, id, "trip", "key", &"not a trip")
        .await;
    assert!(matches!(error, Err(Error::Data { .. })));
    tx.commit().await.unwrap();
    assert_eq!(count(&orders, "saga.instance").await, 0);
}

fn changed() -> Coordinator {
    let other = saga::Definition::<Trip>::builder("trip", 1).pivot(step("hold"));
    coordinator_of(other.build().unwrap())
}

#[tokio::test]
async fn the_same_version_with_another_graph_is_refused() {
    let orders = database("orders").await;
    coordinator().register(&orders).await.unwrap();
    coordinator().register(&orders).await.unwrap();
    let error = changed().register(&orders).await.unwrap_err();
    assert!(matches!(error, Error::DefinitionChanged { .. }), "{error}");
    assert!(error.to_string().contains("trip version 1"), "{error}");
    // Budgets may change.
    let patient = definition_with(std::time::Duration::from_secs(1));
    coordinator_of(patient).register(&orders).await.unwrap();
}

#[tokio::test]
async fn a_saga_does_not_go_on_under_another_graph_and_its_reply_waits_where_its_version_is_unknown()
 {
    let orders = database("orders").await;
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    let command = sent(&orders, "trip.commands").await.remove(0);
    let mut reply = answer(&command, Outcome::Succeeded);
    (reply.partition, reply.offset) = (5, 77);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let header = ("traceparent".to_owned(), trace.to_owned());
    reply.headers.extend([header]);
    let error = deliver(&orders, &changed().replies(), &reply)
        .await
        .unwrap_err();
    assert!(!error.is_transient(), "{error}");
    assert_eq!(instance(&orders, saga.id).await, saga);

    let none = Coordinator::builder(REPLIES).build();
    deliver(&orders, &none.replies(), &reply).await.unwrap();
    assert_eq!(instance(&orders, saga.id).await, saga);
    assert_eq!(count(&orders, "saga.pending").await, 1);
    let idle = none.timers(orders.clone()).run_once().await.unwrap();
    assert_eq!(idle, Fired::None, "it cannot read it either");
    let taken_up = coordinator().timers(orders.clone()).run_once().await;
    assert_eq!(taken_up.unwrap(), Fired::Some(1));
    assert_eq!(count(&orders, "saga.pending").await, 0);
    assert_eq!(instance(&orders, saga.id).await.data["done"][0], "hold");
    // Where it came from was kept with it, and what follows goes on with its trace.
    let origin: serde_json::Value = sqlx::query_scalar(
        "select origin from saga.event where kind = 'action_succeeded' and saga_id = $1",
    )
    .bind(saga.id)
    .fetch_one(&orders)
    .await
    .unwrap();
    let expected = serde_json::json!({
        "attempt": 1, "record": [5, 77], "command": [0, command.offset], "trace": trace,
    });
    assert_eq!(origin, expected);
    let traces: Vec<Option<String>> = sqlx::query_scalar(
        "select traceparent from outbox.log where topic = 'trip.commands' order by seq",
    )
    .fetch_all(&orders)
    .await
    .unwrap();
    assert_eq!(traces, [None, Some(trace.to_owned())]);
}

#[tokio::test]
async fn sagas_in_flight_end_under_their_version_and_new_ones_take_the_newest() {
    let orders = database("orders").await;
    let old = start(&coordinator(), &orders, &Trip::default()).await;
    let second = saga::Definition::<Trip>::builder("trip", 2).pivot(step("hold"));
    let both = Coordinator::builder(REPLIES)
        .define(second.build().unwrap())
        .unwrap();
    let both = both.define(definition()).unwrap().build();
    let new = start(&both, &orders, &Trip::default()).await;
    assert_eq!((old.version, new.version), (1, 2));
    for command in sent(&orders, "trip.commands").await {
        let reply = answer(&command, Outcome::Succeeded);
        deliver(&orders, &both.replies(), &reply).await.unwrap();
    }
    assert_eq!(instance(&orders, old.id).await.status, Status::Running);
    assert_eq!(instance(&orders, new.id).await.status, Status::Completed);
}

#[tokio::test]
async fn replies_nobody_can_use_are_permanent_errors() {
    let orders = database("orders").await;
    let saga = start(&coordinator(), &orders, &Trip::default()).await;
    let command = sent(&orders, "trip.commands").await.remove(0);
    let good = answer(&command, Outcome::Succeeded);
    let command_of_nobody = support::command(&action(), "");
    let stranger = answer(&command_of_nobody, Outcome::Succeeded);
    let mut headless = good.clone();
    headless.headers.remove(wire::OUTCOME);
    let mut forged = good.clone();
    forged
        .headers
        .insert(wire::OP_KEY.to_owned(), Uuid::now_v7().to_string());
    for message in [&stranger, &headless, &forged] {
        let error = deliver(&orders, &coordinator().replies(), message)
            .await
            .unwrap_err();
        assert!(!error.is_transient(), "{error}");
    }
    assert_eq!(
        instance(&orders, saga.id).await,
        saga,
        "as if they had never come"
    );
    deliver(&orders, &coordinator().replies(), &good)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_unreadable_reply_parks_its_saga_and_neither_the_others_nor_the_partition() {
    let orders = database("orders").await;
    let sick = start(&coordinator(), &orders, &Trip::default()).await;
    let healthy = start(&coordinator(), &orders, &Trip::default()).await;
    let commands = sent(&orders, "trip.commands").await;
    let mut batch: Vec<_> = commands
        .iter()
        .map(|c| answer(c, Outcome::Succeeded))
        .collect();
    batch[0].payload = Some(b"{}".to_vec());
    let mut tx = orders.begin().await.unwrap();
    let replies = coordinator().replies();
    replies.handle_batch(&mut tx, &batch).await.unwrap();
    tx.commit().await.unwrap();
    let parked = instance(&orders, sick.id).await;
    assert_eq!(parked.status, Status::Parked);
    assert!(parked.parked_reason.unwrap().contains("cannot read"));
    let went_on = instance(&orders, healthy.id).await;
    assert_eq!(went_on.step("book").unwrap().status, StepStatus::Running);
}

#[tokio::test]
async fn a_late_success_after_nothing_was_found_is_kept_as_an_anomaly() {
    let orders = database("orders").await;
    let impatient = coordinator_of(definition_with(std::time::Duration::from_millis(1)));
    let saga = start(&impatient, &orders, &Trip::default()).await;
    let timers = impatient.timers(orders.clone());
    testbed::until(PATIENCE, "the compensation to be sent", || async {
        timers.run_once().await.unwrap();
        let state = instance(&orders, saga.id).await;
        (state.status == Status::Compensating).then_some(())
    })
    .await;
    let commands = sent(&orders, "trip.commands").await;
    let undo = answer(commands.last().unwrap(), Outcome::NullCompensated);
    let late = answer(&commands[0], Outcome::Succeeded);
    deliver(&orders, &impatient.replies(), &undo).await.unwrap();
    deliver(&orders, &impatient.replies(), &late).await.unwrap();

    let state = instance(&orders, saga.id).await;
    assert_eq!(state.status, Status::Compensated);
    assert_eq!(
        state.step("hold").unwrap().status,
        StepStatus::NullCompensated
    );
    let last = history(&orders, saga.id).await.pop();
    let anomaly = matches!(
        last,
        Some(Event::Ignored {
            reason: IgnoredBecause::LateSuccess,
            ..
        })
    );
    assert!(anomaly, "{last:?}");
    let listed: Vec<(Uuid, i64, String)> =
        sqlx::query_as("select saga_id, seq, kind from saga.anomaly")
            .fetch_all(&orders)
            .await
            .unwrap();
    assert_eq!(
        listed,
        [(saga.id, state.seq, "late_success".to_owned())],
        "and stands on the list"
    );
}

#[tokio::test]
async fn a_success_before_nothing_was_found_is_kept_as_an_anomaly() {
    let orders = database("orders").await;
    let impatient = coordinator_of(definition_with(std::time::Duration::from_millis(1)));
    let saga = start(&impatient, &orders, &Trip::default()).await;
    let timers = impatient.timers(orders.clone());
    testbed::until(PATIENCE, "the compensation to be sent", || async {
        timers.run_once().await.unwrap();
        let state = instance(&orders, saga.id).await;
        (state.status == Status::Compensating).then_some(())
    })
    .await;
    let commands = sent(&orders, "trip.commands").await;
    let undo = answer(commands.last().unwrap(), Outcome::NullCompensated);
    let late = answer(&commands[0], Outcome::Succeeded);
    deliver(&orders, &impatient.replies(), &late).await.unwrap();
    deliver(&orders, &impatient.replies(), &undo).await.unwrap();
    let state = instance(&orders, saga.id).await;
    assert_eq!(state.status, Status::Compensated);
    let kinds: Vec<String> = sqlx::query_scalar("select kind from saga.anomaly where saga_id = $1")
        .bind(saga.id)
        .fetch_all(&orders)
        .await
        .unwrap();
    assert_eq!(kinds, ["null_compensated"]);
}

#[tokio::test]
async fn a_participant_that_answers_for_ever_makes_no_history_that_grows_for_ever() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    let saga = start(&coordinator, &orders, &Trip::default()).await;
    let command = sent(&orders, "trip.commands").await.pop().unwrap();
    let refused = answer(&command, Outcome::Failed);
    deliver(&orders, &coordinator.replies(), &refused)
        .await
        .unwrap();
    let ended = instance(&orders, saga.id).await;
    assert_eq!(ended.status, Status::Compensated);
    let many = vec![refused; 40];
    for _ in 0..3 {
        let mut tx = orders.begin().await.unwrap();
        coordinator
            .replies()
            .handle_batch(&mut tx, &many)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    let state = instance(&orders, saga.id).await;
    assert_eq!(
        state.seq,
        ended.seq + 50,
        "so many are recorded, and no more"
    );
    // An anomaly is recorded nevertheless.
    let other = answer(&command, Outcome::Succeeded);
    deliver(&orders, &coordinator.replies(), &other)
        .await
        .unwrap();
    assert_eq!(count(&orders, "saga.anomaly").await, 1);
}

#[tokio::test]
async fn an_id_that_tells_no_time_starts_nothing() {
    let orders = database("orders").await;
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(3 * 24 * 3600);
    let ahead = ahead
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let ahead = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, ahead, 0));
    for (id, says) in [
        (
            Uuid::new_v5(&Uuid::NAMESPACE_OID, b"order 7"),
            "not a UUIDv7",
        ),
        (ahead, "ahead of the database's clock"),
    ] {
        let mut tx = orders.begin().await.unwrap();
        let trip = Trip::default();
        let started = coordinator().start(&mut tx, id, "trip", "7", &trip).await;
        let error = started.unwrap_err();
        assert!(matches!(error, saga::Error::SagaId { .. }), "{error}");
        assert!(!error.is_transient());
        assert!(error.to_string().contains(says), "{error}");
        tx.rollback().await.unwrap();
    }
    assert_eq!(count(&orders, "saga.instance").await, 0);
}

#[tokio::test]
async fn many_replies_are_handled_in_one_transaction() {
    let orders = database("orders").await;
    let coordinator = coordinator();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(start(&coordinator, &orders, &Trip::default()).await.id);
    }
    let commands = sent(&orders, "trip.commands").await;
    let mut batch: Vec<_> = commands
        .iter()
        .map(|c| answer(c, Outcome::Succeeded))
        .collect();
    batch.reverse();
    let replies = coordinator.replies();
    let mut tx = orders.begin().await.unwrap();
    replies.handle_batch(&mut tx, &batch).await.unwrap();
    tx.commit().await.unwrap();
    for id in ids {
        assert_eq!(
            instance(&orders, id).await.data["done"],
            serde_json::json!(["hold"])
        );
    }
}
