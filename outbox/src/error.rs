//! What can go wrong in the pipe.

use std::error::Error as StdError;

use crate::fault::{self, Fault};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database refused or was away. Met by everything that has a transaction or a pool.
    #[error("database: {}", said(.0))]
    Database(#[from] sqlx::Error),
    /// The broker refused or was away. Met at start and by probes; the relay and the consumer
    /// retry by themselves.
    #[error("broker: {0}")]
    Broker(String),
    /// A payload could not be encoded. Met before anything is written.
    #[error("cannot encode a payload of kind {kind}: {source}")]
    Encode {
        /// The payload's kind.
        kind: String,
        /// What serde said.
        source: serde_json::Error,
    },
    /// A received message is not what its reader expects. Met by a handler; never heals.
    #[error("cannot decode a message of kind {kind}: {reason}")]
    Decode {
        /// The kind on the wire.
        kind: String,
        /// What is wrong, without the content.
        reason: String,
    },
    /// A message breaks a limit; the transaction that wanted to enqueue it must not commit.
    #[error("message refused: {0}")]
    Refused(String),
    /// A handler's own failure that may heal: an outside call, a busy resource. Uses up budget.
    #[error("{0}")]
    Transient(#[source] Box<dyn StdError + Send + Sync>),
    /// A handler's own failure that never heals. The message is parked at once.
    #[error("{0}")]
    Permanent(#[source] Box<dyn StdError + Send + Sync>),
    /// Another relay holds the lease. Whatever this one was doing must not be written.
    #[error("another relay has taken over the lease")]
    Fenced,
    /// Another process has joined the consumer group under this one's member name. Met by a consumer,
    /// which says so and waits long before it joins again.
    #[error(
        "another process has joined the consumer group under this one's member name (KAFKA_MEMBER): \
         each process needs one of its own"
    )]
    MemberFenced,
    /// The cursor does not belong to this database cluster: it was restored, cloned or rewound.
    #[error("{0}")]
    ForeignCursor(String),
    /// A cursor was not made anew, and nothing was changed; the text says why. Met by an operator's rebase.
    #[error("{0}")]
    NotRebased(String),
    /// A migration failed. Met at start.
    #[error("migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl Error {
    /// A handler's failure that may heal.
    pub fn transient(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Transient(cause.into())
    }

    /// A handler's failure that never heals.
    pub fn permanent(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Permanent(cause.into())
    }

    /// Whether trying the same thing again can succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => fault::of(error) != Fault::Item,
            Self::Broker(_) | Self::Transient(_) | Self::Fenced | Self::MemberFenced => true,
            Self::Encode { .. }
            | Self::Decode { .. }
            | Self::Refused(_)
            | Self::Permanent(_)
            | Self::ForeignCursor(_)
            | Self::NotRebased(_)
            | Self::Migrate(_) => false,
        }
    }

    /// Its sort in one word, for where its text may not go.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Database(_) => "database",
            Self::Broker(_) => "broker",
            Self::Encode { .. } => "encode",
            Self::Decode { .. } => "decode",
            Self::Refused(_) => "refused",
            Self::Transient(_) => "transient",
            Self::Permanent(_) => "permanent",
            Self::Fenced => "fenced",
            Self::MemberFenced => "member_fenced",
            Self::ForeignCursor(_) => "foreign_cursor",
            Self::NotRebased(_) => "not_rebased",
            Self::Migrate(_) => "migrate",
        }
    }

    /// Whether the database or this session failed (connection, shutdown, serialization, deadlock,
    /// a stale plan), so that no message is to blame: such a failure uses up no budget.
    #[must_use]
    pub fn is_database_outage(&self) -> bool {
        matches!(self.fault(), Some(Fault::Outage | Fault::Connection))
    }

    /// Whose fault a failure of the database is; none for what is not the database's.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Database(error) => Some(fault::of(error)),
            _ => None,
        }
    }
}

/// What the database said. PostgreSQL quotes the offending value in data exceptions (class 22), and
/// values are payload; where something of ours is missing, it is said what to do.
fn said(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    let text = error.to_string();
    match code.as_deref() {
        Some(code) if code.starts_with("22") => format!("bad data (SQLSTATE {code})"),
        Some("3F000" | "42P01" | "42703" | "42883") => {
            let ours = ["outbox", "saga"].into_iter().find(|schema| {
                text.contains(&format!("{schema}.")) || text.contains(&format!("\"{schema}\""))
            });
            let hint = ours.map(|schema| {
                format!(
                    "; the schema {schema} is missing or older than this program: run its migrations \
                     (`recompense migrate`, a service's --migrate, or `{schema}::migrate`)"
                )
            });
            text + &hint.unwrap_or_default()
        }
        _ => text,
    }
}
