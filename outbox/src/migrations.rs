//! Runs the migrations of a schema so that nobody waits behind them.
//!
//! A statement that waits for a table's lock makes everybody who comes later wait behind it, readers too.
//! So a migration waits two seconds for a lock at most, lets the others pass and tries again. What it does
//! once it has its locks may take as long as it takes: a service's statement timeout is not for it.

use std::time::Duration;

use sqlx::{
    PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{Instant, sleep};

use crate::{
    Error,
    fault::{self, Fault},
};

/// The settings of the migrations' own session, over those that its pool has.
const SETTINGS: [(&str, &str); 3] = [
    ("lock_timeout", "2s"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];
/// How long others may pass before the lock is asked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long a lock is asked for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Applies the migrations that are missing, on a connection of its own. A process that finds another one
/// at it waits until that is done.
///
/// # Errors
///
/// [`Error::Database`] when the database is away, [`Error::Migrate`] when it has another history than these
/// migrations, when one fails, or when a lock was not free for five minutes.
pub async fn run_migrations(pool: &PgPool, migrator: &Migrator) -> Result<(), Error> {
    let options = PgConnectOptions::clone(&pool.connect_options()).options(SETTINGS);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let connection = PgPoolOptions::new().max_connections(1);
        let connection = connection.connect_with(options.clone()).await?;
        let ran = migrator.run(&connection).await;
        // The lock that keeps others from migrating is held for as long as it is open.
        connection.close().await;
        match ran {
            Ok(()) => return Ok(()),
            Err(error) if !may_be_repeated(&error) => return Err(error.into()),
            Err(error) if Instant::now() >= deadline && !is_at_work_elsewhere(&error) => {
                return Err(error.into());
            }
            Err(error) => tracing::warn!(
                %error,
                retry_in = ?PAUSE,
                "migrations have made room for others and are tried again"
            ),
        }
        sleep(PAUSE).await;
    }
}

fn may_be_repeated(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    is_lock_timeout(error) || matches!(fault::of(error), Fault::Outage | Fault::Connection)
}

/// Outside of a migration the only lock is the one that says somebody is migrating.
fn is_at_work_elsewhere(error: &MigrateError) -> bool {
    matches!(error, MigrateError::Execute(error) if is_lock_timeout(error))
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "55P03")
}
