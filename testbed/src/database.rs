//! A database of its own for each test, on the shared server.

use anyhow::{Context, Result};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use crate::Postgres;

/// An empty database. It goes with its server.
#[derive(Debug, Clone)]
pub struct Database {
    /// Its name on the server.
    pub name: String,
    /// Its URL.
    pub url: String,
}

impl Database {
    /// Creates a database on the shared server; `name` says in lists what it is for, the rest of its name is unique.
    ///
    /// # Panics
    /// If the server does not start or refuses.
    pub async fn fresh(name: &str) -> Database {
        let database = Database::fresh_on(crate::postgres().await, name).await;
        database.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Creates a database on a server of the caller's.
    ///
    /// # Errors
    /// If the name is unfit for a database or the server refuses.
    pub async fn fresh_on(server: &Postgres, name: &str) -> Result<Database> {
        let name = format!("{name}_{}", Uuid::now_v7().simple());
        let url = server.create_database(&name).await?;
        Ok(Database { name, url })
    }

    /// The options to connect with.
    ///
    /// # Errors
    /// If the URL holds something that sqlx does not know.
    pub fn options(&self) -> Result<PgConnectOptions> {
        self.url
            .parse()
            .context("the database's URL has a part that sqlx does not know")
    }

    /// A pool of at most `connections`.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn pool(&self, connections: u32) -> Result<PgPool> {
        Ok(PgPoolOptions::new()
            .max_connections(connections)
            .connect_with(self.options()?)
            .await?)
    }
}
