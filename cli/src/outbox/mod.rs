//! `recompense outbox`: the drawer of the person on call. What is printed comes from `outbox::operator`.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage, 3 the doctor found problems. Results go to stdout; errors
//! are one line on stderr.

mod doctor;
mod lag;
mod parked;
mod pause;
mod rebase;
mod replay;
mod status;
mod tail;

use std::process::ExitCode;

use anyhow::{Error, Result};
use chassis::config::DatabaseUrl;
use clap::Subcommand;
use sqlx::PgPool;

use crate::{connect::connect, print::Output};

/// A look needs one connection, a replay of the log two.
const CONNECTIONS: u32 = 3;

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
    Parked(parked::Command),
    /// Enqueues messages that the log still holds once more.
    Replay(replay::Arguments),
    /// Makes the cursor anew in a database that was restored from a dump, and sends what may not have been sent.
    Rebase(rebase::Arguments),
    /// Keeps the relay from sending, until `resume`.
    Pause(pause::PauseArguments),
    /// Lets the relay go on.
    Resume(pause::ResumeArguments),
    /// Looks everything over and says what mends it. Exits with 3 when there is a problem.
    Doctor(doctor::Arguments),
}

/// What every command needs.
#[derive(Debug, clap::Args)]
struct Common {
    /// The database: `postgres://user:password@host:port/database`. Never printed.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: DatabaseUrl,

    /// How to print results.
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

impl Common {
    async fn connect(&self) -> Result<PgPool> {
        connect(&self.database_url, "recompense outbox", CONNECTIONS).await
    }

    fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Who asks, for those who read it later.
#[derive(Debug, clap::Args)]
struct Author {
    /// Who asks; noted with the request.
    #[arg(long, env = "USER", default_value = "recompense", value_name = "NAME")]
    by: String,
}

/// Runs a command and says what to exit with.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    let done = match command {
        Command::Status(arguments) => status::run(arguments).await,
        Command::Lag(arguments) => lag::run(arguments).await,
        Command::Tail(arguments) => tail::run(arguments).await,
        Command::Parked(command) => parked::run(command).await,
        Command::Replay(arguments) => replay::run(arguments).await,
        Command::Rebase(arguments) => rebase::run(arguments).await,
        Command::Pause(arguments) => pause::pause(arguments).await,
        Command::Resume(arguments) => pause::resume(arguments).await,
        Command::Doctor(arguments) => doctor::run(arguments).await,
    };
    done.map_err(explain)
}

/// Says what to do about the failures that everybody meets.
fn explain(error: Error) -> Error {
    let code = match error.downcast_ref::<::outbox::Error>() {
        Some(::outbox::Error::Database(sqlx::Error::Database(error))) => error.code(),
        _ => None,
    };
    let hint = match code.as_deref() {
        // undefined_table, invalid_schema_name, undefined_column, undefined_function
        Some("42P01" | "3F000" | "42703" | "42883") => {
            "this database has no schema outbox, or an older one; run recompense migrate --schema outbox"
        }
        // insufficient_privilege
        Some("42501") => {
            "this user may not do that; connect as a member of the outbox's relay or owner role"
        }
        _ => return error,
    };
    error.context(hint)
}
