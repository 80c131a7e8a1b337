//! `recompense saga`: sagas, for the person on call.
//!
//! What may be done to a saga only its definition knows, and that only the service has: so all of
//! this asks the service over HTTP. Exit status as with `recompense outbox`; 3 is `--wait` in vain.

mod filters;

mod act;
mod bulk;
mod follow;
mod look;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sagas, the newest first.
    #[command(visible_alias = "ls")]
    List(look::ListArguments),
    /// How many sagas there are, by status, definition or what they wait for.
    Count(look::CountArguments),
    /// One saga: where it stands, each step, what may be done.
    Show(look::OneArguments),
    /// A saga's history, and with --follow what comes, until it has ended.
    Events(look::EventsArguments),
    /// Each command and each reply, with its place in Kafka and its trace.
    Messages(look::PageArguments),
    /// A saga's definition as a picture, with the way it has taken.
    Graph(look::GraphArguments),
    /// What may be done to a saga now, and why not the rest.
    Allowed(look::OneArguments),
    /// Versions of definitions, with their sagas.
    Definitions(look::Arguments),
    /// What should not have happened.
    Anomalies(look::AnomaliesArguments),
    /// Resources that sagas hold or wait for.
    Locks(look::LocksArguments),
    /// Lets a saga send nothing until it is resumed.
    Pause(act::Arguments),
    /// Lets a paused saga go on.
    Resume(act::Arguments),
    /// Turns a saga back, as long as there is a way.
    Cancel(act::Arguments),
    /// Does now what a saga waits to do again; if it is parked, the same operation once more.
    Retry(act::RetryArguments),
    /// Takes a step for done: somebody did it by hand.
    Complete(act::CompleteArguments),
    /// Takes a step for undone: somebody did it by hand, or lives with it.
    Skip(act::SkipArguments),
    /// Gives a saga up as it is. What took effect stays.
    Abandon(act::Arguments),
    /// Brings a saga to another version of its definition.
    Migrate(act::MigrateArguments),
    /// One of these for many sagas.
    #[command(subcommand)]
    Bulk(bulk::Command),
}

/// Runs a command and says what to exit with.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => look::list(arguments).await,
        Command::Count(arguments) => look::count(arguments).await,
        Command::Show(arguments) => look::show(arguments).await,
        Command::Events(arguments) => look::events(arguments).await,
        Command::Messages(arguments) => look::messages(arguments).await,
        Command::Graph(arguments) => look::graph(arguments).await,
        Command::Allowed(arguments) => look::allowed(arguments).await,
        Command::Definitions(arguments) => look::definitions(arguments).await,
        Command::Anomalies(arguments) => look::anomalies(arguments).await,
        Command::Locks(arguments) => look::locks(arguments).await,
        Command::Pause(arguments) => act::plain("pause", arguments).await,
        Command::Resume(arguments) => act::plain("resume", arguments).await,
        Command::Cancel(arguments) => act::plain("cancel", arguments).await,
        Command::Abandon(arguments) => act::plain("abandon", arguments).await,
        Command::Retry(arguments) => act::retry(arguments).await,
        Command::Complete(arguments) => act::complete(arguments).await,
        Command::Skip(arguments) => act::skip(arguments).await,
        Command::Migrate(arguments) => act::migrate(arguments).await,
        Command::Bulk(command) => bulk::run(command).await,
    }?;
    Ok(ExitCode::SUCCESS)
}
