//! The conformance suite, tried itself: a participant that keeps its promises passes, and each way
//! to break one fails exactly the cases that it breaks.

mod toy;

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use outbox::{
    Payload, Relay,
    broker::{Broker, Embedded, Kafka, OnPoison, Topic},
    incoming, outgoing,
};
use saga::{
    Operation, Participant, Phase,
    testing::conformance::{self, Case, Effects, Options, Report, Request, Subject},
};
use serde_json::json;
use sqlx::PgPool;
use testbed::Database;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    outside::{Outside, Record},
    support::{Do, PATIENCE, Undo, database_of, participant_named},
};
use toy::{Flaw, Toy};

/// For a flaw that shows as a reply that never comes.
const IMPATIENCE: Duration = Duration::from_secs(5);
/// A storm in which every flaw that a storm can find is found.
const SEED: u64 = 11;

fn options() -> Options {
    Options::default()
        .seed(SEED)
        .patience(PATIENCE)
        .sagas(40)
        .forgets(true)
}

/// Each flaw, with the cases it breaks.
const FLAWS: &[(Flaw, &[Case])] = &[
    (
        Flaw::NoBarrier,
        &[
            Case::ActionRepeated,
            Case::ActionStumbles,
            Case::ActionRedelivered,
            Case::RefusalStored,
            Case::ActionRepeatedAfterCompensation,
            Case::CompensationFirst,
            Case::NewRoundAfterCompensation,
            Case::RefusalCompensated,
            Case::ActionExpired,
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::ProbeOfAnswered,
            Case::ProbeOfUnknown,
            Case::Storm,
        ],
    ),
    (
        Flaw::OnlyAnInbox,
        &[
            Case::ActionRepeated,
            Case::ActionStumbles,
            Case::RefusalStored,
            Case::ActionRepeatedAfterCompensation,
            Case::CompensationFirst,
            Case::NewRoundAfterCompensation,
            Case::RefusalCompensated,
            Case::ActionExpired,
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::ProbeOfAnswered,
            Case::ProbeOfUnknown,
            Case::Storm,
        ],
    ),
    (
        Flaw::AnswersAnew,
        &[
            Case::ActionRepeated,
            Case::ActionStumbles,
            Case::ActionRedelivered,
            Case::ActionRepeatedAfterCompensation,
            Case::ProbeOfAnswered,
            Case::Storm,
        ],
    ),
    (
        Flaw::SilentOnRepetition,
        &[
            Case::ActionRepeated,
            Case::ActionStumbles,
            Case::RefusalStored,
            Case::CompensationRepeated,
            Case::ActionRepeatedAfterCompensation,
            Case::CompensationFirst,
            Case::ActionExpired,
            Case::ProbeOfAnswered,
            Case::Storm,
        ],
    ),
    (
        Flaw::ForgetsRefusals,
        &[
            Case::RefusalStored,
            Case::ActionExpired,
            Case::ProbeOfAnswered,
        ],
    ),
    (
        Flaw::LeavesWhatItRefused,
        &[
            Case::RefusalStored,
            Case::NewRoundAfterRefusal,
            Case::RefusalCompensated,
            Case::ProbeOfAnswered,
        ],
    ),
    (
        Flaw::BlindToRounds,
        &[Case::NewRoundAfterRefusal, Case::NewRoundAfterCompensation],
    ),
    (
        Flaw::ConfirmsWithoutUndoing,
        &[
            Case::CompensationUndoes,
            Case::CompensationRepeated,
            Case::ActionRepeatedAfterCompensation,
            Case::NewRoundAfterCompensation,
            Case::CompensationNeverExpires,
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::Storm,
        ],
    ),
    (
        Flaw::CompensatesTwice,
        &[Case::CompensationRepeated, Case::Storm],
    ),
    (Flaw::CompensatesTheRefused, &[Case::RefusalCompensated]),
    (
        Flaw::CompensatesNothing,
        &[
            Case::CompensationFirst,
            Case::NewRoundAfterCompensation,
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::Storm,
        ],
    ),
    (
        Flaw::LeavesNoTombstone,
        &[
            Case::CompensationFirst,
            Case::NewRoundAfterCompensation,
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::Storm,
        ],
    ),
    (
        Flaw::ExecutesTheTombstoned,
        &[
            Case::CompensationFirst,
            Case::NewRoundAfterCompensation,
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::ProbeOfUnknown,
            Case::Storm,
        ],
    ),
    (
        Flaw::ConfirmsTheTombstoned,
        &[
            Case::CompensationFirst,
            Case::NewRoundAfterCompensation,
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::ProbeOfUnknown,
            Case::Storm,
        ],
    ),
    (Flaw::IgnoresExpiry, &[Case::ActionExpired]),
    (
        Flaw::ExpiresCompensations,
        &[Case::CompensationNeverExpires],
    ),
    (
        Flaw::LooksThenActs,
        &[
            Case::RacedOnOneKey,
            Case::RacedAcrossPartitions,
            Case::Storm,
        ],
    ),
    (
        Flaw::TakesProbesForActions,
        &[Case::ProbeOfUnknown, Case::Storm],
    ),
    (
        Flaw::ProbesLeaveNothing,
        &[Case::ProbeOfUnknown, Case::Storm],
    ),
    (Flaw::KeysRepliesByOperation, &[Case::ActionSucceeds]),
    (Flaw::TrustsOpKeys, &[Case::WrongOpKey]),
    (Flaw::AnswersUnknownKinds, &[Case::UnknownKind]),
    (Flaw::AssumesMissingHeaders, &[Case::MissingHeader]),
    (Flaw::AssumesUnreadableHeaders, &[Case::UnreadableHeader]),
    (Flaw::AnswersGarbage, &[Case::GarbagePayload]),
    (Flaw::DiesOfGarbage, &[Case::GarbagePayload]),
    (
        Flaw::BlocksKeys,
        &[
            Case::LongBegun,
            Case::UnknownKind,
            Case::MissingHeader,
            Case::UnreadableHeader,
            Case::WrongOpKey,
            Case::GarbagePayload,
        ],
    ),
    (
        Flaw::CommitsTheRowFirst,
        &[Case::ActionStumbles, Case::StumblingCompensated],
    ),
    (Flaw::CallsBeforeItNotes, &[Case::StumblingCompensated]),
    (Flaw::HasNoHorizon, &[Case::LongBegun]),
];

