//! `recompense inbox`: what consumers could not handle.
//!
//! Exit status as with `recompense outbox`.

mod parked;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::arguments::explain;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What could not be handled: list, show, replay, discard.
    #[command(subcommand)]
    Parked(crate::sides::Command<parked::Which>),
}

/// Runs a command and says what to exit with.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    let Command::Parked(command) = command;
    let done = crate::sides::run(command).await;
    done.map_err(|error| explain(error, "consumer or owner"))
}
