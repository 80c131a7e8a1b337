//! The servers under the measurements.

use std::sync::Arc;

use anyhow::Result;
use outbox::broker::{Broker, Kafka, Topic};
use sqlx::PgPool;
use testbed::{Database, postgres};
use uuid::Uuid;

/// Real servers, durable.
pub(crate) struct World {
    postgres: testbed::Postgres,
    kafka: testbed::Kafka,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) versions: String,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let options = postgres::Options {
            durable: true,
            ..Default::default()
        };
        let postgres = testbed::Postgres::start_with(options).await?;
        // With its quick compiler only: the optimizing one was the largest single user of processor
        // time (28 % of two cores, by perf) in the first half minute of a fresh broker.
        let kafka = testbed::Kafka::start().await?;
        let broker = Arc::new(Kafka::new(kafka.bootstrap())?);
        let pool = Database::fresh_on(&postgres, "version")
            .await?
            .pool(1)
            .await?;
        let versions = sqlx::query_scalar("select version()")
            .fetch_one(&pool)
            .await?;
        Ok(Self {
            postgres,
            kafka,
            broker,
            versions,
        })
    }

    /// A database with the outbox and a domain table.
    pub(crate) async fn database(&self, name: &str) -> Result<(Database, PgPool)> {
        let database = Database::fresh_on(&self.postgres, name).await?;
        let pool = database.pool(40).await?;
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
