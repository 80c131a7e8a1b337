//! `recompense`: the framework's command line, for the person on call.

mod arguments;
mod audit;
mod connect;
mod inbox;
mod migrate;
mod outbox;
mod parked;
mod print;
mod saga;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::arguments::Usage;

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
    /// Looks into an outbox, and asks things of it.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Looks at what consumers could not handle, and asks for it again.
    #[command(subcommand)]
    Inbox(inbox::Command),
    /// Looks at sagas, and intervenes in them, through the service that steers them.
    #[command(subcommand)]
    Saga(saga::Command),
    /// What people did to a database's outbox, inbox and sagas, the newest first.
    Audit(audit::Arguments),
    /// Makes tokens for those who call services.
    #[command(subcommand)]
    Token(token::Command),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Arguments = chassis::config::parse();
    let result = match arguments.command {
        Command::Migrate(arguments) => migrate::run(arguments).await.map(|()| ExitCode::SUCCESS),
        Command::Outbox(command) => outbox::run(command).await,
        Command::Inbox(command) => inbox::run(command).await,
        Command::Saga(command) => saga::run(command).await,
        Command::Audit(arguments) => audit::run(arguments).await,
        Command::Token(command) => token::run(command).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(status) => status,
        // Whoever read our output has seen enough.
        Err(error) if print::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.is::<Usage>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}
