//! PostgreSQL: a server of our own, or the one that an environment variable names.
//!
//! *What passes here*: the URL of a server that answers. *Promised*: nothing to prepare — the server's programs are found on
//! the machine (version 15 or newer) or fetched once; as root it runs as another user, since it refuses to run as root; a
//! server that was killed starts again on the same data and port. *Not promised*: surviving a crash of the machine, unless
//! [`Options::durable`]. *If we die*, the server gets an immediate shutdown and its throw-away data goes.

mod account;
mod binaries;
mod options;
mod server;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;
use server::Server;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub use options::Options;

/// A running server. Dropped, it is stopped, and its throw-away data removed.
#[derive(Debug)]
pub struct Postgres {
    url: Url,
    /// Absent when the server was there before us.
    server: Option<Server>,
}

impl Postgres {
    /// Starts a server with the defaults: fast, not durable, data thrown away.
    ///
    /// # Errors
    /// If no server can be found or fetched, or it does not start; the end of its log is part of the error.
    pub async fn start() -> Result<Postgres> {
        Postgres::start_with(Options::default()).await
    }

    /// Starts a server.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn start_with(options: Options) -> Result<Postgres> {
        let server = Server::start(options).await?;
        let url = Url::parse(&format!(
            "postgres://postgres@127.0.0.1:{}/postgres",
            server.port()
        ))?;
        Ok(Postgres {
            url,
            server: Some(server),
        })
    }

    /// The server that the environment variable names, or one of our own if it is not set.
    ///
    /// # Errors
    /// If the variable holds no Postgres URL, or as [`Postgres::start`].
    pub async fn from_env_or_start(variable: &str) -> Result<Postgres> {
        match std::env::var(variable) {
            Ok(url) if !url.is_empty() => {
                Postgres::existing(&url).with_context(|| format!("{variable} is unusable"))
            }
            _ => Postgres::start().await,
        }
    }

    /// A server that runs already; `url` names any database of it, as a user who may create others.
    ///
    /// # Errors
    /// If this is not a Postgres URL.
    pub fn existing(url: &str) -> Result<Postgres> {
        // The parser's error does not repeat the text, which may hold a password.
        let url =
            Url::parse(url).context("not a URL of the form postgres://user@host:port/database")?;
        ensure!(
            url.scheme().starts_with("postgres"),
            "the URL's scheme is not postgres://"
        );
        Ok(Postgres { url, server: None })
    }

    /// The URL of a database of this server, whether that exists or not.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let mut url = self.url.clone();
        url.set_path(database);
        url.into()
    }

    /// Creates an empty database and returns its URL. The name is lower case letters, digits and `_`.
    ///
    /// # Errors
    /// If the name is unfit or taken, or the server does not answer.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        let fit =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        ensure!(
            !name.is_empty() && name.len() < 64 && name.chars().all(fit),
            "{name:?} is no name for a database"
        );
        let mut connection = PgConnection::connect(self.url.as_str())
            .await
            .context("Postgres does not answer")?;
        // template0: nobody can be connected to it, so creating several at once does not fail.
        let statement = format!(r#"create database "{name}" template template0"#);
        let created = sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await;
        created.with_context(|| format!("cannot create the database {name}"))?;
        connection.close().await?;
        Ok(self.url(name))
    }

    /// Drops a database, and whoever is connected to it.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let mut connection = PgConnection::connect(self.url.as_str())
            .await
            .context("Postgres does not answer")?;
        let statement = format!(r#"drop database if exists "{name}" with (force)"#);
        let dropped = sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await;
        dropped.with_context(|| format!("cannot drop the database {name}"))?;
        Ok(connection.close().await?)
    }

    /// The process id of the server, while it runs and is ours.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(Server::pid)
    }

    /// The folder with its data, if the server is ours.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.server.as_ref().map(Server::folder)
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.server
            .as_ref()
            .map(Server::log_tail)
            .unwrap_or_default()
    }

    /// SIGKILL to the postmaster; every connection breaks. [`Postgres::restart`] then shows what was committed.
    ///
    /// # Errors
    /// If the server is not ours.
    pub fn kill(&mut self) -> Result<()> {
        self.ours()?.kill()
    }

    /// A fast, orderly shutdown: transactions are rolled back, the data is checkpointed.
    ///
    /// # Errors
    /// If the server is not ours.
    pub async fn stop(&mut self) -> Result<()> {
        self.ours()?.stop().await
    }

    /// An immediate shutdown, as after a failed disk: nothing is rolled back or written, the next start recovers.
    ///
    /// # Errors
    /// If the server is not ours.
    pub async fn stop_immediately(&mut self) -> Result<()> {
        self.ours()?.stop_by("QUIT").await
    }

    /// The folder with the server's programs; `pg_dump` is there too where the server came with its clients.
    #[must_use]
    pub fn programs(&self) -> Option<&Path> {
        self.server.as_ref().map(Server::programs)
    }

    /// Starts the server again on the same data and port, stopping it first if it runs.
    ///
    /// # Errors
    /// If the server is not ours, or does not start.
    pub async fn restart(&mut self) -> Result<()> {
        let server = self.ours()?;
        server.stop().await?;
        server.run().await
    }

    /// Lets the server and its data live on without us.
    pub fn detach(&mut self) {
        if let Some(server) = &mut self.server {
            server.detach();
        }
    }

    fn ours(&mut self) -> Result<&mut Server> {
        match &mut self.server {
            Some(server) => Ok(server),
            None => bail!(
                "this Postgres was not started here: start one with Postgres::start to stop or kill it"
            ),
        }
    }
}
