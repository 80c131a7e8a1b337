//! What every command on a database takes, and what its failures mean.

use anyhow::{Error, Result};
use chassis::config::DatabaseUrl;
use sqlx::PgPool;

use crate::{connect::connect, print::Output};

/// A look needs one connection, a replay of the log two.
const CONNECTIONS: u32 = 3;

/// What every command needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The database: `postgres://user:password@host:port/database`. Never printed.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: DatabaseUrl,

    /// How to print results.
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

impl Common {
    pub(crate) async fn connect(&self) -> Result<PgPool> {
        connect(&self.database_url, "recompense", CONNECTIONS).await
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Who asks, for those who read it later.
#[derive(Debug, clap::Args)]
pub(crate) struct Author {
    /// Who asks; noted with the request.
    #[arg(long, env = "USER", default_value = "recompense", value_name = "NAME")]
    pub(crate) by: String,
}

/// Says what to do about the failures that everybody meets. `roles` may do what was tried.
pub(crate) fn explain(error: Error, roles: &str) -> Error {
    let code = match error.downcast_ref::<outbox::Error>() {
        Some(outbox::Error::Database(sqlx::Error::Database(error))) => error.code(),
        _ => None,
    };
    match code.as_deref() {
        // undefined_table, invalid_schema_name, undefined_column, undefined_function
        Some("42P01" | "3F000" | "42703" | "42883") => error.context(
            "this database has no schema outbox, or an older one; run recompense migrate up --schema outbox",
        ),
        // insufficient_privilege
        Some("42501") => error.context(format!(
            "this user may not do that; connect as a member of the outbox's {roles} role"
        )),
        _ => error,
    }
}
