//! `recompense migrate status`.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    arguments::Common,
    migrate::schema::{Schema, Standing, Status, given_or_there},
    print::{self, Table},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Only this schema; give it again for each further one. Without it, those that the database has.
    #[arg(long = "schema", value_name = "SCHEMA")]
    schemas: Vec<Schema>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let mut connection = pool.acquire().await?;
    let schemas = given_or_there(&mut connection, &arguments.schemas).await?;
    let status = Status::of(&mut connection, &schemas).await?;
    match arguments.common.is_json() {
        true => print::json(&status)?,
        false => show(&status.migrations)?,
    }
    Ok(match status.up_to_date {
        true => ExitCode::SUCCESS,
        false => print::found_problems(),
    })
}

fn show(migrations: &[Standing]) -> Result<()> {
    let mut table = Table::new(["schema", "version", "state", "applied", "description"]);
    for standing in migrations {
        table.row([
            standing.schema.clone(),
            format!("{:04}", standing.version),
            standing.state.word().to_owned(),
            standing
                .applied_at
                .map_or_else(String::new, |at| at.to_string()),
            standing.description.clone(),
        ]);
    }
    print::table(&table)
}
