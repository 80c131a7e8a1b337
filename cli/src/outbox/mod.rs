//! `recompense outbox`: the drawer of the person on call. What is printed comes from `outbox::operator`.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage, 3 the doctor found problems or `--wait` was in vain. Results
//! go to stdout; errors are one line on stderr.

mod doctor;
mod lag;
mod parked;
mod pause;
mod rebase;
mod replay;
mod status;
mod tail;
mod topics;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::arguments::{Author, Common, explain};

pub(crate) use doctor::Arguments as Doctor;
pub(crate) use replay::since;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who relays, what waits, what is parked, how full the ring is.
    Status(status::Arguments),
    /// Counts exactly what the broker has not acknowledged, by topic.
    Lag(lag::Arguments),
    /// The newest messages, and with --follow those to come.
    Tail(tail::Arguments),
    /// What was not sent: list, show, replay, discard.
    #[command(subcommand)]
    Parked(crate::sides::Command<parked::Which>),
    /// Enqueues messages that the log still holds once more.
    Replay(replay::Arguments),
    /// Makes the cursor anew in a database that was restored from a dump, and sends what may not have been sent.
    Rebase(rebase::Arguments),
    /// The topics that services declared, with what `enqueue` lets pass and what the broker takes.
    Topics(topics::Arguments),
    /// Keeps the relay from sending, until `resume`.
    Pause(pause::PauseArguments),
    /// Lets the relay go on.
    Resume(pause::ResumeArguments),
    /// Looks everything over and says what mends it. Exits with 3 when there is a problem.
    Doctor(doctor::Arguments),
}

/// Runs a command and says what to exit with.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    let roles = match command {
        // They count what is parked in the inbox too.
        Command::Status(_) | Command::Doctor(_) | Command::Lag(_) => "reader or owner",
        // It reads the log, which producers may not, and appends to it, which relays may not.
        Command::Replay(_) => "owner",
        _ => "relay or owner",
    };
    let done = match command {
        Command::Status(arguments) => status::run(arguments).await,
        Command::Lag(arguments) => lag::run(arguments).await,
        Command::Tail(arguments) => tail::run(arguments).await,
        Command::Parked(command) => crate::sides::run(command).await,
        Command::Replay(arguments) => replay::run(arguments).await,
        Command::Rebase(arguments) => rebase::run(arguments).await,
        Command::Topics(arguments) => topics::run(arguments).await,
        Command::Pause(arguments) => pause::pause(arguments).await,
        Command::Resume(arguments) => pause::resume(arguments).await,
        Command::Doctor(arguments) => doctor::run(arguments).await,
    };
    done.map_err(|error| explain(error, roles))
}
