//! `recompense migrate`: one schema at a time, each with a history of its own.

mod table;

mod schema;

mod script;
mod status;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::usage::Usage;

/// Without a subcommand `migrate` is `migrate up`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    up: Option<up::Arguments>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings schemas up to date. Safe to repeat, and to run twice at once.
    Up(up::Arguments),
    /// Lists each schema's migrations: when they were applied, which are pending, which were changed since.
    /// Exits with 3 if any is pending or changed.
    Status(status::Arguments),
    /// Prints what `up` would run, for psql: what is pending, or with --all everything.
    Sql(script::Arguments),
}

/// Runs a command and says what to exit with.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Some(Command::Up(arguments)) => up::run(arguments).await,
        Some(Command::Status(arguments)) => status::run(arguments).await,
        Some(Command::Sql(arguments)) => script::run(arguments).await,
        None => {
            let up = arguments.up;
            up::run(up.ok_or(Usage::new("say what to migrate; see --help"))?).await
        }
    }
}
