//! `recompense migrate up`.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use chassis::config::DatabaseUrl;

use crate::{
    connect::connect_with,
    migrate::schema::{Schema, Status},
    print::{self, Output},
    usage::Usage,
};

/// What to migrate, and where.
#[derive(Debug, clap::Args)]
#[group(id = "up")]
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

    /// How to print results.
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    if arguments.partition_bits.is_some() && !arguments.schemas.contains(&Schema::Outbox) {
        return Err(Usage::new("--partition-bits is for --schema outbox").into());
    }
    let bits = arguments.partition_bits.map(|bits| bits.to_string());
    let settings = bits
        .as_ref()
        .map(|bits| (outbox::PARTITION_BITS, bits.as_str()));
    let url = &arguments.database_url;
    let pool = connect_with(url, "recompense migrate", 1, settings.as_slice()).await?;
    let json = arguments.output == Output::Json;
    for schema in &arguments.schemas {
        let name = schema.name();
        schema.migrate(&pool).await.with_context(|| {
            format!("schema {name} was not migrated; nothing of the failed migration was kept")
        })?;
        if let Some(wanted) = arguments.partition_bits
            && *schema == Schema::Outbox
        {
            let chosen = outbox::partition_bits(&pool).await?;
            ensure!(
                chosen == wanted,
                "the outbox was made with --partition-bits {chosen}, which cannot be changed any more"
            );
        }
        if !json {
            print::lines(&[format!("{name}: up to date")])?;
        }
    }
    if let Some(prefix) = arguments.roles {
        outbox::make_roles(&pool, &prefix)
            .await
            .context("the roles were not made; the schema outbox must be there, see --roles")?;
        if !json {
            let made = "_owner, _producer, _relay, _consumer, _reader: up to date";
            print::lines(&[format!("{prefix}{made}")])?;
        }
    }
    if json {
        let mut connection = pool.acquire().await?;
        print::json(&Status::of(&mut connection, &arguments.schemas).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}
