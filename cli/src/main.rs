//! `recompense`: the framework's command line, for the person on call.

mod migrate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Works on the databases of services built with Recompense.
#[derive(Debug, Parser)]
#[command(name = "recompense", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings schemas of a database up to date. Safe to repeat, and to run twice at once.
    Migrate(migrate::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Arguments = chassis::config::parse();
    let result = match arguments.command {
        Command::Migrate(arguments) => migrate::run(arguments).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
