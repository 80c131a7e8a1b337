//! The decisions: sagas on top of the pipe.
//!
//! A saga is a business transaction over several services that either completes or is compensated,
//! visibly. The files in the order a saga travels: an [`Operation`] has a name, a
//! [`definition`] says what steps there are, an [`instance`] where one saga stands, an [`event`]
//! what happened; [`decide`] decides, purely; the [`coordinator`] records and does it in one
//! transaction, woken by [`replies`], [`timers`] and people ([`operator`]); a [`participant`] carries it out behind its
//! barrier; [`http`] shows it.
//!
//! Promised: a saga ends completed, compensated or abandoned, or it is visibly parked. Not
//! promised: isolation; between its steps others see what a saga has done so far. Whoever dies
//! where, what runs afterwards is the ordinary loop over the ordinary rows.

mod error;
mod words;

pub mod operation;
pub mod wire;

pub mod locks;

pub mod definition;
pub mod instance;

pub mod event;
pub mod intervention;

mod agenda;
pub mod decide;
mod origin;
mod table;

pub mod coordinator;
mod pending;
pub mod replies;
pub mod retention;
pub mod timers;

pub mod operator;

pub mod http;
pub mod participant;

pub mod telemetry;

#[cfg(feature = "testing")]
pub mod testing;

pub use coordinator::Coordinator;
pub use definition::{Definition, Ended, Step};
pub use error::Error;
pub use instance::{Instance, Status};
pub use operation::{Operation, Phase};
pub use participant::Participant;
pub use timers::Fired;
pub use words::UnknownWord;

/// The migrations of the schema `saga`.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// Brings the schema `saga` up to date, for a coordinator and for a participant alike.
///
/// # Errors
///
/// When the database is away, or its schema is of another history.
pub async fn migrate(pool: &sqlx::PgPool) -> Result<(), Error> {
    Ok(outbox::run_migrations(pool, &MIGRATOR).await?)
}
