//! `recompense migrate`: one schema at a time, each with a history of its own.

use anyhow::{Context, Result, ensure};
use chassis::config::DatabaseUrl;
use clap::ValueEnum;
use sqlx::{PgPool, migrate::Migrator};

use crate::connect::connect_with;

/// What to migrate, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The database: `postgres://user:password@host:port/database`. Never printed.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: DatabaseUrl,

    /// A schema to bring up to date; give it again for each further one. They are done in the
    /// order given.
    #[arg(long = "schema", value_name = "SCHEMA", required = true)]
    schemas: Vec<Schema>,

    /// How many numbers a partition of the outbox's ring has, as a power of two. The log keeps two to four
    /// partitions of published messages for replay. Chosen when the schema is made, and only then.
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(i32).range(8..=30))]
    partition_bits: Option<i32>,

    /// After that, make the group roles PREFIX_owner, PREFIX_producer, PREFIX_relay, PREFIX_consumer and
    /// PREFIX_reader where they are missing, and give each what it needs in the schema `outbox`, which
    /// PREFIX_owner owns from then on. Needs CREATEROLE and the schema's owner, or a superuser. To be
    /// repeated with every migration.
    #[arg(long, value_name = "PREFIX")]
    roles: Option<String>,
}

/// The schemas, each with one owner: a crate of the framework or a service of the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Schema {
    /// The log, the relay's lease and cursor, the inbox.
    Outbox,
    /// Sagas and their history, timers, the participant's barrier.
    Saga,
    /// The shop's orders.
    Orders,
    /// The shop's payments and ledger.
    Payments,
    /// The shop's deliveries.
    Deliveries,
    /// The shop's notifications.
    Notifications,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    ensure!(
        arguments.partition_bits.is_none() || arguments.schemas.contains(&Schema::Outbox),
        "--partition-bits is for --schema outbox"
    );
    let bits = arguments.partition_bits.map(|bits| bits.to_string());
    let settings = bits
        .as_ref()
        .map(|bits| (outbox::PARTITION_BITS, bits.as_str()));
    let url = &arguments.database_url;
    let pool = connect_with(url, "recompense migrate", 1, settings.as_slice()).await?;
    for schema in arguments.schemas {
        let name = name(schema);
        schema.migrate(&pool).await.with_context(|| {
            format!("schema {name} was not migrated; nothing of the failed migration was kept")
        })?;
        if let Some(wanted) = arguments.partition_bits
            && matches!(schema, Schema::Outbox)
        {
            let chosen = outbox::partition_bits(&pool).await?;
            ensure!(
                chosen == wanted,
                "the outbox was made with --partition-bits {chosen}, which cannot be changed any more"
            );
        }
        println!("{name}: up to date");
    }
    if let Some(prefix) = arguments.roles {
        outbox::make_roles(&pool, &prefix)
            .await
            .context("the roles were not made; the schema outbox must be there, see --roles")?;
        println!("{prefix}_owner, _producer, _relay, _consumer, _reader: up to date");
    }
    Ok(())
}

impl Schema {
    async fn migrate(self, pool: &PgPool) -> Result<()> {
        // The shop's folders are compiled in here once more, so that this crate need not depend on
        // the services.
        let migrator = match self {
            Schema::Outbox => return Ok(outbox::migrate(pool).await?),
            Schema::Saga => return Ok(saga::migrate(pool).await?),
            Schema::Orders => sqlx::migrate!("../migrations/orders"),
            Schema::Payments => sqlx::migrate!("../migrations/payments"),
            Schema::Deliveries => sqlx::migrate!("../migrations/deliveries"),
            Schema::Notifications => sqlx::migrate!("../migrations/notifications"),
        };
        let schema = name(self);
        Ok(of_schema(migrator, &schema).run(pool).await?)
    }
}

/// Keeps the history beside the tables, as the services' own `sqlx.toml` does.
fn of_schema(mut migrator: Migrator, schema: &str) -> Migrator {
    migrator.create_schema(schema.to_owned());
    migrator.dangerous_set_table_name(format!("{schema}._sqlx_migrations"));
    migrator
}

fn name(schema: Schema) -> String {
    // Every variant has a name: none is skipped.
    schema
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
