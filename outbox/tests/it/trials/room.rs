//! A database, topics, and relays as processes.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use sqlx::PgPool;
use testbed::{Database, Postgres, Process, free_port};
use uuid::Uuid;

use crate::world::SOON;

/// For what follows a crash of a server on a starved machine.
pub(crate) const HEALED: Duration = Duration::from_secs(60);

/// What the writers and readers of a trial write beside the outbox.
pub(crate) const TABLES: &str = "
    create table business (intent bigint primary key);
    create table counter (key text primary key, n bigint not null) with (fillfactor = 50);
    create table effect (message_id uuid not null)";

/// Where a trial takes place.
pub(crate) struct Room {
    pub(crate) database: Database,
    /// For questions, not for the load.
    pub(crate) pool: PgPool,
    pub(crate) bootstrap: String,
    pub(crate) topics: Vec<String>,
}

impl Room {
    /// On the shared servers: for faults of the relay and of writers.
    pub(crate) async fn shared(name: &str) -> Self {
        let kafka = testbed::kafka().await.bootstrap();
        Self::on(name, testbed::postgres().await, kafka).await
    }

    /// On servers of the trial's own, to hurt.
    pub(crate) async fn on(name: &str, postgres: &Postgres, bootstrap: &str) -> Self {
        let database = Database::fresh_on(postgres, name).await.unwrap();
        let pool = database.pool(4).await.unwrap();
        outbox::migrate(&pool).await.unwrap();
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        let room = Self {
            database,
            pool,
            bootstrap: bootstrap.to_owned(),
            topics: vec![format!("{name}.{}", Uuid::now_v7().simple())],
        };
        room.create_topic(&room.topics[0], 4, &[]).await;
        room
    }

    /// Creates a topic whose records carry the time at which the broker took them.
    pub(crate) async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime");
        let topic = settings
            .iter()
            .fold(topic, |topic, (name, value)| topic.set(name, value));
        let options = AdminOptions::new().operation_timeout(Some(SOON));
        let created = self.admin().create_topics([&topic], &options).await;
        created.unwrap().remove(0).unwrap();
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.create().unwrap()
    }

    /// A relay with a short lease, not started.
    pub(crate) fn relay(&self) -> Relay {
        self.relay_with(&[])
    }

    /// A relay with further environment variables, not started.
    pub(crate) fn relay_with(&self, environment: &[(&str, &str)]) -> Relay {
        let url = format!("http://127.0.0.1:{}", free_port());
        let settings = [
            ("DATABASE_URL", self.database.url.as_str()),
            ("KAFKA_BROKERS", &self.bootstrap),
            ("LISTEN", url.trim_start_matches("http://")),
            ("LEASE", "600ms"),
        ];
        let mut all: BTreeMap<_, _> = settings.into_iter().collect();
        all.extend(environment.iter().copied());
        let process = Process::new("relay").unwrap();
        let process = all
            .into_iter()
            .fold(process, |p, (name, value)| p.env(name, value));
        Relay { process, url }
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// The classes of what is parked, in order.
    pub(crate) async fn parked(&self) -> Vec<String> {
        let sql = "select class from outbox.parked order by seq";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    /// Lets the next number be the first of a partition further on.
    pub(crate) async fn jump_to_partition(&self, index: i64) {
        sqlx::query("select setval('outbox.log_seq', $1, false)")
            .bind(index << 20 | 1)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// Notes every write of the relay's row, so that a stale leader's would be seen.
    pub(crate) async fn audit(&self) {
        sqlx::raw_sql(
            "create table audit (id bigserial primary key, epoch bigint, owner text, target text);
             create function audit() returns trigger language plpgsql as $$
             begin
                 insert into audit (epoch, owner, target)
                 values (new.epoch, new.owner, new.target::text);
                 return null;
             end $$;
             create trigger audit after update on outbox.relay
             for each row execute function audit()",
        )
        .execute(&self.pool)
        .await
        .unwrap();
    }
}

/// A relay as a child process. Dropped, it is killed.
pub(crate) struct Relay {
    pub(crate) process: Process,
    pub(crate) url: String,
}

impl Relay {
    pub(crate) fn start(&mut self) {
        self.process.start().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid().expect("the relay runs")
    }

    /// Whether it holds the lease now.
    pub(crate) async fn leads(&self, room: &Room) -> bool {
        let Some(pid) = self.process.pid() else {
            return false;
        };
        let holder = outbox::outgoing::lease(&room.pool).await;
        let prefix = format!("{pid}-");
        holder.is_ok_and(|holder| holder.is_some_and(|holder| holder.owner.starts_with(&prefix)))
    }

    pub(crate) async fn wait_until_it_leads(&self, room: &Room) {
        testbed::until(HEALED, "the relay leads", async || {
            assert!(self.process.is_running(), "{}", self.process.output());
            self.leads(room).await.then_some(())
        })
        .await;
    }

    /// Waits until it leads or stands by.
    pub(crate) async fn wait_until_ready(&self) {
        self.process.wait_ready(&self.url).await.unwrap();
    }

    /// Waits until it has said `text` in its log.
    pub(crate) async fn wait_until_it_says(&self, text: &str) {
        testbed::until(HEALED, &format!("the relay says {text:?}"), async || {
            self.process.output().contains(text).then_some(())
        })
        .await;
    }

    pub(crate) fn signal(&self, name: &str) {
        testbed::signal(self.pid(), name).unwrap();
    }

    /// SIGTERM, and an orderly end.
    pub(crate) async fn stop(mut self) {
        let ended = self.process.terminate(SOON).await.unwrap();
        assert!(ended.success(), "the relay ended with {ended}");
    }

    /// The most memory it ever had, in MiB; `None` where the system does not say.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024)
    }
}
