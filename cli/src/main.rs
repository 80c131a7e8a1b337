//! `recompense`: the framework's command line, for the person on call.

mod arguments;
mod audit;
mod completions;
mod connect;
mod inbox;
mod migrate;
mod outbox;
mod parked;
mod print;
mod progress;
mod saga;
mod service;
mod sides;
mod sse;
mod token;
mod top;
mod usage;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{usage::Usage, wait::TimedOut};

/// Works on the databases of services built with Recompense.
#[derive(Debug, Parser)]
#[command(name = "recompense", version, after_help = EXIT_STATUS)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 refused or failed, also where there is no connection; 2 wrong arguments; \
3 `--wait` took longer than --timeout, `doctor` found a problem, or `migrate status` something pending or changed.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings schemas of a database up to date, or says what that would do.
    Migrate(Box<migrate::Arguments>),
    /// Looks into an outbox, and asks things of it.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Looks an outbox over and says what mends it, as `outbox doctor`. Exits with 3 when there is a problem.
    Doctor(outbox::Doctor),
    /// Looks at what consumers could not handle, and asks for it again.
    #[command(subcommand)]
    Inbox(inbox::Command),
    /// Looks at sagas, and intervenes in them, through the service that steers them.
    #[command(subcommand)]
    Saga(saga::Command),
    /// Looks at what a service could not send or handle, and asks for it again, through that service.
    #[command(subcommand)]
    Parked(parked::Command),
    /// What people did to a database's outbox, inbox and sagas, the newest first.
    Audit(audit::Arguments),
    /// Makes tokens for those who call services.
    #[command(subcommand)]
    Token(token::Command),
    /// How it is going, live: sagas, outbox, what is parked and what should not have happened.
    Top(top::Arguments),
    /// Prints a script that completes these commands in a shell.
    Completions(completions::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Arguments = chassis::config::parse();
    let result = match arguments.command {
        Command::Migrate(arguments) => migrate::run(*arguments).await,
        Command::Outbox(command) => outbox::run(command).await,
        Command::Doctor(arguments) => outbox::run(outbox::Command::Doctor(arguments)).await,
        Command::Inbox(command) => inbox::run(command).await,
        Command::Saga(command) => saga::run(command).await,
        Command::Parked(command) => parked::run(command).await,
        Command::Audit(arguments) => audit::run(arguments).await,
        Command::Token(command) => token::run(command).map(|()| ExitCode::SUCCESS),
        Command::Top(arguments) => top::run(arguments).await,
        Command::Completions(arguments) => {
            let done = completions::run(&arguments, Arguments::command());
            done.map(|()| ExitCode::SUCCESS)
        }
    };
    match result {
        Ok(status) => status,
        // Whoever read our output has seen enough.
        Err(error) if print::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // A part of it may be somebody else's words: a participant's, a client's.
            eprintln!("error: {}", print::printable_lines(&format!("{error:#}")));
            match () {
                () if error.is::<Usage>() => ExitCode::from(2),
                () if error.is::<TimedOut>() => ExitCode::from(3),
                () => ExitCode::FAILURE,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_make_sense_together() {
        Arguments::command().debug_assert();
    }
}
