//! A database with an outbox, and the program.

use std::{ffi::OsStr, fmt::Debug, process::Stdio, time::Duration};

use outbox::{
    Message, Payload, Relay,
    broker::{Broker, Kafka, Topic},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use testbed::{Database, Postgres};
use tokio::{process::Command, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Long enough for a starved machine; what is waited for ends the wait.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// The password in every URL, and the words of every payload. Nobody may see the one, and nobody who does not ask
/// the other.
pub(crate) const SECRET: &str = "c4nary";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) n: i64,
    pub(crate) word: String,
}

impl Payload for Counted {
    const KIND: &'static str = "test.counted.v1";
}

pub(crate) struct Room {
    pub(crate) database: Database,
    pub(crate) pool: PgPool,
    pub(crate) url: String,
}

/// What became of a run.
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Room {
    /// Without a schema.
    pub(crate) async fn empty(name: &str) -> Self {
        Self::of(Database::fresh(&format!("cli_{name}")).await).await
    }

    /// On a server of its own, with nothing to complain of.
    pub(crate) async fn on(server: &Postgres, name: &str) -> Self {
        let room = Self::of(Database::fresh_on(server, name).await.unwrap()).await;
        outbox::migrate(&room.pool).await.unwrap();
        room
    }

    async fn of(database: Database) -> Self {
        let pool = database.pool(10).await.unwrap();
        let url = secret_url(&database.url, "postgres");
        Self {
            database,
            pool,
            url,
        }
    }

    pub(crate) async fn new(name: &str) -> Self {
        let room = Self::empty(name).await;
        outbox::migrate(&room.pool).await.unwrap();
        room
    }

    pub(crate) async fn run(&self, sql: impl Into<String>) {
        let sql = sql.into();
        let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&self.pool);
        done.await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Enqueues one message a number, in one transaction.
    pub(crate) async fn send(
        &self,
        topic: &str,
        key: &str,
        numbers: impl IntoIterator<Item = i64>,
    ) {
        let message = |n| {
            let word = SECRET.to_owned();
            Message::new(topic, key, &Counted { n, word }).unwrap()
        };
        let messages: Vec<_> = numbers.into_iter().map(message).collect();
        let mut tx = self.pool.begin().await.unwrap();
        outbox::enqueue_all(&mut tx, &messages).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Runs `recompense …` on this database.
    pub(crate) async fn recompense<A: AsRef<OsStr> + Debug>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Ran {
        recompense(&self.url, arguments).await
    }

    /// Its output, which is all that it says.
    pub(crate) async fn says(&self, arguments: &str) -> String {
        let ran = self.recompense(arguments.split_whitespace()).await;
        assert_eq!(ran.status, Some(0), "{arguments}: {}", ran.stderr);
        assert_eq!(ran.stderr, "", "{arguments}");
        ran.stdout
    }

    /// The same as JSON.
    pub(crate) async fn json(&self, arguments: &str) -> Value {
        let text = self.says(&format!("{arguments} --output json")).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments}: {error}: {text}"))
    }

    /// It fails with this status, says this in one line, and nothing else.
    pub(crate) async fn refuses(&self, arguments: &str, status: i32, says: &str) {
        let ran = self.recompense(arguments.split_whitespace()).await;
        ran.is_refusal(arguments, status, says);
    }

    /// A relay for this database.
    pub(crate) fn relay(&self, broker: &Kafka) -> Running {
        let broker = std::sync::Arc::new(broker.clone());
        let relay = Relay::new(self.database.options().unwrap(), broker, Default::default());
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { relay.run(token).await });
        Running { shutdown, task }
    }
}

impl Ran {
    pub(crate) fn is_refusal(&self, arguments: &str, status: i32, says: &str) {
        let stderr = &self.stderr;
        assert_eq!(self.status, Some(status), "{arguments}: {stderr}");
        assert_eq!(self.stdout, "", "{arguments}");
        assert_eq!(stderr.lines().count(), 1, "{arguments}: {stderr}");
        assert!(stderr.starts_with("error: "), "{arguments}: {stderr}");
        assert!(stderr.contains(says), "{arguments}: {stderr}");
    }
}

/// Runs the program to its end. It sees no environment but the URL, and no terminal.
pub(crate) async fn recompense<A: AsRef<OsStr> + Debug>(
    url: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Ran {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let mut command = command(url);
    command.args(&arguments).stdin(Stdio::null());
    let output = timeout(SOON, command.output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran {
        status: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    let asked = arguments
        .iter()
        .any(|argument| argument.as_ref() == "--payload");
    assert!(
        (asked || !ran.stdout.contains(SECRET)) && !ran.stderr.contains(SECRET),
        "{arguments:?} tells a secret"
    );
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    ran
}

pub(crate) fn command(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recompense"));
    command.env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", url).env("USER", "ann");
    command
}

/// The URL with another user, and a password that the server does not ask for.
pub(crate) fn secret_url(url: &str, user: &str) -> String {
    let (_, place) = url.split_once('@').unwrap();
    format!("postgres://{user}:{SECRET}@{place}")
}

/// The real broker, with a topic of its own.
pub(crate) async fn kafka(name: &str, partitions: u16) -> (Kafka, String) {
    let kafka = Kafka::new(testbed::kafka().await.bootstrap()).unwrap();
    let topic = format!("cli.{name}.{}", Uuid::now_v7().simple());
    let topics = [Topic::new(&topic, partitions)];
    kafka.ensure_topics(&topics).await.unwrap();
    (kafka, topic)
}

/// The cells below a heading, of a table that begins with the first line that has it.
pub(crate) fn column(text: &str, heading: &str) -> Vec<String> {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.split("  ").any(|cell| cell.trim() == heading));
    let head: Vec<char> = lines.next().unwrap_or_default().chars().collect();
    let starts: Vec<_> = (0..head.len())
        .filter(|at| {
            let gap = *at >= 2 && head[at - 1] == ' ' && head[at - 2] == ' ';
            head[*at] != ' ' && (*at == 0 || gap)
        })
        .collect();
    let name = |at: usize| head[at..].iter().collect::<String>();
    let is_it = |at: &&usize| name(**at).split("  ").next() == Some(heading);
    let start = *starts
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no column {heading}:\n{text}"));
    let end = starts.iter().find(|at| **at > start);
    let width = end.map_or(usize::MAX, |end| end - start);
    let cell = |line: &str| line.chars().skip(start).take(width).collect::<String>();
    lines.map(|line| cell(line).trim().to_owned()).collect()
}

/// What a line of facts says.
pub(crate) fn fact<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name:12} ")));
    let line = line.unwrap_or_else(|| panic!("no line {name}:\n{text}"));
    line[13..].trim()
}

/// Something that runs beside the program until it is stopped.
pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), outbox::Error>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}
