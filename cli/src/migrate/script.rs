//! `recompense migrate sql`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use chassis::config::DatabaseUrl;
use clap::ValueEnum;
use sqlx::Connection;

use crate::{
    connect::connect,
    migrate::{
        schema::{Schema, State, given_or_there},
        table,
    },
    print,
    usage::Usage,
};

/// Prints what `up` would run, with the lines that it would write into the histories, so that either can go
/// on where the other has been: `recompense migrate sql | psql -X -v ON_ERROR_STOP=1 "$DATABASE_URL"`.
///
/// Each migration is a transaction. Run it alone: two at once do no harm, but one of them fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The database: `postgres://user:password@host:port/database`. Never printed. Not needed with --all.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<DatabaseUrl>,

    /// Only this schema; give it again for each further one. Without it those that the database has.
    #[arg(long = "schema", value_name = "SCHEMA")]
    schemas: Vec<Schema>,

    /// Everything, whatever the database has: for a new one. Without --schema, every schema that is known.
    #[arg(long)]
    all: bool,

    /// As of `up`, for a new schema `outbox`.
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(i32).range(8..=30))]
    partition_bits: Option<i32>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pending = match arguments.all {
        true => everything(&arguments.schemas),
        false => pending(&arguments).await?,
    };
    let mut script = vec![r"\set ON_ERROR_STOP on".to_owned()];
    for (schema, versions) in &pending {
        let name = schema.name();
        if versions.is_empty() {
            script.push(format!("-- {name}: up to date"));
            continue;
        }
        script.push(format!("\n-- {name}\n"));
        script.push(table::make_history(&name, &schema.history()));
        if let Some(bits) = arguments
            .partition_bits
            .filter(|_| *schema == Schema::Outbox)
        {
            script.push(table::set(outbox::PARTITION_BITS, bits));
        }
        let migrations = schema.migrations().into_iter();
        for migration in migrations.filter(|migration| versions.contains(&migration.version)) {
            let (version, what) = (migration.version, &migration.description);
            script.push(format!("-- {name} {version:04}: {what}"));
            script.push(table::apply(&schema.history(), &migration));
        }
    }
    print::text(&script.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Schemas, each with the versions that are to be run.
type Pending = Vec<(Schema, Vec<i64>)>;

fn everything(given: &[Schema]) -> Pending {
    let all = match given {
        [] => Schema::value_variants(),
        given => given,
    };
    let versions = |schema: &Schema| {
        let migrations = schema.migrations().into_iter();
        migrations.map(|migration| migration.version).collect()
    };
    all.iter()
        .map(|schema| (*schema, versions(schema)))
        .collect()
}

/// What the database lacks. What `up` would refuse is refused here.
async fn pending(arguments: &Arguments) -> Result<Pending> {
    let Some(url) = &arguments.database_url else {
        return Err(Usage::new("say which database by --database-url, or --all").into());
    };
    let pool = connect(url, "recompense migrate", 1).await?;
    let mut connection = pool.acquire().await?;
    let mut pending = Pending::new();
    for schema in given_or_there(&mut connection, &arguments.schemas).await? {
        let stands = schema.stands(&mut connection).await?;
        let wrong = |state| ![State::Applied, State::Pending].contains(&state);
        if let Some(standing) = stands.iter().find(|standing| wrong(standing.state)) {
            bail!(
                "migration {} of schema {} is {}; see recompense migrate status",
                standing.version,
                standing.schema,
                standing.state.word()
            );
        }
        let open = stands
            .iter()
            .filter(|standing| standing.state == State::Pending);
        pending.push((schema, open.map(|standing| standing.version).collect()));
    }
    connection.detach().close().await?;
    Ok(pending)
}
