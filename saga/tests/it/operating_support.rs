//! A person, and sagas in every state that a person may find them in.

use std::time::Duration;

use saga::{
    Coordinator, Definition, Error, Instance, Status,
    intervention::What,
    operator::{self, Outcome, Request},
    wire,
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::*;

/// A request under a key of its own.
pub(crate) fn request(what: What) -> Request {
    Request {
        what,
        actor: "ann".to_owned(),
        reason: "the bank is closed".to_owned(),
        expected_seq: None,
        idempotency_key: Uuid::now_v7().to_string(),
        dry_run: false,
    }
}

/// Carries it out in a transaction of its own.
pub(crate) async fn ask(
    pool: &PgPool,
    coordinator: &Coordinator,
    id: Uuid,
    request: &Request,
) -> Result<Outcome, Error> {
    let mut tx = pool.begin().await?;
    let outcome = operator::intervene(&mut tx, coordinator, id, request).await?;
    tx.commit().await?;
    Ok(outcome)
}

/// It is carried out, now.
pub(crate) async fn done(pool: &PgPool, coordinator: &Coordinator, id: Uuid, what: What) {
    let outcome = ask(pool, coordinator, id, &request(what.clone())).await;
    assert!(
        matches!(outcome, Ok(Outcome::Done(_))),
        "{what:?}: {outcome:?}"
    );
}

/// The commands that one saga sent.
pub(crate) async fn commands_of(pool: &PgPool, id: Uuid) -> Vec<wire::Command> {
    let sent = sent(pool, "trip.commands").await;
    let of = sent.iter().filter(|message| message.key == id.to_string());
    of.map(|message| wire::Command::parse(message).unwrap())
        .collect()
}

/// The participant answers the last command of a saga.
pub(crate) async fn reply(
    pool: &PgPool,
    coordinator: &Coordinator,
    id: Uuid,
    outcome: wire::Outcome,
) {
    let sent = sent(pool, "trip.commands").await;
    let last = sent.iter().rfind(|message| message.key == id.to_string());
    let reply = answer(last.unwrap(), outcome);
    deliver(pool, &coordinator.replies(), &reply).await.unwrap();
}

/// Time passes until nothing is due any more for a saga that waits.
pub(crate) async fn nobody_answers(pool: &PgPool, coordinator: &Coordinator, id: Uuid) {
    testbed::until(PATIENCE, "the saga to be parked", || async {
        make_due(pool, Some(id)).await;
        coordinator.timers(pool.clone()).run_once().await.unwrap();
        (instance(pool, id).await.status == Status::Parked).then_some(())
    })
    .await;
}

/// The states a person may find a saga in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    Running,
    Paused,
    Compensating,
    ParkedPivot,
    ParkedRefused,
    ParkedCompensation,
    Completed,
    Compensated,
    Abandoned,
}

impl Scene {
    pub(crate) const ALL: [Self; 9] = [
        Self::Running,
        Self::Paused,
        Self::Compensating,
        Self::ParkedPivot,
        Self::ParkedRefused,
        Self::ParkedCompensation,
        Self::Completed,
        Self::Compensated,
        Self::Abandoned,
    ];

    /// A saga in that state.
    pub(crate) async fn set(self, pool: &PgPool) -> Instance {
        use wire::Outcome::{Failed, Succeeded};
        let coordinator = coordinator();
        let coordinator = &coordinator;
        let id = start(coordinator, pool, &Trip::default()).await.id;
        let replies: &[wire::Outcome] = match self {
            Self::Running | Self::Paused | Self::Abandoned => &[],
            Self::Compensating | Self::ParkedCompensation => &[Succeeded, Failed],
            Self::ParkedPivot => &[Succeeded, Succeeded],
            Self::ParkedRefused => &[Succeeded, Succeeded, Succeeded],
            Self::Completed => &[Succeeded, Succeeded, Succeeded, Succeeded],
            Self::Compensated => &[Failed],
        };
        for outcome in replies {
            reply(pool, coordinator, id, *outcome).await;
        }
        match self {
            Self::Paused => done(pool, coordinator, id, What::Pause {}).await,
            Self::Abandoned => done(pool, coordinator, id, What::Abandon {}).await,
            Self::ParkedPivot | Self::ParkedCompensation => {
                nobody_answers(pool, coordinator, id).await;
            }
            Self::ParkedRefused => refuse_each_round(pool, coordinator, id).await,
            _ => {}
        }
        instance(pool, id).await
    }
}

async fn refuse_each_round(pool: &PgPool, coordinator: &Coordinator, id: Uuid) {
    testbed::until(PATIENCE, "the saga to be parked", || async {
        reply(pool, coordinator, id, wire::Outcome::Failed).await;
        make_due(pool, Some(id)).await;
        if instance(pool, id).await.status == Status::Parked {
            return Some(());
        }
        coordinator.timers(pool.clone()).run_once().await.unwrap();
        None
    })
    .await;
}

/// Each of what a person may do, in the order of its names, in a form that fits these sagas.
pub(crate) fn everything(instance: &Instance) -> [What; 8] {
    let step = instance.steps.iter().find(|step| step.waiting.is_some());
    let step = step.map_or("hold", |step| step.name.as_str()).to_owned();
    [
        What::Pause {},
        What::Resume {},
        What::Cancel {},
        What::Retry { step: None },
        What::CompleteStep {
            step: step.clone(),
            reply: serde_json::json!({"step": step, "receipt": Uuid::nil()}),
        },
        What::SkipCompensation { step },
        What::Abandon {},
        What::Migrate { to: 2 },
    ]
}

/// Version 1 as ever, and a version 2 that sagas can be brought to, with a step more at its end; and
/// back again.
pub(crate) fn both_versions() -> Coordinator {
    let wait = Duration::from_secs(3600);
    let step = |name| step(name).timeout(wait).backoff(wait, wait);
    let undoable = |name| step(name).compensation(|_: &Trip| Undo {});
    let first = Definition::<Trip>::builder("trip", 1)
        .compensatable(undoable("hold"))
        .compensatable(undoable("book"))
        .pivot(step("pay"))
        .retriable(step("print"))
        .migrates_from(2, |trip: Trip| trip);
    let second = Definition::<Trip>::builder("trip", 2)
        .compensatable(undoable("hold"))
        .compensatable(undoable("book"))
        .pivot(step("pay"))
        .retriable(step("print"))
        .retriable(step("post"))
        .migrates_from(1, |mut trip: Trip| {
            trip.moods
                .insert("post".to_owned(), "first class".to_owned());
            trip
        });
    Coordinator::builder(REPLIES)
        .define(first.build().unwrap())
        .unwrap()
        .define(second.build().unwrap())
        .unwrap()
        .build()
}
