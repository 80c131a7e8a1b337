//! Writers that do everything a service may do, each on a session of its own, and note it in the journal.
//!
//! Every key has a counter in a row; a transaction takes the key's next number under the row's lock and enqueues a message
//! with it. So the messages of a key, in the order in which its transactions committed, are 1, 2, 3 … without a gap.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use sqlx::{Connection, PgConnection, PgTransaction, postgres::PgConnectOptions};
use testbed::trials::Random;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    journal::{Enqueued, Journal, Outcome},
    room::Room,
};
use crate::world::Counted;

/// What the writers do. Shares are in a hundred transactions.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) writers: u64,
    /// Transactions a second of each writer, as far as the server keeps up.
    pub(crate) rate: u64,
    /// Keys that all writers share.
    pub(crate) keys: u64,
    pub(crate) aborted: u64,
    /// Number drawn early, commit late: first a message of the writer's own key, then a pause.
    pub(crate) lingering: u64,
    /// With a message that a savepoint takes back.
    pub(crate) savepoints: u64,
    /// In two phases, of which the second commits or rolls back.
    pub(crate) prepared: u64,
    /// Two keys in any order, which deadlocks; otherwise in one order, which cannot.
    pub(crate) deadlocking: bool,
    /// In `repeatable read` or `serializable`, which fails when another was first.
    pub(crate) isolated: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            writers: 6,
            rate: 60,
            keys: 12,
            aborted: 8,
            lingering: 15,
            savepoints: 8,
            prepared: 3,
            deadlocking: false,
            isolated: 0,
        }
    }
}

/// Adds a message of `key` and a business row to a transaction of the caller's, and notes the intent. Returns its number.
pub(crate) async fn intend(
    room: &Room,
    journal: &Journal,
    tx: &mut PgTransaction<'_>,
    key: &str,
    messages: usize,
) -> i64 {
    let intent = journal.next_intent();
    let mut enqueued = Vec::new();
    for _ in 0..messages {
        let n = next_number(tx, key).await.unwrap();
        let message = outbox::Message::new(&room.topics[0], key, &Counted { n }).unwrap();
        outbox::enqueue(tx, &message).await.unwrap();
        let key = key.to_owned();
        enqueued.push(Enqueued {
            id: message.id,
            key,
            n,
        });
    }
    sqlx::query("insert into business values ($1)")
        .bind(intent)
        .execute(&mut **tx)
        .await
        .unwrap();
    journal.intent(intent, &enqueued);
    intent
}

/// Takes the key's next number under the lock of its row.
async fn next_number(tx: &mut PgTransaction<'_>, key: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "insert into counter values ($1, 1)
         on conflict (key) do update set n = counter.n + 1 returning n",
    )
    .bind(key)
    .fetch_one(&mut **tx)
    .await
}

/// A load under way.
pub(crate) struct Load {
    stop: CancellationToken,
    writers: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    options: PgConnectOptions,
    topics: Vec<String>,
    plan: Plan,
    journal: Arc<Journal>,
    committed: AtomicUsize,
    /// SQLSTATEs met, or `lost` for a connection that broke.
    errors: Mutex<HashMap<String, usize>>,
    /// When each message was known to be committed.
    committed_at: Mutex<HashMap<Uuid, SystemTime>>,
}

