//! Incoming: from a record on the broker to the handler's effect, once.
//!
//! ```text
//! broker → pump → lane → worker (one per partition) → parse → table (outbox.inbox) → handler
//!                                                        ↘ parking (outbox.inbox_parked) ↗
//! ```
//!
//! Promised: a handler's effect in the database happens once per message, in the order of the
//! partition; what cannot be handled is kept with its reason, by default with everything after it on
//! its key, and the rest flow on. Beside the workers run three small loops: the *replayer* handles what
//! an operator asks to be handled again, *retention* keeps the inbox's partitions, the *watchdog*
//! gives up a client that has stopped delivering.

mod config;
mod handler;

mod consumer;
mod pump;

mod lane;
mod membership;
mod watchdog;

mod worker;

mod parse;
mod table;

mod budget;
mod caught_up;
mod handling;

mod parking;
mod retention;

pub use crate::broker::OnPoison;
pub use caught_up::caught_up;
pub use config::Config;
pub use consumer::Consumer;
pub use handler::{BatchHandler, Batched, Handler};
pub use parking::parked;
pub(crate) use table::Session;
