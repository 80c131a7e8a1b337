//! Outgoing: from a row of the caller's transaction to the broker's acknowledgement.
//!
//! ```text
//! enqueue → table (outbox.log) → reader → leader → broker → ring → cursor → table (outbox.relay)
//! ```

pub(crate) mod backlog;
mod config;
pub(crate) mod cursor;
mod enqueue;
mod flow;
mod lane;
mod leader;
mod lease;
pub(crate) mod logged;
pub(crate) mod parking;
mod reader;
mod relay;
mod ring;
pub(crate) mod snapshot;
mod source;
pub(crate) mod table;
mod topics;
mod unsent;
mod wire;

pub use config::{Config, Profile};
pub use enqueue::{
    MAX_HEADER_BYTES, MAX_HEADERS, MAX_KEY, MAX_KIND, MAX_TOPIC, enqueue, enqueue_all, lock_key,
};
pub use lease::{Holder, lease};
pub use relay::{Relay, Status};
pub use source::Source;
pub use table::empty_partition_ahead;
pub use topics::{declare, largest_and_smallest_limit, refresh_limits};
pub use unsent::{Sent, unsent};