impl Load {
    pub(crate) fn start(
        room: &Room,
        plan: Plan,
        journal: &Arc<Journal>,
        random: &mut Random,
    ) -> Self {
        let options = room.database.options().unwrap();
        let options = options.application_name("writer").options([
            ("statement_timeout", "20s"),
            ("deadlock_timeout", "20ms"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        let shared = Arc::new(Shared {
            options,
            topics: room.topics.clone(),
            plan,
            journal: Arc::clone(journal),
            committed: AtomicUsize::default(),
            errors: Mutex::default(),
            committed_at: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        for number in 0..shared.plan.writers {
            let (shared, stop, random) = (Arc::clone(&shared), stop.clone(), random.fork());
            let writer = Writer {
                number,
                shared,
                random,
            };
            writers.spawn(writer.run(stop));
        }
        Self {
            stop,
            writers,
            shared,
        }
    }

    /// Transactions known to be committed.
    pub(crate) fn committed(&self) -> usize {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Waits until so many more transactions have committed.
    pub(crate) async fn wait_for_more(&self, more: usize) {
        let wanted = self.committed() + more;
        testbed::until(super::room::HEALED, "the writers go on", async || {
            (self.committed() >= wanted).then_some(())
        })
        .await;
    }

    /// How often a writer met this SQLSTATE, or `lost`.
    pub(crate) fn met(&self, code: &str) -> usize {
        let errors = self.shared.errors.lock().unwrap();
        errors.get(code).copied().unwrap_or(0)
    }

    pub(crate) fn errors(&self) -> HashMap<String, usize> {
        self.shared.errors.lock().unwrap().clone()
    }

    pub(crate) fn committed_at(&self) -> HashMap<Uuid, SystemTime> {
        self.shared.committed_at.lock().unwrap().clone()
    }

    /// Lets the writers finish what they are at; then decides what was left prepared.
    pub(crate) async fn stop(mut self, room: &Room) {
        self.stop.cancel();
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
        settle_prepared(room).await;
    }
}

/// Commits what a lost connection left prepared: its outcome is noted as unknown.
async fn settle_prepared(room: &Room) {
    let gids: Vec<String> = sqlx::query_scalar(
        "select gid from pg_prepared_xacts where database = current_database() and gid like 'load-%'",
    )
    .fetch_all(&room.pool)
    .await
    .unwrap();
    for gid in gids {
        let sql = sqlx::AssertSqlSafe(format!("commit prepared '{gid}'"));
        sqlx::raw_sql(sql).execute(&room.pool).await.unwrap();
    }
}

struct Writer {
    number: u64,
    shared: Arc<Shared>,
    random: Random,
}

/// A transaction that failed: where, as far as its outcome is concerned.
enum Failed {
    Before(outbox::Error),
    AtCommit(sqlx::Error),
}

impl From<outbox::Error> for Failed {
    fn from(error: outbox::Error) -> Self {
        Self::Before(error)
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Before(error.into())
    }
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.shared.plan.rate as u32);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut session: Option<PgConnection> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = pace.tick() => {}
            }
            let mut connection = match session.take() {
                Some(connection) => connection,
                None => match PgConnection::connect_with(&self.shared.options).await {
                    Ok(connection) => connection,
                    Err(_) => continue,
                },
            };
            let intent = self.shared.journal.next_intent();
            let mut messages = Vec::new();
            let outcome = match self
                .transaction(&mut connection, intent, &mut messages)
                .await
            {
                Ok(outcome) => {
                    session = Some(connection);
                    outcome
                }
                Err(failed) => self.judge(&failed),
            };
            if outcome == Outcome::Committed {
                self.shared.committed.fetch_add(1, Ordering::Relaxed);
                let now = SystemTime::now();
                let mut committed_at = self.shared.committed_at.lock().unwrap();
                committed_at.extend(messages.iter().map(|message| (message.id, now)));
            }
            self.shared.journal.outcome(intent, outcome);
        }
    }

    /// A server that said no to a commit rolled back; a connection lost there may mean either.
    fn judge(&self, failed: &Failed) -> Outcome {
        let (error, at_commit) = match failed {
            Failed::Before(outbox::Error::Database(error)) => (error, false),
            Failed::Before(error) => panic!("a writer met {error}"),
            Failed::AtCommit(error) => (error, true),
        };
        let code = error.as_database_error().and_then(|error| error.code());
        let code = code.map_or("lost".to_owned(), |code| code.into_owned());
        let rolled_back = code.starts_with("40") || code.starts_with("25");
        *self.shared.errors.lock().unwrap().entry(code).or_default() += 1;
        match at_commit && !rolled_back {
            true => Outcome::Unknown,
            false => Outcome::Aborted,
        }
    }

    async fn transaction(
        &mut self,
        connection: &mut PgConnection,
        intent: i64,
        messages: &mut Vec<Enqueued>,
    ) -> Result<Outcome, Failed> {
        let plan = self.shared.plan.clone();
        let prepared = self.random.percent(plan.prepared);
        let begin = match self.random.percent(plan.isolated) {
            false => "begin",
            true if self.random.percent(50) => "begin isolation level repeatable read",
            true => "begin isolation level serializable",
        };
        let mut tx = connection.begin_with(begin).await?;
        let own = format!("own-{}", self.number);
        let lingers = self.random.percent(plan.lingering);
        if lingers || prepared {
            self.enqueue(&mut tx, &own, messages).await?;
        }
        // What is prepared may be stuck for a while: nobody else's key.
        let mut keys = match prepared {
            true => vec![],
            false => vec![self.random.within(0..plan.keys); 1 + usize::from(plan.deadlocking)],
        };
        if let Some(second) = keys.get_mut(1) {
            *second = self.random.within(0..plan.keys);
        }
        keys.dedup();
        for key in keys {
            self.enqueue(&mut tx, &format!("key-{key}"), messages)
                .await?;
        }
        if lingers {
            let seconds = self.random.within(0..12) as f64 / 1000.0;
            let pause = sqlx::query("select pg_sleep($1)").bind(seconds);
            pause.execute(&mut *tx).await?;
        }
        if self.random.percent(plan.savepoints) {
            let mut savepoint = tx.begin().await?;
            let never = self.message(&own, -1);
            outbox::enqueue(&mut savepoint, &never).await?;
            savepoint.rollback().await?;
        }
        sqlx::query("insert into business values ($1)")
            .bind(intent)
            .execute(&mut *tx)
            .await?;

        self.shared.journal.intent(intent, messages);
        let commits = !self.random.percent(plan.aborted);
        if prepared {
            let gid = format!("load-{}-{intent}", Uuid::now_v7().simple());
            let sql = sqlx::AssertSqlSafe(format!("prepare transaction '{gid}'"));
            let done = sqlx::raw_sql(sql).execute(&mut *tx).await;
            done.map_err(Failed::AtCommit)?;
            // There is no transaction any more; this only tells the driver.
            tx.rollback().await.map_err(Failed::AtCommit)?;
            let verb = if commits { "commit" } else { "rollback" };
            let sql = sqlx::AssertSqlSafe(format!("{verb} prepared '{gid}'"));
            let done = sqlx::raw_sql(sql).execute(&mut *connection).await;
            done.map_err(Failed::AtCommit)?;
        } else if commits {
            tx.commit().await.map_err(Failed::AtCommit)?;
        } else {
            tx.rollback().await?;
        }
        Ok(match commits {
            true => Outcome::Committed,
            false => Outcome::Aborted,
        })
    }

    /// Takes the key's next number under its lock and enqueues a message with it.
    async fn enqueue(
        &self,
        tx: &mut PgTransaction<'_>,
        key: &str,
        messages: &mut Vec<Enqueued>,
    ) -> Result<(), Failed> {
        let n = next_number(tx, key).await?;
        let message = self.message(key, n);
        let key = key.to_owned();
        messages.push(Enqueued {
            id: message.id,
            key,
            n,
        });
        outbox::enqueue(tx, &message).await?;
        Ok(())
    }

    fn message(&self, key: &str, n: i64) -> outbox::Message {
        let topics = &self.shared.topics;
        let topic = key.bytes().map(usize::from).sum::<usize>() % topics.len();
        outbox::Message::new(&topics[topic], key, &Counted { n }).unwrap()
    }
}