async fn try_toy(broker: &dyn Broker, flaw: Option<Flaw>, options: &Options) -> Report {
    let toy = Toy::start(broker, flaw).await;
    let report = conformance::run(broker, &toy.counted(), options).await;
    report.unwrap()
}

#[tokio::test]
async fn a_participant_that_keeps_its_promises_passes_every_case() {
    let broker = Embedded::start().unwrap();
    let report = try_toy(&broker, None, &options()).await;
    report.assert_conforms();
    let tried: Vec<Case> = report.verdicts.iter().map(|verdict| verdict.case).collect();
    assert_eq!(tried, Case::ALL);
}

#[tokio::test]
async fn each_broken_promise_fails_exactly_its_cases() {
    let broker = Embedded::start().unwrap();
    let tried = stream::iter(FLAWS).map(async |(flaw, expected)| {
        let options = match flaw {
            Flaw::SilentOnRepetition
            | Flaw::DiesOfGarbage
            | Flaw::BlocksKeys
            | Flaw::CommitsTheRowFirst => options().patience(IMPATIENCE),
            _ => options(),
        };
        let report = try_toy(&broker, Some(*flaw), &options).await;
        let failed = report.failed();
        // The storm finds by the order of arrival, which is chance: it may miss one. So does an action
        // that stumbles beside its compensation, where something else than that is wrong.
        let mut missed = expected.iter().filter(|case| !failed.contains(case));
        let by_chance = expected.contains(&Case::Storm);
        let is_right = failed.iter().all(|case| {
            expected.contains(case) || by_chance && *case == Case::StumblingCompensated
        }) && missed.all(|case| *case == Case::Storm);
        let wrong =
            (!is_right).then(|| format!("{flaw:?}, of which {expected:?} were to fail\n{report}"));
        (wrong, failed.contains(&Case::Storm))
    });
    let tried: Vec<(Option<String>, bool)> = tried.buffer_unordered(FLAWS.len()).collect().await;
    let found = tried.iter().filter(|(_, by_storm)| *by_storm).count();
    let wrong: Vec<String> = tried.into_iter().filter_map(|(wrong, _)| wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let stormy = FLAWS
        .iter()
        .filter(|(_, cases)| cases.contains(&Case::Storm));
    let stormy = stormy.count();
    assert!(2 * found > stormy, "the storm found {found} of {stormy}");
}

#[test]
fn every_case_is_failed_by_some_flaw() {
    let failed: HashSet<Case> = FLAWS.iter().flat_map(|(_, cases)| cases.to_vec()).collect();
    let unfailed = Case::ALL.iter().filter(|case| !failed.contains(case));
    assert_eq!(unfailed.collect::<Vec<_>>(), Vec::<&Case>::new());
}

#[tokio::test]
async fn without_a_count_of_effects_replies_alone_are_judged() {
    let broker = Embedded::start().unwrap();
    let options = options();
    for (flaw, is_seen) in [
        (Flaw::ExecutesTheTombstoned, false),
        (Flaw::ConfirmsTheTombstoned, true),
    ] {
        let toy = Toy::start(&broker, Some(flaw)).await;
        let report = conformance::run(&broker, &toy.subject(), &options).await;
        let report = report.unwrap();
        assert!(!report.counted_effects);
        assert_eq!(!report.failed().is_empty(), is_seen, "{flaw:?}\n{report}");
    }
}

#[tokio::test]
async fn a_participant_without_probes_is_tried_without_them() {
    let broker = Embedded::start().unwrap();
    let flaw = Some(Flaw::TakesProbesForActions);
    let report = try_toy(&broker, flaw, &options().probe(false)).await;
    report.assert_conforms();
    assert!(report.verdicts.iter().all(|verdict| !verdict.case.probes()));
}

#[tokio::test]
async fn a_participant_that_does_not_run_fails_everything_at_once() {
    let broker = Embedded::start().unwrap();
    let topics = ["commands", "replies"].map(|name| Topic::new(name, 1));
    broker.ensure_topics(&topics).await.unwrap();
    let ask = |_| Request::json("any.v1", json!({}));
    let subject = Subject::new("commands", "replies")
        .action(ask)
        .refused(ask)
        .compensation(ask);
    let options = options().patience(Duration::from_millis(500));
    let report = conformance::run(&broker, &subject, &options).await.unwrap();
    let tried = Case::ALL.iter().filter(|case| !case.stumbles());
    assert_eq!(report.failed(), tried.copied().collect::<Vec<_>>());
    let shown = report.to_string();
    assert_eq!(shown.matches("no reply").count(), 1, "{shown}");
    assert!(shown.contains("is it running"), "{shown}");
    assert!(shown.contains("seed 11"), "{shown}");
}

#[tokio::test]
async fn a_subject_that_cannot_be_asked_is_an_error_that_says_so() {
    let broker = Embedded::start().unwrap();
    let topics = ["commands", "replies"].map(|name| Topic::new(name, 1));
    broker.ensure_topics(&topics).await.unwrap();
    let ask = |_| Request::json("any.v1", json!({}));
    let subject = Subject::new("commands", "replies").action(ask).refused(ask);
    let error = conformance::run(&broker, &subject, &options()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("compensation"), "{error}");
}

/// Ours, with everything that a service has: consumer, runner, inbox, barrier, outbox, relay.
async fn our_own_conforms(
    name: &str,
    broker: Arc<dyn Broker>,
    (participant, calls_off): (impl FnOnce(String) -> Participant, bool),
    effects: impl Fn(PgPool, Uuid) -> BoxFuture<'static, sqlx::Result<Effects>> + Send + Sync + 'static,
) {
    let database = Database::fresh(name).await;
    let pool = database_of(&database).await;
    let id = Uuid::now_v7().simple();
    let (commands, replies) = (format!("{id}.commands"), format!("{id}.replies"));
    let topics =
        [&commands, &replies].map(|name| Topic::new(name, 4).on_poison(OnPoison::SkipMessage));
    outgoing::declare(&pool, &*broker, &topics).await.unwrap();

    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let relay = Relay::new(
        database.options().unwrap(),
        Arc::clone(&broker),
        outgoing::Config::default(),
    );
    // It has forgotten something, perhaps.
    let retention = Duration::from_secs(15 * 24 * 60 * 60);
    saga::participant::retention::forget(&pool, retention)
        .await
        .unwrap();
    // Others have a consumer of that name on the same broker.
    let participant = participant(format!("traveller-{id}"));
    let consumer = participant.consumer(
        &[&commands],
        pool.clone(),
        Arc::clone(&broker),
        incoming::Config::default(),
    );
    let (relaying, consuming) = (stop.clone(), stop.clone());
    let relay = tokio::spawn(async move { relay.run(relaying).await });
    let consumer = tokio::spawn(async move { consumer.run(consuming).await });

    let asking = |mood: &'static str| move |_| Request::json(Do::KIND, json!({ "mood": mood }));
    let counted = pool.clone();
    let subject = Subject::new(commands, replies)
        .step("hold")
        .action(asking(""))
        .refused(asking("refuse"))
        .stumbling(asking("stumble"))
        .compensation(|_| Request::json(Undo::KIND, json!({})))
        .effects(move |saga| effects(counted.clone(), saga));
    let options = options().calls_off(calls_off);
    let report = conformance::run(&*broker, &subject, &options).await;
    report.unwrap().assert_conforms();

    stop.cancel();
    relay.await.unwrap().unwrap();
    consumer.await.unwrap().unwrap();
}

/// The support's participant notes each effect under its operation's key.
async fn effects_of(pool: PgPool, saga_id: Uuid) -> sqlx::Result<Effects> {
    let (executed, remaining) = sqlx::query_as(
        "select count(*) filter (where what = 'done'),
                count(*) filter (where what = 'done') - count(*) filter (where what = 'undone')
         from effect where op_key = any($1)",
    )
    .bind(
        [
            keys(saga_id, Phase::Action),
            keys(saga_id, Phase::Compensation),
        ]
        .concat(),
    )
    .fetch_one(&pool)
    .await?;
    Ok(Effects {
        executed,
        remaining,
    })
}

fn keys(saga_id: Uuid, phase: Phase) -> Vec<Uuid> {
    let key = |round| {
        let step = "hold".to_owned();
        Operation {
            saga_id,
            step,
            phase,
            round,
        }
        .key()
    };
    [1, 2].map(key).to_vec()
}

/// What is outside counts by itself; its compensations are noted as the others.
async fn outside_effects_of(
    outside: Outside,
    pool: PgPool,
    saga_id: Uuid,
) -> sqlx::Result<Effects> {
    let done = keys(saga_id, Phase::Action).into_iter();
    let done = done.filter(|key| matches!(outside.record(*key), Some(Record::Done { .. })));
    let executed = i64::try_from(done.count()).unwrap();
    let noted = effects_of(pool, saga_id).await?;
    Ok(Effects {
        executed,
        remaining: executed - (noted.executed - noted.remaining),
    })
}

async fn ours_conforms(name: &str, broker: Arc<dyn Broker>) {
    let effects = |pool, saga| effects_of(pool, saga).boxed();
    our_own_conforms(name, broker, (participant_named, false), effects).await;
}

#[tokio::test]
async fn our_own_participant_conforms() {
    ours_conforms("conforms", Arc::new(Embedded::start().unwrap())).await;
}

#[tokio::test]
async fn our_own_participant_conforms_where_its_effects_are_outside() {
    let broker = Arc::new(Embedded::start().unwrap());
    let outside = Outside::new(&[]);
    let counted = outside.clone();
    let effects = move |pool, saga| outside_effects_of(counted.clone(), pool, saga).boxed();
    let participant = move |name| outside.participant_named(name);
    our_own_conforms("conforms_outside", broker, (participant, true), effects).await;
}

#[tokio::test]
async fn our_own_participant_conforms_on_kafka() {
    let kafka = Kafka::new(testbed::kafka().await.bootstrap()).unwrap();
    ours_conforms("conforms_kafka", Arc::new(kafka)).await;
}
