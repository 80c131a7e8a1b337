//! What a person does to one saga.

use saga::{
    Error, Phase, Status,
    event::Event,
    instance::StepStatus,
    intervention::{OperationName, What},
    operator::{Outcome, Request, allowed_operations, intervene},
    wire::Outcome as Wire,
};
use serde_json::json;
use sqlx::PgPool;

use crate::{operating_support::*, support::*};

/// What is allowed where: the table of `docs/life-of-a-saga.md`.
fn allowed_in(scene: Scene) -> &'static [&'static str] {
    match scene {
        Scene::Running => &["pause", "cancel", "complete_step", "abandon"],
        Scene::Paused => &["resume", "cancel", "complete_step", "abandon"],
        Scene::Compensating => &["pause", "skip_compensation", "abandon"],
        Scene::ParkedPivot | Scene::ParkedRefused => {
            &["pause", "retry", "complete_step", "abandon"]
        }
        Scene::ParkedCompensation => &["pause", "retry", "skip_compensation", "abandon"],
        Scene::Completed | Scene::Compensated | Scene::Abandoned => &[],
    }
}

/// Rows that an intervention may write to.
async fn rows(pool: &PgPool) -> Vec<String> {
    let mut all = Vec::new();
    for table in [
        "saga.instance",
        "saga.event",
        "saga.timer",
        "saga.intervention",
        "outbox.log",
        "ended",
    ] {
        let sql = format!("select to_jsonb(t)::text from {table} t order by 1");
        let rows = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql));
        all.extend(rows.fetch_all(pool).await.unwrap());
    }
    all
}

