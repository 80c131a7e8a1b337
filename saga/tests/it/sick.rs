//! A saga that cannot be read, decided or written is parked with the reason; its neighbours go on, and
//! a retry has the same reply or timer decided again once the reason is mended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use outbox::{BatchHandler, Received};
use saga::{
    Coordinator, Definition, Fired, Status,
    event::{Event, IgnoredBecause},
    intervention::What,
    operator::allowed_operations,
    wire::Outcome,
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use crate::{operating_support::*, support::*};

/// What is seen of a saga whose row may be unreadable: status, reason, number of events, kept replies.
async fn seen(pool: &PgPool, id: Uuid) -> (String, String, i64, i64) {
    sqlx::query_as(
        "select status, coalesce(parked_reason, ''), seq,
                (select count(*) from saga.pending where saga_id = i.id)
         from saga.instance i where id = $1",
    )
    .bind(id)
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn is_parked_for(pool: &PgPool, id: Uuid, reason: &str) {
    let (status, parked_reason, seq, _) = seen(pool, id).await;
    assert_eq!(status, "parked", "{reason}");
    assert!(
        parked_reason.contains(reason),
        "{parked_reason:?} names {reason:?}"
    );
    let told: (String, i64) = sqlx::query_as(
        "select body ->> 'reason', seq from saga.event where saga_id = $1 order by seq desc limit 1",
    )
    .bind(id)
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(told, (parked_reason, seq), "and the history says so");
}

async fn timed_out(pool: &PgPool, id: Uuid) -> bool {
    let history = history(pool, id).await;
    let timed_out = |event: &Event| matches!(event, Event::AttemptTimedOut { .. });
    history.iter().any(timed_out)
}

/// Handles a batch in one transaction, as a consumer does.
async fn deliver_all(pool: &PgPool, coordinator: &Coordinator, batch: &[Received]) {
    let mut tx = pool.begin().await.unwrap();
    let replies = coordinator.replies();
    replies.handle_batch(&mut tx, batch).await.unwrap();
    tx.commit().await.unwrap();
}

/// Each column that is decoded, with what nobody can decode, and what the reason says.
const UNREADABLE: [(&str, &str, &str); 8] = [
    ("steps", r#"[["hold","undreamt",1,1,"reply"]]"#, "undreamt"),
    ("steps", "5", "column steps"),
    ("data", r#"{"done":1.7976931348623157e308}"#, "column data"),
    ("tags", r#"{"a":1}"#, "column tags"),
    ("locks", r#"[{"resource":4}]"#, "column locks"),
    ("timers", r#"{"a":1}"#, "column timers"),
    ("timers", r#"[["hold","paid",1,1,0]]"#, "paid"),
    ("timers", r#"["\u0000"]"#, "column timers"),
];

async fn set(pool: &PgPool, id: Uuid, column: &str, json: &str) -> String {
    let kind = match column {
        "data" | "tags" => "jsonb",
        _ => "json",
    };
    let sql = format!(
        "update saga.instance i set {column} = $2::text::{kind}
         from saga.instance old where i.id = $1 and old.id = i.id returning old.{column}::text"
    );
    let old = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(id)
        .bind(json);
    old.fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_saga_whose_row_cannot_be_read_is_parked_and_the_timers_of_the_others_fire() {
    let orders = database("orders").await;
    let mut sick = Vec::new();
    for (column, json, reason) in UNREADABLE {
        let saga = start(&coordinator(), &orders, &Trip::default()).await;
        make_due(&orders, Some(saga.id)).await;
        let before = set(&orders, saga.id, column, json).await;
        sick.push((saga.id, column, before, reason));
    }
    let healthy = start(&coordinator(), &orders, &Trip::default()).await;
    make_due(&orders, Some(healthy.id)).await;
    let timers = coordinator().timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Postponed);
    assert!(timed_out(&orders, healthy.id).await, "in the same look");
    for (id, _, _, reason) in &sick {
        is_parked_for(&orders, *id, reason).await;
    }
    assert_eq!(
        timers.run_once().await.unwrap(),
        Fired::None,
        "nothing spins"
    );
    for (id, column, before, _) in sick {
        set(&orders, id, column, &before).await;
        done(&orders, &coordinator(), id, What::Retry { step: None }).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
        assert!(timed_out(&orders, id).await, "{column}: the timer it had");
        assert_eq!(instance(&orders, id).await.status, Status::Running);
    }
}

#[tokio::test]
async fn a_reply_to_a_saga_that_cannot_be_read_waits_and_the_others_of_its_batch_go_on() {
    let orders = database("orders").await;
    let healthy = start(&coordinator(), &orders, &Trip::default()).await;
    let mut sick = Vec::new();
    for (column, json, reason) in UNREADABLE {
        let saga = start(&coordinator(), &orders, &Trip::default()).await;
        let before = set(&orders, saga.id, column, json).await;
        sick.push((saga.id, column, before, reason));
    }
    let commands = sent(&orders, "trip.commands").await;
    let batch: Vec<_> = commands
        .iter()
        .map(|c| answer(c, Outcome::Succeeded))
        .collect();
    deliver_all(&orders, &coordinator(), &batch).await;
    assert_eq!(instance(&orders, healthy.id).await.data["done"][0], "hold");
    let timers = coordinator().timers(orders.clone());
    for (id, column, before, reason) in sick {
        is_parked_for(&orders, id, reason).await;
        assert_eq!(seen(&orders, id).await.3, 1, "{column}: its reply is kept");
        assert_eq!(
            timers.run_once().await.unwrap(),
            Fired::None,
            "until a retry"
        );
        set(&orders, id, column, &before).await;
        // A second one is kept too, though the row could be read now.
        let again = batch
            .iter()
            .find(|reply| reply.key == id.to_string())
            .unwrap();
        deliver(&orders, &coordinator().replies(), again)
            .await
            .unwrap();
        assert_eq!(seen(&orders, id).await.3, 2);
        done(&orders, &coordinator(), id, What::Resume {}).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
        let saga = instance(&orders, id).await;
        assert_eq!(
            (saga.status, saga.data["done"][0].as_str()),
            (Status::Running, Some("hold"))
        );
        assert_eq!(seen(&orders, id).await.3, 0);
    }
}

#[tokio::test]
async fn a_grant_to_a_saga_whose_timers_cannot_be_read_wakes_the_others() {
    let orders = database("orders").await;
    let definition = Definition::<Trip>::builder("trip", 1)
        .pivot(step("pay"))
        .lock(|_: &Trip| crate::locks::claim("seat", 1, 2));
    let coordinator = coordinator_of(definition.build().unwrap());
    let mut sagas = Vec::new();
    for _ in 0..4 {
        sagas.push(start(&coordinator, &orders, &Trip::default()).await.id);
    }
    // Two hold it and two wait.
    set(&orders, sagas[2], "timers", r#"["\u0000"]"#).await;
    for id in &sagas[..2] {
        done(&orders, &coordinator, *id, What::Abandon {}).await;
    }
    let timers = coordinator.timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Postponed);
    is_parked_for(&orders, sagas[2], "column timers").await;
    let granted = instance(&orders, sagas[3]).await;
    assert!(granted.locks[0].held, "{granted:?}");
}

/// A definition whose closures panic, and whose hooks fail, while it is broken.
fn fragile(broken: &Arc<AtomicBool>) -> Coordinator {
    let is_broken = {
        let broken = Arc::clone(broken);
        move || broken.load(Ordering::SeqCst)
    };
    let (fold, encode, hook) = (is_broken.clone(), is_broken.clone(), is_broken);
    let pay = saga::Step::new("pay")
        .command("trip.commands", move |trip: &Trip| {
            let mood = trip.moods.get("pay").cloned().unwrap_or_default();
            assert!(
                !(mood == "panic in the command" && encode()),
                "the command is lost"
            );
            Do { mood }
        })
        .reply(move |trip: &mut Trip, done: Done| {
            let mood = trip.moods.get("pay").map(String::as_str);
            assert!(
                !(mood == Some("panic in the fold") && fold()),
                "the fold came apart"
            );
            trip.done.push(match mood {
                Some("nul") if fold() => "\0".to_owned(),
                _ => done.step,
            });
        })
        .attempts(1)
        .probes(0)
        .timeout(Duration::from_secs(3600));
    let definition = Definition::<Trip>::builder("trip", 1).pivot(pay);
    let (on_completed, on_parked) = (hook.clone(), hook);
    let definition = definition
        .on_completed(move |tx, ended| {
            let how = ended.data.hook.clone();
            let how = if on_completed() { how } else { String::new() };
            Box::pin(async move { take_part(tx, &how).await })
        })
        .on_parked(move |tx, parked| {
            let how = parked.data.hook.clone();
            let how = if on_parked() { how } else { String::new() };
            Box::pin(async move { take_part(tx, &how).await })
        });
    coordinator_of(definition.build().unwrap())
}

async fn take_part(tx: &mut sqlx::PgTransaction<'_>, how: &str) -> Result<(), outbox::Error> {
    match how {
        "panic" => panic!("the hook came apart"),
        "refuse" => return Err(outbox::Error::permanent("the ledger is closed for ever")),
        "swallow" => {
            let swallowed = sqlx::query("select 1 / 0").execute(&mut **tx).await;
            assert!(swallowed.is_err());
        }
        "constraint" => {
            sqlx::query("insert into effect (op_key) values (null)")
                .execute(&mut **tx)
                .await?;
        }
        "busy" => return Err(outbox::Error::transient("the ledger is busy")),
        _ => {}
    }
    Ok(())
}

/// How a saga's own transition fails, and what the reason says of it.
const HOOKS: [(&str, &str); 4] = [
    ("panic", "panicked: the hook came apart"),
    ("refuse", "the ledger is closed for ever"),
    ("swallow", "swallowed an error"),
    ("constraint", "null value"),
];

fn trip(hook: &str) -> Trip {
    Trip {
        hook: hook.to_owned(),
        ..Trip::default()
    }
}

#[tokio::test]
async fn a_hook_that_fails_for_good_on_a_timer_parks_its_saga_and_nobody_elses() {
    let orders = database("orders").await;
    let broken = Arc::new(AtomicBool::new(true));
    let coordinator = fragile(&broken);
    let (mut healthy, mut sick) = (Vec::new(), Vec::new());
    for place in 0..60 {
        let hook = HOOKS.get(place / 15).filter(|_| place % 15 == 5);
        let saga = start(
            &coordinator,
            &orders,
            &trip(hook.map_or("", |(hook, _)| hook)),
        )
        .await;
        match hook {
            Some((_, reason)) => sick.push((saga.id, *reason)),
            None => healthy.push(saga.id),
        }
    }
    make_due(&orders, None).await;
    let (counted, transactions) = counting(&orders).await;
    let timers = coordinator.timers(counted);
    assert_eq!(timers.run_once().await.unwrap(), Fired::Postponed);
    let took = transactions.load(Ordering::SeqCst);
    // One by one they would be more than sixty, and in a batch of five hundred five hundred.
    assert!(
        took < 56,
        "{took} transactions for four sick ones among sixty"
    );
    for id in &healthy {
        let saga = instance(&orders, *id).await;
        assert_eq!(
            saga.parked_reason.as_deref(),
            Some("pay did not answer in time")
        );
    }
    for (id, reason) in &sick {
        is_parked_for(&orders, *id, reason).await;
        is_parked_for(&orders, *id, "cannot write what its timers lead to").await;
        assert!(
            !timed_out(&orders, *id).await,
            "nothing of the transition is written"
        );
    }
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    broken.store(false, Ordering::SeqCst);
    for (id, _) in sick {
        done(&orders, &coordinator, id, What::Retry { step: None }).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
        let saga = instance(&orders, id).await;
        assert_eq!(
            saga.parked_reason.as_deref(),
            Some("pay did not answer in time")
        );
    }
}

/// A pool of the same database that counts how often it is asked for a connection: once for each
/// transaction.
async fn counting(pool: &PgPool) -> (PgPool, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let options = PgPoolOptions::new()
        .max_connections(1)
        .before_acquire(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(true) })
        });
    let options = options.connect_with((*pool.connect_options()).clone());
    (options.await.unwrap(), asked)
}

#[tokio::test]
async fn a_hook_that_may_heal_puts_its_timer_off_and_parks_nobody() {
    let orders = database("orders").await;
    let broken = Arc::new(AtomicBool::new(true));
    let coordinator = fragile(&broken);
    let saga = start(&coordinator, &orders, &trip("busy")).await;
    make_due(&orders, None).await;
    let timers = coordinator.timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Postponed);
    assert_eq!(timers.run_once().await.unwrap(), Fired::None);
    assert_eq!(instance(&orders, saga.id).await, saga);
}

/// The reply of each saga, as a consumer hands it over: the batch, then one by one, and what still
/// fails is given to the handler to keep.
async fn consume(pool: &PgPool, coordinator: &Coordinator, batch: &[Received]) {
    let replies = coordinator.replies();
    for message in batch {
        let Err(error) = deliver_caught(pool, &replies, message).await else {
            continue;
        };
        let mut tx = pool.begin().await.unwrap();
        let kept = replies
            .keep_refused(&mut tx, message, &error)
            .await
            .unwrap();
        assert!(kept, "{error}");
        tx.commit().await.unwrap();
    }
}

async fn deliver_caught(
    pool: &PgPool,
    replies: &saga::replies::Replies,
    message: &Received,
) -> Result<(), outbox::Error> {
    let mut tx = pool.begin().await?;
    let batch = std::slice::from_ref(message);
    outbox::caught(async { replies.handle_batch(&mut tx, batch).await }).await?;
    Ok(tx.commit().await?)
}

#[tokio::test]
async fn a_reply_whose_transition_fails_for_good_parks_its_saga_with_the_reason() {
    let orders = database("orders").await;
    let broken = Arc::new(AtomicBool::new(true));
    let coordinator = fragile(&broken);
    let mut sick = Vec::new();
    for (hook, reason) in HOOKS {
        let id = start(&coordinator, &orders, &trip(hook)).await.id;
        sick.push((id, reason, "what the answer leads to"));
    }
    for (mood, reason) in [
        ("panic in the fold", "panicked: the fold came apart"),
        ("nul", "NUL"),
    ] {
        let id = start(&coordinator, &orders, &Trip::with("pay", mood))
            .await
            .id;
        sick.push((
            id,
            reason,
            "the answer `succeeded` to the action of pay, round 1",
        ));
    }
    let commands = sent(&orders, "trip.commands").await;
    let batch: Vec<_> = commands
        .iter()
        .map(|c| answer(c, Outcome::Succeeded))
        .collect();
    consume(&orders, &coordinator, &batch).await;
    let timers = coordinator.timers(orders.clone());
    for (id, reason, what) in &sick {
        is_parked_for(&orders, *id, reason).await;
        is_parked_for(&orders, *id, what).await;
        assert_eq!(seen(&orders, *id).await.3, 1, "its reply is kept");
    }
    make_due(&orders, None).await;
    assert_eq!(
        timers.run_once().await.unwrap(),
        Fired::None,
        "nothing is due"
    );
    // A retry that comes too early has it parked again.
    for (id, reason, _) in &sick {
        let before = seen(&orders, *id).await.2;
        done(&orders, &coordinator, *id, What::Retry { step: None }).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::None);
        is_parked_for(&orders, *id, reason).await;
        assert_eq!(
            seen(&orders, *id).await.2,
            before + 3,
            "asked, resumed, parked"
        );
    }
    broken.store(false, Ordering::SeqCst);
    for (id, _, _) in &sick {
        done(&orders, &coordinator, *id, What::Retry { step: None }).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
        let saga = instance(&orders, *id).await;
        assert_eq!(saga.status, Status::Completed);
        assert_eq!(saga.data["done"], serde_json::json!(["pay"]));
    }
    assert_eq!(count(&orders, "saga.pending").await, 0);
}

#[tokio::test]
async fn a_parked_saga_whose_late_answer_cannot_be_decided_is_still_parked_after_a_retry() {
    let orders = database("orders").await;
    let broken = Arc::new(AtomicBool::new(true));
    let coordinator = fragile(&broken);
    let trip = Trip::with("pay", "panic in the fold");
    let id = start(&coordinator, &orders, &trip).await.id;
    nobody_answers(&orders, &coordinator, id).await;
    reply(&orders, &coordinator, id, Outcome::Succeeded).await;
    is_parked_for(&orders, id, "the fold came apart").await;
    done(&orders, &coordinator, id, What::Retry { step: None }).await;
    assert_eq!(
        instance(&orders, id).await.status,
        Status::Parked,
        "by its pivot"
    );
    broken.store(false, Ordering::SeqCst);
    let timers = coordinator.timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
    assert_eq!(instance(&orders, id).await.status, Status::Completed);
}

#[tokio::test]
async fn a_saga_that_is_parked_as_a_whole_can_be_abandoned_and_its_reply_is_ignored_then() {
    let orders = database("orders").await;
    let broken = Arc::new(AtomicBool::new(true));
    let coordinator = fragile(&broken);
    let trip = Trip::with("pay", "panic in the fold");
    let id = start(&coordinator, &orders, &trip).await.id;
    reply(&orders, &coordinator, id, Outcome::Succeeded).await;
    done(&orders, &coordinator, id, What::Abandon {}).await;
    let timers = coordinator.timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
    assert_eq!(instance(&orders, id).await.status, Status::Abandoned);
    let last = history(&orders, id).await.pop().unwrap();
    let reason = IgnoredBecause::AfterTerminal;
    assert!(
        matches!(last, Event::Ignored { reason: why, .. } if why == reason),
        "{last:?}"
    );
}

#[tokio::test]
async fn a_saga_that_is_parked_as_a_whole_may_be_cancelled_and_its_late_answer_changes_nothing() {
    let orders = database("orders").await;
    let id = start(&coordinator(), &orders, &Trip::default()).await.id;
    let before = set(&orders, id, "tags", r#"{"a":1}"#).await;
    reply(&orders, &coordinator(), id, Outcome::Succeeded).await;
    set(&orders, id, "tags", &before).await;
    let stopped = instance(&orders, id).await;
    assert!(stopped.stopped, "{stopped:?}");
    let allowed = allowed_operations(&coordinator(), &stopped).into_iter();
    let allowed: Vec<_> = allowed
        .filter(|o| o.allowed)
        .map(|o| o.name.as_str())
        .collect();
    let expected = [
        "pause",
        "resume",
        "cancel",
        "retry",
        "complete_step",
        "abandon",
    ];
    assert_eq!(allowed, expected);
    done(&orders, &coordinator(), id, What::Cancel {}).await;
    let timers = coordinator().timers(orders.clone());
    assert_eq!(
        timers.run_once().await.unwrap(),
        Fired::Some(1),
        "what was kept"
    );
    assert_eq!(instance(&orders, id).await.status, Status::Compensating);
    reply(&orders, &coordinator(), id, Outcome::Compensated).await;
    assert_eq!(instance(&orders, id).await.status, Status::Compensated);
    assert_eq!(count(&orders, "saga.pending").await, 0);
}

#[tokio::test]
async fn a_command_that_panics_on_a_timer_parks_its_saga() {
    let orders = database("orders").await;
    let broken = Arc::new(AtomicBool::new(false));
    let coordinator = fragile(&broken);
    let trip = Trip::with("pay", "panic in the command");
    let sick = start(&coordinator, &orders, &trip).await.id;
    let healthy = start(&coordinator, &orders, &Trip::default()).await.id;
    for id in [sick, healthy] {
        nobody_answers(&orders, &coordinator, id).await;
    }
    // Something is to be sent again when its time comes.
    sqlx::query(
        r#"update saga.instance set status = 'running', parked_reason = null, look_at = now(),
             waiting_for = 'backoff', steps = '[["pay","running",1,2,"backoff"]]',
             timers = '[["pay","action",1,2,0]]'"#,
    )
    .execute(&orders)
    .await
    .unwrap();
    broken.store(true, Ordering::SeqCst);
    let timers = coordinator.timers(orders.clone());
    assert_eq!(timers.run_once().await.unwrap(), Fired::Postponed);
    is_parked_for(&orders, sick, "panicked: the command is lost").await;
    is_parked_for(
        &orders,
        sick,
        "the timer of the action of pay, round 1, attempt 2",
    )
    .await;
    assert_eq!(commands_of(&orders, healthy).await.len(), 2);
}

#[tokio::test]
async fn a_refusal_that_cannot_be_read_parks_its_saga_and_one_with_a_nul_is_a_refusal() {
    let orders = database("orders").await;
    let sick = start(&coordinator(), &orders, &Trip::default()).await.id;
    let odd = start(&coordinator(), &orders, &Trip::default()).await.id;
    let commands = sent(&orders, "trip.commands").await;
    let mut batch: Vec<_> = commands
        .iter()
        .map(|c| answer(c, Outcome::Failed))
        .collect();
    batch[0].payload = Some(br#"{"code": "no"}"#.to_vec());
    batch[1].payload = Some(br#"{"code": "no", "message": "no\u0000"}"#.to_vec());
    deliver_all(&orders, &coordinator(), &batch).await;
    let parked = instance(&orders, sick).await;
    assert_eq!(parked.status, Status::Parked);
    let reason = parked.parked_reason.unwrap();
    assert!(
        reason.contains("step hold") && reason.contains("missing field `message`"),
        "{reason}"
    );
    let refused = instance(&orders, odd).await;
    assert_eq!(refused.reason.as_deref(), Some("no\u{fffd}"));
    // The participant says it again, and now it can be read.
    let again = answer(&commands[0], Outcome::Failed);
    deliver(&orders, &coordinator().replies(), &again)
        .await
        .unwrap();
    assert_eq!(instance(&orders, sick).await.status, Status::Compensated);
}

#[tokio::test]
async fn kept_replies_that_fail_are_put_off_and_starve_no_other() {
    let orders = database("orders").await;
    let nobody = Coordinator::builder(REPLIES).build();
    // More than are taken up at once.
    for _ in 0..60 {
        start(&coordinator(), &orders, &Trip::default()).await;
    }
    for command in sent(&orders, "trip.commands").await {
        let reply = answer(&command, Outcome::Succeeded);
        deliver(&orders, &nobody.replies(), &reply).await.unwrap();
    }
    sqlx::query("update saga.instance set hash = 'of another graph'")
        .execute(&orders)
        .await
        .unwrap();
    let healthy = start(&coordinator(), &orders, &Trip::default()).await.id;
    reply(&orders, &nobody, healthy, Outcome::Succeeded).await;
    let timers = coordinator().timers(orders.clone());
    for _ in 0..3 {
        timers.run_once().await.unwrap();
    }
    assert_eq!(instance(&orders, healthy).await.data["done"][0], "hold");
    let put_off =
        "saga.pending where failures > 0 and not_before >= arrived_at + interval '1 second'";
    assert_eq!(count(&orders, put_off).await, 60);
    let open: i64 =
        sqlx::query_scalar("select count(*) from saga.instance where status = 'running'")
            .fetch_one(&orders)
            .await
            .unwrap();
    assert_eq!(open, 61, "another replica may have their graph");
}

#[tokio::test]
async fn a_kept_reply_that_cannot_be_read_parks_its_saga() {
    let orders = database("orders").await;
    let nobody = Coordinator::builder(REPLIES).build();
    for (column, reason) in [("phase", "undreamt"), ("outcome", "undreamt")] {
        let id = start(&coordinator(), &orders, &Trip::default()).await.id;
        reply(&orders, &nobody, id, Outcome::Succeeded).await;
        let odd = |value: &str| format!("update saga.pending set {column} = '{value}'");
        let odd = [
            odd("undreamt"),
            odd(if column == "phase" {
                "action"
            } else {
                "succeeded"
            }),
        ];
        sqlx::query(sqlx::AssertSqlSafe(odd[0].clone()))
            .execute(&orders)
            .await
            .unwrap();
        let timers = coordinator().timers(orders.clone());
        assert_eq!(timers.run_once().await.unwrap(), Fired::None);
        is_parked_for(&orders, id, reason).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::None);
        sqlx::query(sqlx::AssertSqlSafe(odd[1].clone()))
            .execute(&orders)
            .await
            .unwrap();
        done(&orders, &coordinator(), id, What::Retry { step: None }).await;
        assert_eq!(timers.run_once().await.unwrap(), Fired::Some(1));
        assert_eq!(instance(&orders, id).await.data["done"][0], "hold");
    }
}

#[tokio::test]
async fn an_answer_that_is_kept_is_decided_before_its_timer_fires() {
    let orders = database("orders").await;
    let broken = Arc::new(AtomicBool::new(true));
    let coordinator = fragile(&broken);
    let trip = Trip::with("pay", "panic in the fold");
    let id = start(&coordinator, &orders, &trip).await.id;
    make_due(&orders, None).await;
    reply(&orders, &coordinator, id, Outcome::Succeeded).await;
    broken.store(false, Ordering::SeqCst);
    done(&orders, &coordinator, id, What::Retry { step: None }).await;
    coordinator.timers(orders.clone()).run_once().await.unwrap();
    assert_eq!(instance(&orders, id).await.status, Status::Completed);
    assert!(!timed_out(&orders, id).await);
}
