//! The pipe: a transactional outbox and inbox on PostgreSQL and Kafka.
//!
//! A service changes its rows and [`enqueue`]s a message in one transaction. The [`outgoing`]
//! relay carries committed messages to the [`broker`], at least once and in order; the
//! [`incoming`] consumer applies each once.
//!
//! ```no_run
//! # async fn place(pool: sqlx::PgPool) -> Result<(), outbox::Error> {
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct OrderPlaced { total: i64 }
//!
//! impl outbox::Payload for OrderPlaced {
//!     const KIND: &'static str = "order.placed.v1";
//! }
//!
//! let mut tx = pool.begin().await?;
//! sqlx::query("insert into orders values ($1)").bind(1250_i64).execute(&mut *tx).await?;
//! let message = outbox::Message::new("orders.events", "order-1", &OrderPlaced { total: 1250 })?;
//! outbox::enqueue(&mut tx, &message).await?;
//! tx.commit().await?; // now, and only now, the message will leave
//! # Ok(()) }
//! ```

mod crash;
mod error;
mod message;
pub mod outgoing;

pub mod audit;
pub mod broker;
mod caught;
pub mod fault;
pub mod incoming;
mod migrations;
pub mod operator;
mod printable;
mod settings;
mod table;
mod telemetry;
mod trace;

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "service")]
pub mod service;

pub use caught::{caught, caught_in};
pub use error::Error;
pub use incoming::{BatchHandler, Batched, Consumer, Handler};
pub use message::{Headers, Message, Payload, Received};
pub use migrations::run_migrations;
pub use outgoing::{Relay, declare, enqueue, enqueue_all, lock_key};
pub use telemetry::describe_metrics;
pub use trace::{carry, follow, resume};

/// The migrations of the schema `outbox`.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The setting that says, while the migrations run for the first time, how many numbers a partition of
/// the log's ring has, as a power of two from 8 to 30; 20 without it. Set for the session or by
/// `alter database`.
pub const PARTITION_BITS: &str = "outbox.partition_bits";

/// What was chosen for [`PARTITION_BITS`] when the schema was made.
///
/// # Errors
///
/// [`Error::Database`], also where there is no such schema.
pub async fn partition_bits(pool: &sqlx::PgPool) -> Result<i32, Error> {
    table::partition_bits(pool).await
}

/// Brings the schema `outbox` up to date in the database of `pool`. Several processes may do so at
/// once: one does, the others wait.
///
/// # Errors
///
/// As [`run_migrations`].
pub async fn migrate(pool: &sqlx::PgPool) -> Result<(), Error> {
    run_migrations(pool, &MIGRATOR).await
}

/// Makes the group roles `<prefix>_owner`, `_producer`, `_relay`, `_consumer` and `_reader` where they
/// are missing, and gives each exactly what it needs in the schema `outbox` of this database: the table
/// stands in migrations/outbox/0004_roles.sql, and what 0005_audit.sql adds there. To be repeated after migrations.
///
/// The schema belongs to `<prefix>_owner` from then on. The user of `pool` owns the schema and may
/// create roles, or is a superuser.
///
/// # Errors
///
/// [`Error::Database`]: no schema, no permission, or a prefix that is not 1 to 50 small letters, digits
/// or underscores.
pub async fn make_roles(pool: &sqlx::PgPool, prefix: &str) -> Result<(), Error> {
    table::make_roles(pool, prefix).await
}