#[tokio::test]
async fn each_operation_is_allowed_or_refused_with_a_reason_in_each_state() {
    let pool = database("matrix").await;
    for scene in Scene::ALL {
        let saga = scene.set(&pool).await;
        let shown = allowed_operations(&coordinator(), &saga);
        let names: Vec<_> = shown
            .iter()
            .filter(|o| o.allowed)
            .map(|o| o.name.as_str())
            .collect();
        assert_eq!(names, allowed_in(scene), "{scene:?}");
        for (what, shown) in everything(&saga).into_iter().zip(shown) {
            assert_eq!(what.name(), shown.name);
            let before = rows(&pool).await;
            let mut dry = request(what.clone());
            dry.dry_run = true;
            let would = ask(&pool, &coordinator(), saga.id, &dry).await;
            assert_eq!(
                rows(&pool).await,
                before,
                "{scene:?} {what:?}: a dry run writes nothing"
            );
            match would {
                Ok(Outcome::DryRun(_)) => assert!(shown.allowed, "{scene:?} {what:?}"),
                Err(Error::NotAllowed { operation, reason }) => {
                    assert_eq!(operation, what.name());
                    assert!(!shown.allowed, "{scene:?} {what:?}: {reason}");
                    // A migration is refused for its target, which was not known when it was shown.
                    if operation != OperationName::Migrate || saga.status.is_terminal() {
                        assert_eq!(shown.because, Some(reason), "{scene:?} {what:?}");
                    }
                    let refused = ask(&pool, &coordinator(), saga.id, &request(what.clone())).await;
                    assert!(
                        matches!(refused, Err(Error::NotAllowed { .. })),
                        "{refused:?}"
                    );
                    assert_eq!(
                        rows(&pool).await,
                        before,
                        "{scene:?} {what:?}: nor a refusal"
                    );
                }
                other => panic!("{scene:?} {what:?}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_a_dry_run_says_is_what_then_happens() {
    let pool = database("dry").await;
    for scene in Scene::ALL {
        let names = allowed_in(scene);
        for name in names {
            let saga = scene.set(&pool).await;
            let what = everything(&saga)
                .into_iter()
                .find(|what| what.name().as_str() == *name);
            let what = what.unwrap();
            let mut dry = request(what.clone());
            dry.dry_run = true;
            let would = ask(&pool, &coordinator(), saga.id, &dry).await.unwrap();
            let sent = commands_of(&pool, saga.id).await.len();
            let real = Request {
                expected_seq: Some(saga.seq),
                ..request(what.clone())
            };
            let did = ask(&pool, &coordinator(), saga.id, &real).await.unwrap();
            assert!(matches!(did, Outcome::Done(_)));
            assert_eq!(would.intervened(), did.intervened(), "{scene:?} {name}");
            let did = did.intervened();
            let after = instance(&pool, saga.id).await;
            assert_eq!((after.seq, after.status), (did.seq, did.status));
            let history = history(&pool, saga.id).await;
            let from = usize::try_from(saga.seq).unwrap();
            assert_eq!(history[from..], did.events, "{scene:?} {name}");
            let noted = matches!(&did.events[0], Event::Intervened { operation, actor, reason, .. }
                if *operation == what.name() && actor == "ann" && reason == "the bank is closed");
            assert!(noted, "{:?}", did.events);
            let commands = commands_of(&pool, saga.id).await.split_off(sent);
            let sent: Vec<_> = commands
                .iter()
                .map(|c| {
                    (
                        c.op_key,
                        c.attempt,
                        c.probe,
                        c.operation.round,
                        c.operation.phase,
                    )
                })
                .collect();
            let said: Vec<_> = did
                .commands
                .iter()
                .map(|c| (c.op_key, c.attempt, c.probe, c.round, c.phase))
                .collect();
            assert_eq!(sent, said, "{scene:?} {name}");
        }
    }
}

#[tokio::test]
async fn whoever_looked_too_long_ago_is_told_the_present_number() {
    let pool = database("stale").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    reply(&pool, &coordinator(), saga.id, Wire::Succeeded).await;
    let before = instance(&pool, saga.id).await;
    let mut cancel = request(What::Cancel {});
    cancel.expected_seq = Some(saga.seq);
    for dry_run in [true, false] {
        cancel.dry_run = dry_run;
        let refused = ask(&pool, &coordinator(), saga.id, &cancel).await;
        let Err(Error::Stale {
            expected, present, ..
        }) = refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!((expected, present), (saga.seq, before.seq));
    }
    assert_eq!(instance(&pool, saga.id).await, before);
    cancel.expected_seq = Some(before.seq);
    ask(&pool, &coordinator(), saga.id, &cancel).await.unwrap();
    assert_eq!(instance(&pool, saga.id).await.status, Status::Compensating);
}

#[tokio::test]
async fn a_request_sent_again_is_answered_as_before_and_done_once() {
    let pool = database("again").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let mut cancel = request(What::Cancel {});
    cancel.expected_seq = Some(saga.seq);
    let first = ask(&pool, &coordinator(), saga.id, &cancel).await.unwrap();
    reply(&pool, &coordinator(), saga.id, Wire::NullCompensated).await;
    let ended = rows(&pool).await;
    // Though the saga has moved on and would refuse it now.
    let again = ask(&pool, &coordinator(), saga.id, &cancel).await.unwrap();
    assert!(matches!(again, Outcome::Repeated(_)), "{again:?}");
    assert_eq!(again.intervened(), first.intervened());
    let mut others = [(); 3].map(|()| cancel.clone());
    others[0].what = What::Abandon {};
    others[1].reason = "another".to_owned();
    others[2].expected_seq = None;
    for other in others {
        let reused = ask(&pool, &coordinator(), saga.id, &other).await;
        assert!(matches!(reused, Err(Error::KeyReused)), "{reused:?}");
    }
    assert_eq!(rows(&pool).await, ended);
    // The key is the saga's own.
    let neighbour = start(&coordinator(), &pool, &Trip::default()).await;
    cancel.expected_seq = None;
    let first = ask(&pool, &coordinator(), neighbour.id, &cancel).await;
    assert!(matches!(first, Ok(Outcome::Done(_))), "{first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_request_sent_by_many_at_once_is_done_once() {
    let pool = database("at_once").await;
    for round in 0..20 {
        let saga = start(&coordinator(), &pool, &Trip::default()).await;
        let pause = request(What::Pause {});
        let gate = std::sync::Arc::new(tokio::sync::Barrier::new(4));
        let tasks = [(); 4].map(|()| {
            let (pool, gate, pause) = (pool.clone(), gate.clone(), pause.clone());
            tokio::spawn(async move {
                gate.wait().await;
                ask(&pool, &coordinator(), saga.id, &pause).await
            })
        });
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(
                task.await
                    .unwrap()
                    .unwrap_or_else(|e| panic!("round {round}: {e}")),
            );
        }
        let done = |o: &&Outcome| matches!(o, Outcome::Done(_));
        assert_eq!(outcomes.iter().filter(done).count(), 1, "{outcomes:?}");
        let first = outcomes[0].intervened();
        assert!(
            outcomes.iter().all(|o| o.intervened() == first),
            "{outcomes:?}"
        );
        assert_eq!(instance(&pool, saga.id).await.seq, saga.seq + 1);
    }
}

#[tokio::test]
async fn a_cancel_that_comes_first_undoes_what_a_reply_then_tells_of() {
    let pool = database("cancel_first").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let command = sent(&pool, "trip.commands").await.remove(0);
    let success = answer(&command, Wire::Succeeded);
    let mut tx = pool.begin().await.unwrap();
    let cancel = request(What::Cancel {});
    intervene(&mut tx, &coordinator(), saga.id, &cancel)
        .await
        .unwrap();
    // The reply is there before the cancel commits, and waits for the saga's row.
    let late = {
        let pool = pool.clone();
        tokio::spawn(async move { deliver(&pool, &coordinator().replies(), &success).await })
    };
    somebody_waits(&pool).await;
    tx.commit().await.unwrap();
    late.await.unwrap().unwrap();
    let state = instance(&pool, saga.id).await;
    assert_eq!(state.step("hold").unwrap().status, StepStatus::Compensating);
    reply(&pool, &coordinator(), saga.id, Wire::Compensated).await;
    let state = instance(&pool, saga.id).await;
    assert_eq!(state.status, Status::Compensated);
    assert_eq!(
        state.reason.as_deref(),
        Some("cancelled by ann: the bank is closed")
    );
    assert_eq!(endings(&pool).await.len(), 1);
}

#[tokio::test]
async fn a_reply_that_comes_first_is_undone_by_the_cancel_behind_it() {
    let pool = database("reply_first").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let command = sent(&pool, "trip.commands").await.remove(0);
    let success = answer(&command, Wire::Succeeded);
    let mut tx = pool.begin().await.unwrap();
    let replies = coordinator().replies();
    use outbox::BatchHandler;
    replies
        .handle_batch(&mut tx, std::slice::from_ref(&success))
        .await
        .unwrap();
    let cancel = {
        let pool = pool.clone();
        let request = request(What::Cancel {});
        tokio::spawn(async move { ask(&pool, &coordinator(), saga.id, &request).await })
    };
    somebody_waits(&pool).await;
    tx.commit().await.unwrap();
    let outcome = cancel.await.unwrap().unwrap();
    // `book` was sent by the reply, may have taken effect, and is undone first.
    let undone: Vec<_> = outcome
        .intervened()
        .commands
        .iter()
        .map(|c| (c.step.as_str(), c.phase))
        .collect();
    assert_eq!(undone, [("book", Phase::Compensation)]);
    reply(&pool, &coordinator(), saga.id, Wire::NullCompensated).await;
    reply(&pool, &coordinator(), saga.id, Wire::Compensated).await;
    let state = instance(&pool, saga.id).await;
    assert_eq!(state.status, Status::Compensated);
    assert_eq!(state.step("hold").unwrap().status, StepStatus::Compensated);
    assert_eq!(
        state.step("book").unwrap().status,
        StepStatus::NullCompensated
    );
}

#[tokio::test]
async fn a_retry_of_what_may_have_happened_asks_for_the_same_operation_and_never_for_another() {
    let pool = database("retry").await;
    for scene in [Scene::ParkedPivot, Scene::ParkedCompensation] {
        let saga = scene.set(&pool).await;
        let before = commands_of(&pool, saga.id).await;
        done(&pool, &coordinator(), saga.id, What::Retry { step: None }).await;
        let after = commands_of(&pool, saga.id).await;
        let [new] = &after[before.len()..] else {
            panic!("{after:?}")
        };
        let last = before.last().unwrap();
        assert_eq!(
            (new.op_key, new.operation.round),
            (last.op_key, 1),
            "{scene:?}"
        );
        assert!(!new.probe);
        assert_ne!(instance(&pool, saga.id).await.status, Status::Parked);
    }
    // A refusal is settled: only then is it another operation.
    let saga = Scene::ParkedRefused.set(&pool).await;
    let before = commands_of(&pool, saga.id).await;
    done(
        &pool,
        &coordinator(),
        saga.id,
        What::Retry {
            step: Some("print".to_owned()),
        },
    )
    .await;
    let after = commands_of(&pool, saga.id).await;
    assert_eq!(after.len(), before.len() + 1);
    let (new, last) = (after.last().unwrap(), before.last().unwrap());
    assert_eq!(new.operation.round, last.operation.round + 1);
    assert!(before.iter().all(|command| command.op_key != new.op_key));
}

#[tokio::test]
async fn a_step_done_by_hand_lets_the_saga_go_on_and_a_reply_of_another_shape_does_not() {
    let pool = database("complete").await;
    let saga = Scene::ParkedPivot.set(&pool).await;
    let complete = |reply| What::CompleteStep {
        step: "pay".to_owned(),
        reply,
    };
    let wrong = ask(
        &pool,
        &coordinator(),
        saga.id,
        &request(complete(json!({"paid": true}))),
    )
    .await;
    let Err(Error::NotAllowed { reason, .. }) = wrong else {
        panic!("{wrong:?}")
    };
    assert!(
        reason.starts_with("the reply is not a trip.done.v1"),
        "{reason}"
    );
    let by_hand = complete(json!({"step": "pay by hand", "receipt": uuid::Uuid::nil()}));
    done(&pool, &coordinator(), saga.id, by_hand).await;
    let state = instance(&pool, saga.id).await;
    assert_eq!(state.status, Status::Running);
    assert_eq!(state.data["done"], json!(["hold", "book", "pay by hand"]));
    assert_eq!(state.waiting().unwrap().step, "print");
    reply(&pool, &coordinator(), saga.id, Wire::Succeeded).await;
    assert_eq!(instance(&pool, saga.id).await.status, Status::Completed);
}

#[tokio::test]
async fn a_skipped_compensation_lets_the_others_be_undone() {
    let pool = database("skip").await;
    let saga = Scene::ParkedCompensation.set(&pool).await;
    let unknown = What::SkipCompensation {
        step: "nonsense".to_owned(),
    };
    let refused = ask(&pool, &coordinator(), saga.id, &request(unknown)).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .ends_with("there is no step nonsense")
    );
    let skip = What::SkipCompensation {
        step: "hold".to_owned(),
    };
    done(&pool, &coordinator(), saga.id, skip).await;
    let state = instance(&pool, saga.id).await;
    assert_eq!(state.status, Status::Compensated);
    assert_eq!(
        state.step("hold").unwrap().status,
        StepStatus::CompensationSkipped
    );
    assert_eq!(
        count(&pool, "saga.timer where fire_at is not null").await,
        0
    );
}

#[tokio::test]
async fn a_paused_saga_sends_nothing_until_it_is_resumed_and_keeps_what_was_answered() {
    let pool = database("pause").await;
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    done(&pool, &coordinator(), saga.id, What::Pause {}).await;
    reply(&pool, &coordinator(), saga.id, Wire::Succeeded).await;
    assert_eq!(commands_of(&pool, saga.id).await.len(), 1);
    assert_eq!(
        instance(&pool, saga.id).await.step("hold").unwrap().status,
        StepStatus::Succeeded
    );
    done(&pool, &coordinator(), saga.id, What::Resume {}).await;
    let commands = commands_of(&pool, saga.id).await;
    assert_eq!(commands.last().unwrap().operation.step, "book");
}

#[tokio::test]
async fn a_saga_in_flight_is_brought_to_another_version_and_back() {
    let pool = database("migrate").await;
    let both = both_versions();
    both.register(&pool).await.unwrap();
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    assert_eq!(
        saga.version, 1,
        "started by a replica that knows only the first"
    );
    reply(&pool, &both, saga.id, Wire::Succeeded).await;
    // An old replica cannot, and says so.
    let refused = ask(
        &pool,
        &coordinator(),
        saga.id,
        &request(What::Migrate { to: 2 }),
    )
    .await;
    assert!(
        matches!(refused, Err(Error::NotAllowed { .. })),
        "{refused:?}"
    );

    let mut dry = request(What::Migrate { to: 2 });
    dry.dry_run = true;
    let before = rows(&pool).await;
    let would = ask(&pool, &both, saga.id, &dry).await.unwrap();
    assert_eq!(rows(&pool).await, before);
    let real = ask(&pool, &both, saga.id, &request(What::Migrate { to: 2 }))
        .await
        .unwrap();
    assert_eq!(would.intervened(), real.intervened());
    let state = instance(&pool, saga.id).await;
    assert_eq!((state.version, state.steps.len()), (2, 5));
    assert_eq!(state.data["moods"]["post"], "first class");
    assert_eq!(
        state.waiting().unwrap().step,
        "book",
        "what was sent stays sent"
    );
    // What was sent under the first version is answered under the second.
    reply(&pool, &both, saga.id, Wire::Succeeded).await;
    done(&pool, &both, saga.id, What::Migrate { to: 1 }).await;
    let state = instance(&pool, saga.id).await;
    assert_eq!((state.version, state.steps.len()), (1, 4));
    done(&pool, &both, saga.id, What::Migrate { to: 2 }).await;
    for _ in ["pay", "print", "post"] {
        reply(&pool, &both, saga.id, Wire::Succeeded).await;
    }
    let state = instance(&pool, saga.id).await;
    assert_eq!((state.status, state.version), (Status::Completed, 2));
    assert_eq!(
        state.data["done"],
        json!(["hold", "book", "pay", "print", "post"])
    );
    let late = ask(&pool, &both, saga.id, &request(What::Migrate { to: 1 })).await;
    assert!(matches!(late, Err(Error::NotAllowed { .. })), "{late:?}");
}

#[tokio::test]
async fn a_replica_without_the_version_says_so_and_changes_nothing() {
    let pool = database("elsewhere").await;
    let both = both_versions();
    let saga = start(&both, &pool, &Trip::default()).await;
    assert_eq!(saga.version, 2);
    let before = rows(&pool).await;
    let asked = ask(&pool, &coordinator(), saga.id, &request(What::Pause {})).await;
    let unknown = matches!(
        asked,
        Err(Error::UnknownDefinition {
            version: Some(2),
            ..
        })
    );
    assert!(unknown, "{asked:?}");
    let shown = allowed_operations(&coordinator(), &saga);
    assert!(
        shown
            .iter()
            .all(|operation| !operation.allowed && operation.because.is_some())
    );
    assert_eq!(rows(&pool).await, before);
    let shown = allowed_operations(&both, &saga);
    let migrate = shown.iter().find(|o| o.name == OperationName::Migrate);
    assert!(migrate.unwrap().allowed);
}

#[tokio::test]
async fn a_hook_that_fails_leaves_nothing_of_the_intervention() {
    let pool = database("hook").await;
    let trip = Trip {
        hook: "fail".to_owned(),
        ..Trip::default()
    };
    let saga = start(&coordinator(), &pool, &trip).await;
    done(&pool, &coordinator(), saga.id, What::Cancel {}).await;
    let before = rows(&pool).await;
    let skip = request(What::SkipCompensation {
        step: "hold".to_owned(),
    });
    let failed = ask(&pool, &coordinator(), saga.id, &skip).await;
    assert!(failed.is_err_and(|error| error.is_transient()));
    assert_eq!(rows(&pool).await, before, "nor the key");
}

#[tokio::test]
async fn nobody_intervenes_in_what_is_not_there_or_without_saying_why() {
    let pool = database("unknown").await;
    let unknown = uuid::Uuid::now_v7();
    let asked = ask(&pool, &coordinator(), unknown, &request(What::Pause {})).await;
    assert!(
        matches!(asked, Err(Error::UnknownSaga(id)) if id == unknown),
        "{asked:?}"
    );
    let saga = start(&coordinator(), &pool, &Trip::default()).await;
    let mut silent = request(What::Pause {});
    silent.reason = "\n".to_owned();
    let asked = ask(&pool, &coordinator(), saga.id, &silent).await;
    assert!(
        matches!(
            asked,
            Err(Error::Request {
                field: "reason",
                ..
            })
        ),
        "{asked:?}"
    );
}

#[tokio::test]
async fn parked_sagas_are_counted_until_somebody_has_seen_to_them() {
    let pool = database("census").await;
    let mut census = saga::operator::Census::new(coordinator(), pool.clone());
    start(&coordinator(), &pool, &Trip::default()).await;
    assert!(census.run_once().await.unwrap().is_empty());
    let parked = Scene::ParkedPivot.set(&pool).await;
    Scene::ParkedCompensation.set(&pool).await;
    let counted = census.run_once().await.unwrap();
    assert_eq!(counted, [(parked.definition.clone(), 2)].into());
    let what = What::Abandon {};
    done(&pool, &coordinator(), parked.id, what).await;
    let counted = census.run_once().await.unwrap();
    assert_eq!(counted, [(parked.definition, 1)].into());
}
