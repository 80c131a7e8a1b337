//! A trip: hold the money, book a seat, pay, print the ticket. One participant does it all.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use outbox::{BatchHandler, Payload, Received};
use saga::{
    Coordinator, Definition, Instance, Operation, Participant, Phase, Step,
    event::Event,
    participant::{Action, Answer, Compensation, Context, Refusal},
    wire,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgPool, PgTransaction, Row, postgres::PgPoolOptions};
use testbed::Database;
use uuid::Uuid;

/// Long enough for a loaded machine, short enough to notice a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const REPLIES: &str = "orders.replies";

/// A database with both schemas, and the tables our own side writes.
pub(crate) async fn database(name: &str) -> PgPool {
    database_of(&Database::fresh(name).await).await
}

/// The same in a database that the test needs too.
pub(crate) async fn database_of(database: &Database) -> PgPool {
    let options = database.options().unwrap();
    // Whoever would wait for ever fails instead.
    let options = options.options([("lock_timeout", "10s")]);
    let pool = PgPoolOptions::new().max_connections(16);
    let pool = pool.connect_with(options).await.unwrap();
    outbox::migrate(&pool).await.unwrap();
    saga::migrate(&pool).await.unwrap();
    for table in [
        "create table effect (seq bigserial, op_key uuid not null, step text not null, what text not null)",
        "create table ended (seq bigserial, saga_id uuid not null, how text not null, reason text, done text[])",
    ] {
        sqlx::query(table).execute(&pool).await.unwrap();
    }
    pool
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Trip {
    /// How the participant will take it, by step: `refuse`, `silent`, `fail`, or done.
    pub(crate) moods: std::collections::BTreeMap<String, String>,
    pub(crate) done: Vec<String>,
    /// What the hook does: `fail`, or writes a row.
    pub(crate) hook: String,
}

impl Trip {
    pub(crate) fn with(step: &str, mood: &str) -> Self {
        let mut trip = Self::default();
        trip.moods.insert(step.to_owned(), mood.to_owned());
        trip
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Do {
    pub(crate) mood: String,
}
impl Payload for Do {
    const KIND: &'static str = "trip.do.v1";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) step: String,
    /// Drawn anew at each execution: two equal ones are one execution.
    pub(crate) receipt: Uuid,
}
impl Payload for Done {
    const KIND: &'static str = "trip.done.v1";
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Undo {}
impl Payload for Undo {
    const KIND: &'static str = "trip.undo.v1";
}

/// Whether this is the first time that an operation is tried.
pub(crate) fn stumbles(op_key: Uuid) -> bool {
    static TRIED: Mutex<BTreeSet<Uuid>> = Mutex::new(BTreeSet::new());
    TRIED.lock().unwrap().insert(op_key)
}

/// Writes a row for each effect, then takes its mood.
pub(crate) struct Doer;

impl Action for Doer {
    type Command = Do;
    type Reply = Done;

    async fn execute(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        command: Do,
    ) -> Result<Answer<Done>, outbox::Error> {
        effect(tx, context, "done").await?;
        match command.mood.as_str() {
            "refuse" => Ok(Answer::Refused(Refusal::new("no", "no, thank you"))),
            "refuse first round" if context.round == 1 => {
                Ok(Answer::Refused(Refusal::new("no", "not yet")))
            }
            "silent" => Ok(Answer::Silent),
            "fail" => Err(outbox::Error::transient("the roof leaks")),
            "stumble" if stumbles(context.op_key) => {
                Err(outbox::Error::transient("the roof leaks"))
            }
            "panic" => panic!("the roof is gone"),
            _ => Ok(Answer::Done(Done {
                step: context.step.clone(),
                receipt: Uuid::now_v7(),
            })),
        }
    }
}

impl Compensation for Doer {
    type Command = Undo;

    async fn compensate(
        &self,
        tx: &mut PgTransaction<'_>,
        context: &Context,
        _: Undo,
    ) -> Result<(), outbox::Error> {
        let reply = context
            .action_reply
            .as_ref()
            .expect("what the action answered");
        assert_eq!(reply["step"], context.step);
        effect(tx, context, "undone").await
    }
}

pub(crate) async fn effect(
    tx: &mut PgTransaction<'_>,
    context: &Context,
    what: &str,
) -> Result<(), outbox::Error> {
    sqlx::query("insert into effect (op_key, step, what) values ($1, $2, $3)")
        .bind(context.op_key)
        .bind(&context.step)
        .bind(what)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What this crate serves, where services put it.
pub(crate) fn routes(pool: &PgPool, coordinator: Coordinator) -> axum::Router {
    let streams = saga::http::Streams::new(pool.clone());
    let sagas = saga::http::router(pool.clone(), coordinator, streams);
    axum::Router::new().nest("/v1", sagas.into())
}

pub(crate) fn participant() -> Participant {
    participant_named("traveller".to_owned())
}

pub(crate) fn participant_named(name: String) -> Participant {
    Participant::new(name).action(Doer).compensation(Doer)
}

/// What was done and undone, in order of writing.
pub(crate) async fn effects(pool: &PgPool) -> Vec<String> {
    let rows = sqlx::query("select what || ' ' || step from effect order by seq");
    let rows = rows.fetch_all(pool).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// How sagas ended, as the hooks wrote it down.
pub(crate) async fn endings(pool: &PgPool) -> Vec<(Uuid, String, Option<String>)> {
    let rows = sqlx::query_as("select saga_id, how, reason from ended order by seq");
    rows.fetch_all(pool).await.unwrap()
}

pub(crate) fn step(name: &'static str) -> saga::definition::Replied<Trip> {
    Step::new(name)
        .command("trip.commands", move |trip: &Trip| Do {
            mood: trip.moods.get(name).cloned().unwrap_or_default(),
        })
        .reply(|trip: &mut Trip, done: Done| trip.done.push(done.step))
        .attempts(2)
        .timeout(Duration::from_millis(1))
        .backoff(Duration::from_millis(1), Duration::from_millis(1))
}

pub(crate) fn definition() -> Definition<Trip> {
    definition_with(Duration::from_secs(3600))
}

/// With steps that are overdue after `wait`, and sent again after as long.
pub(crate) fn definition_with(wait: Duration) -> Definition<Trip> {
    let step = |name| step(name).timeout(wait).backoff(wait, wait);
    let undoable = |name| step(name).compensation(|_: &Trip| Undo {});
    let definition = Definition::<Trip>::builder("trip", 1)
        .compensatable(undoable("hold"))
        .compensatable(undoable("book"))
        .pivot(step("pay"))
        .retriable(step("print"))
        .on_completed(|tx, ended| Box::pin(write_down(tx, ended, "completed")))
        .on_compensated(|tx, ended| Box::pin(write_down(tx, ended, "compensated")));
    definition.build().unwrap()
}

async fn write_down(
    tx: &mut PgTransaction<'_>,
    ended: saga::Ended<Trip>,
    how: &str,
) -> Result<(), outbox::Error> {
    sqlx::query("insert into ended (saga_id, how, reason, done) values ($1, $2, $3, $4)")
        .bind(ended.id)
        .bind(how)
        .bind(ended.reason)
        .bind(ended.data.done)
        .execute(&mut **tx)
        .await?;
    match ended.data.hook.as_str() {
        "fail" => Err(outbox::Error::transient("the hook broke")),
        _ => Ok(()),
    }
}

pub(crate) fn coordinator() -> Coordinator {
    coordinator_of(definition())
}

pub(crate) fn coordinator_of(definition: Definition<Trip>) -> Coordinator {
    Coordinator::builder(REPLIES)
        .define(definition)
        .unwrap()
        .build()
}

pub(crate) async fn start(coordinator: &Coordinator, pool: &PgPool, trip: &Trip) -> Instance {
    let mut tx = pool.begin().await.unwrap();
    let id = Uuid::now_v7();
    let key = id.to_string();
    let instance = coordinator
        .start(&mut tx, id, "trip", &key, trip)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    instance
}

/// What a consumer does with one message, without its inbox: a test that delivers twice means it.
pub(crate) async fn deliver<H: BatchHandler>(
    pool: &PgPool,
    handler: &H,
    message: &Received,
) -> Result<(), outbox::Error> {
    let mut tx = pool.begin().await?;
    handler
        .handle_batch(&mut tx, std::slice::from_ref(message))
        .await?;
    tx.commit().await?;
    Ok(())
}

/// What a relay and a broker would have carried: the outbox in order, as received.
pub(crate) async fn sent(pool: &PgPool, topic: &str) -> Vec<Received> {
    let rows = sqlx::query(
        "select seq, message_id, topic, key, kind, payload, coalesce(headers, '{}') as headers
         from outbox.log where topic = $1 order by seq",
    )
    .bind(topic)
    .fetch_all(pool)
    .await
    .unwrap();
    let received = rows.iter().map(|row| Received {
        id: row.get("message_id"),
        topic: row.get("topic"),
        partition: 0,
        offset: row.get("seq"),
        key: row.get("key"),
        kind: row.get("kind"),
        source: String::new(),
        time: None,
        payload: row.get("payload"),
        headers: serde_json::from_value(row.get("headers")).unwrap(),
    });
    received.collect()
}

/// A command as a coordinator would send it.
pub(crate) fn command(operation: &Operation, mood: &str) -> Received {
    let expires_at = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    command_until(operation, mood, expires_at)
}

pub(crate) fn command_until(
    operation: &Operation,
    mood: &str,
    expires_at: chrono::DateTime<chrono::Utc>,
) -> Received {
    sent_as(operation, mood, expires_at, false)
}

/// The question what became of an action. It has expired, which must not matter.
pub(crate) fn probe(operation: &Operation) -> Received {
    let expires_at = chrono::Utc::now() - chrono::TimeDelta::hours(1);
    sent_as(operation, "", expires_at, true)
}

fn sent_as(
    operation: &Operation,
    mood: &str,
    expires_at: chrono::DateTime<chrono::Utc>,
    probe: bool,
) -> Received {
    let headers = wire::Command {
        op_key: operation.key(),
        operation: operation.clone(),
        definition: "trip".to_owned(),
        attempt: 1,
        reply_topic: REPLIES.to_owned(),
        expires_at,
        begun_at: None,
        probe,
    };
    let mood = mood.to_owned();
    let (kind, payload) = match operation.phase {
        Phase::Action => (Do::KIND, serde_json::to_vec(&Do { mood })),
        Phase::Compensation => (Undo::KIND, serde_json::to_vec(&Undo {})),
    };
    received(headers.message("trip.commands", kind, payload.unwrap()))
}

/// A participant's answer to a command, made by hand.
pub(crate) fn answer(asked: &Received, outcome: wire::Outcome) -> Received {
    let step = asked.header(wire::STEP).unwrap().to_owned();
    let (kind, payload) = match outcome {
        wire::Outcome::Succeeded => {
            let receipt = Uuid::now_v7();
            (Done::KIND, serde_json::to_vec(&Done { step, receipt }))
        }
        wire::Outcome::Failed => {
            let refusal = Refusal::new("no", "no, thank you");
            (Refusal::KIND, serde_json::to_vec(&refusal))
        }
        _ => ("saga.other.v1", Ok(b"{}".to_vec())),
    };
    let command = wire::Command::parse(asked).unwrap();
    received(command.reply(asked, outcome, kind, payload.unwrap()))
}

pub(crate) fn received(message: outbox::Message) -> Received {
    Received {
        id: message.id,
        topic: message.topic,
        partition: 0,
        offset: 0,
        key: message.key,
        kind: message.kind,
        source: String::new(),
        time: None,
        payload: message.payload,
        headers: message.headers,
    }
}

pub(crate) fn action() -> Operation {
    Operation {
        saga_id: Uuid::now_v7(),
        step: "hold".to_owned(),
        phase: Phase::Action,
        round: 1,
    }
}

pub(crate) fn undoing(action: &Operation) -> Operation {
    Operation {
        phase: Phase::Compensation,
        ..action.clone()
    }
}

/// A saga's events, as stored; their numbers have no gap.
pub(crate) async fn history(pool: &PgPool, id: Uuid) -> Vec<Event> {
    state(pool, id).await.1
}

/// The stored state, which must be what the stored history folds to.
pub(crate) async fn instance(pool: &PgPool, id: Uuid) -> Instance {
    state(pool, id).await.0
}

/// Both from one snapshot, so that they fit whoever is at work meanwhile.
async fn state(pool: &PgPool, id: Uuid) -> (Instance, Vec<Event>) {
    let (seq, status, data, steps, numbers, events): (
        i64,
        String,
        Value,
        Value,
        Vec<i64>,
        Vec<Value>,
    ) = sqlx::query_as(
        "select seq, status, data, steps,
                array(select seq from saga.event where saga_id = id order by seq),
                array(select body from saga.event where saga_id = id order by seq)
         from saga.instance where id = $1",
    )
    .bind(id)
    .fetch_one(pool)
    .await
    .unwrap();
    assert!(numbers.into_iter().eq(1..=seq), "no gap in the history");
    let events = events.into_iter().map(serde_json::from_value);
    let events: Vec<Event> = events.collect::<Result<_, _>>().unwrap();
    let folded = Instance::from_history(id, &events).unwrap();
    assert_eq!(
        (status.as_str(), data),
        (folded.status.as_str(), folded.data.clone())
    );
    let steps: Vec<saga::instance::StepState> = serde_json::from_value(steps).unwrap();
    assert_eq!(steps, folded.steps);
    (folded, events)
}

/// What was answered so far: outcome and bytes.
pub(crate) async fn answers(pool: &PgPool) -> Vec<(wire::Outcome, Vec<u8>)> {
    let replies = sent(pool, REPLIES).await;
    let answer = |reply: &Received| {
        let outcome = wire::Reply::parse(reply).unwrap().outcome;
        (outcome, reply.payload.clone().unwrap())
    };
    replies.iter().map(answer).collect()
}

pub(crate) async fn outcomes(pool: &PgPool) -> Vec<wire::Outcome> {
    let answers = answers(pool).await;
    answers.into_iter().map(|(outcome, _)| outcome).collect()
}

/// Makes the timers of a saga due, or those of all.
pub(crate) async fn make_due(pool: &PgPool, id: Option<Uuid>) {
    sqlx::query(
        "update saga.instance
         set timers = (select json_agg(json_build_array(
                           t -> 0, t -> 1, t -> 2, t -> 3, (t ->> 4)::bigint - 86400000000))
                       from json_array_elements(timers) as t),
             look_at = look_at - interval '1 day'
         where look_at is not null and id = coalesce($1, id)",
    )
    .bind(id)
    .execute(pool)
    .await
    .unwrap();
}

/// What the runner put off is due now; the lease of whoever died is over.
pub(crate) async fn due(pool: &PgPool) {
    sqlx::query("update saga.external set next_at = now()")
        .execute(pool)
        .await
        .unwrap();
}

/// How many rows a table has.
pub(crate) async fn count(pool: &PgPool, table: &str) -> i64 {
    let sql = format!("select count(*) from {table}");
    let count = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
    count.fetch_one(pool).await.unwrap()
}

/// Waits until some session of this database waits for a lock.
pub(crate) async fn somebody_waits(pool: &PgPool) {
    testbed::until(PATIENCE, "a session that waits for a lock", || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
}
