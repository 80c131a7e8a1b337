//! `testbed`: real servers around one command, or the whole shop in the background.

mod down;
mod prepare;
mod record;
mod run;
mod trials;
mod up;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Real PostgreSQL and Kafka, for tests and for people.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start Postgres and Kafka, run a command with TESTBED_POSTGRES_URL and TESTBED_KAFKA set, stop them, exit as it did.
    Run {
        /// The command and its arguments, after `--`.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Print the table that the long fault trials left.
    Trials,
    /// Describe the checked SQL queries into .sqlx/, after a change of a query or a migration.
    Prepare,
    /// Start Postgres, Kafka and the whole shop, and leave them running in the background.
    Up {
        /// Where logs and the `env` file go [default: the workspace's target/up].
        #[arg(long)]
        folder: Option<PathBuf>,
        /// How long a saga's step may take.
        #[arg(long, default_value = "5s")]
        step_timeout: String,
        /// Start a second order-service behind the gateway, on port 8181.
        #[arg(long)]
        second_order_service: bool,
    },
    /// Stop what `up` started.
    Down {
        /// The folder that `up` was given.
        #[arg(long)]
        folder: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Action::Run { command } => run::run(&command).await,
        Action::Trials => trials::trials(),
        Action::Prepare => prepare::prepare().await,
        Action::Up {
            folder,
            step_timeout,
            second_order_service,
        } => {
            let wanted = up::Wanted {
                step_timeout,
                second_order_service,
            };
            up::up(&folder_or_default(folder), wanted).await
        }
        Action::Down { folder } => down::down(&folder_or_default(folder)).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("testbed: {error:#}");
        ExitCode::FAILURE
    })
}

fn folder_or_default(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| testbed::target_folder().join("up"))
}
