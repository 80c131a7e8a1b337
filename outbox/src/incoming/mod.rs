//! Incoming: from a record on the broker to the handler's effect, once.
//!
//! ```text
//! broker → pump → consumer (one worker per partition) → parse → table (outbox.inbox) → handler
//! ```

mod consumer;
mod handler;
mod parse;
mod pump;
mod table;
mod worker;

pub use consumer::{Config, Consumer};
pub use handler::Handler;
