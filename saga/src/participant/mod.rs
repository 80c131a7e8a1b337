//! The other side: a service that carries out what sagas ask.
//!
//! What passes here: every command, inside the consumer's transaction, which also holds the
//! business rows and the reply. Promised: an operation takes effect at most once, a duplicate gets
//! the first answer again, and a compensation that overtakes its action keeps it from ever taking
//! effect. Not promised: anything about effects outside of that database, unless they are written
//! as [`External`]: then the same holds where the outside knows an operation by its key, and the
//! [`runner`] works at it, in no transaction. If we die here, everything of the transaction is gone
//! and the command comes again.
//!
//! Each action costs a savepoint, and a server slows down for everybody beyond 64 in one
//! transaction: [`Participant::consumer`] takes at most [`MAX_BATCH`] commands at once.
//!
//! An author's code sees one command at a time. What fails or panics in it is told with step and saga,
//! and parks that command alone; what cannot be read, or is of an unknown kind, is known before anything
//! is written.

mod action;
mod external;
mod prepare;

mod dispatch;

mod barrier;
mod batch;

mod outside;
pub mod runner;

mod answer;
mod table;

pub mod retention;

pub use crate::wire::{COMMAND_EXPIRY, Refusal};
pub use action::{Action, Answer, Compensation, Context};
pub use dispatch::{MAX_BATCH, Participant};
pub use external::{Admission, Called, External, ExternalCompensation, Probed, Settled};
pub use prepare::{Commands, Prepare};
pub use table::State;
