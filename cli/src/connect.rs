//! The way to the database, with one clear line when it is away.

use std::time::Duration;

use anyhow::{Context, Result};
use chassis::config::DatabaseUrl;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::time::timeout;

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Connects once, to know that it can be done, and returns a pool of at most `connections`.
pub(crate) async fn connect(url: &DatabaseUrl, name: &str, connections: u32) -> Result<PgPool> {
    connect_with(url, name, connections, &[]).await
}

/// The same, with settings for each session.
pub(crate) async fn connect_with(
    url: &DatabaseUrl,
    name: &str,
    connections: u32,
    settings: &[(&str, &str)],
) -> Result<PgPool> {
    let options = url.options().clone().application_name(name);
    let options = options.options(settings.iter().copied());
    // Asked once directly, because a pool tries on and then says only that it waited.
    let reached = timeout(PATIENCE, PgConnection::connect_with(&options)).await;
    let reached = reached.context("the database does not answer; check --database-url")?;
    reached
        .context("cannot connect to the database; check --database-url")?
        .close()
        .await?;
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        .connect_lazy_with(options))
}
