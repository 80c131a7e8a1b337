//! The servers under the measurements, and what is put into them.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use outbox::broker::{Broker, Kafka, Topic};
use sqlx::{Connection, PgConnection, PgPool};
use testbed::{Database, kafka, postgres};
use uuid::Uuid;

use crate::settings::Arguments;

/// Bytes of every payload.
pub(crate) const PAYLOAD: usize = 300;
/// The kind of every message.
pub(crate) const KIND: &str = "bench.placed.v1";

/// Real servers, durable.
pub(crate) struct World {
    postgres: testbed::Postgres,
    kafka: testbed::Kafka,
    pub(crate) broker: Arc<dyn Broker>,
}

impl World {
    pub(crate) async fn start(arguments: &Arguments) -> Result<Self> {
        let options = postgres::Options {
            durable: true,
            settings: arguments.postgres_settings(),
            ..Default::default()
        };
        let postgres = testbed::Postgres::start_with(options).await?;
        let options = kafka::Options {
            jvm: arguments.jvm(),
            settings: arguments.kafka.clone(),
            ..Default::default()
        };
        let kafka = testbed::Kafka::start_with(options).await?;
        let broker = Arc::new(Kafka::new(kafka.bootstrap())?);
        Ok(Self {
            postgres,
            kafka,
            broker,
        })
    }

    pub(crate) fn bootstrap(&self) -> &str {
        self.kafka.bootstrap()
    }

    /// The processes of PostgreSQL and Kafka, while they run.
    pub(crate) fn pids(&self) -> Option<(u32, u32)> {
        self.postgres.pid().zip(self.kafka.pid())
    }

    pub(crate) async fn postgres_version(&self) -> Result<String> {
        let mut connection = PgConnection::connect(&self.postgres.url("postgres")).await?;
        let version =
            sqlx::query_scalar("select 'PostgreSQL ' || current_setting('server_version')")
                .fetch_one(&mut connection)
                .await?;
        connection.close().await?;
        Ok(version)
    }

    /// A database with the outbox and a domain table.
    pub(crate) async fn database(&self, name: &str) -> Result<(Database, PgPool)> {
        let database = Database::fresh_on(&self.postgres, name).await?;
        let pool = database.pool(10).await?;
        outbox::migrate(&pool).await?;
        sqlx::raw_sql(
            "create table domain (
                 id uuid primary key, customer uuid not null, total bigint not null,
                 status text not null, created_at timestamptz not null default now()
             )",
        )
        .execute(&pool)
        .await?;
        Ok((database, pool))
    }

    /// Throws a database away, so that its files do not wait for the next checkpoint.
    pub(crate) async fn discard(&self, database: Database, pool: PgPool) -> Result<()> {
        pool.close().await;
        self.postgres.drop_database(&database.name).await
    }

    /// A topic of its own, of four partitions.
    pub(crate) async fn topic(&self, name: &str) -> Result<String> {
        let topic = format!("{name}.{}", Uuid::now_v7().simple());
        self.broker
            .ensure_topics(&[Topic::new(topic.clone(), 4)])
            .await?;
        Ok(topic)
    }

    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.kafka.stop().await?;
        self.postgres.stop().await
    }
}

/// A thousand payloads as different from each other as real ones: records of one repeated letter
/// would compress to nothing.
pub(crate) fn payloads() -> Vec<Vec<u8>> {
    let payload = |n| {
        let mut text = format!(
            r#"{{"order_id":"{}","customer_id":"{}","total":{},"currency":"EUR","lines":["#,
            Uuid::now_v7(),
            Uuid::now_v7(),
            n * 37 % 100_000,
        );
        while text.len() < PAYLOAD - 40 {
            let article = Uuid::now_v7().simple().to_string();
            text.push_str(&format!(r#"{{"sku":"{}","n":{}}},"#, &article[20..], n % 7));
        }
        text.push_str(r#"{"sku":"last"}],"note":""#);
        while text.len() < PAYLOAD - 2 {
            text.push('.');
        }
        text.push_str("\"}");
        text.into_bytes()
    };
    (0..1_000).map(payload).collect()
}

/// Puts rows into the log as a busy service leaves them, only faster: in transactions of a hundred
/// messages, each over the ten thousand keys in turn.
pub(crate) async fn fill(pool: &PgPool, topic: &str, rows: i64) -> Result<()> {
    sqlx::raw_sql(
        "create procedure fill(topic text, payloads bytea[], rows bigint) language plpgsql as $$
         begin
             set synchronous_commit = off;
             for batch in 0 .. rows / 100 - 1 loop
                 insert into outbox.log (message_id, topic, key, kind, payload)
                 select gen_random_uuid(), topic, 'key-' || (batch * 100 + i) % 10000,
                        'bench.placed.v1', payloads[1 + (batch * 100 + i) % 1000]
                 from generate_series(1, 100) as i;
                 commit;
             end loop;
             reset synchronous_commit;
         end $$",
    )
    .execute(pool)
    .await?;
    sqlx::query("call fill($1, $2, $3)")
        .bind(topic)
        .bind(payloads())
        .bind(rows)
        .execute(pool)
        .await?;
    // What the filling leaves to be written must not be written while something is measured.
    sqlx::raw_sql("drop procedure fill; checkpoint")
        .execute(pool)
        .await?;
    Ok(())
}

/// Whether everything in the log has been acknowledged.
pub(crate) async fn is_drained(pool: &PgPool) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "select pg_visible_in_snapshot(
                    (select xid from outbox.log order by seq desc limit 1), settled)
         from outbox.relay",
    )
    .fetch_one(pool)
    .await?)
}

/// The pause between two looks at something that is measured by looking.
pub(crate) const LOOK: Duration = Duration::from_millis(2);
