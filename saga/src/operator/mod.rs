//! What people do to sagas: one at a time, or many by a filter.
//!
//! What passes here: a checked [`Request`] on its way into the same reducer that takes replies and
//! timers. Promised: who did what, when and why is in the saga's history; a request under one
//! idempotency key is carried out once, however often and by however many it is sent; with an
//! `expected_seq` it is carried out on what the person saw, or not at all; a dry run decides the
//! same and writes nothing. What a person did is in `outbox.audit` too, in the same transaction: of
//! a bulk operation that it was asked for and stopped, and what it did to each saga. Not promised:
//! that a dry run's answer still holds a moment later; give its `seq` along. If we die here, the transaction is rolled back, and the same request does it
//! then.

mod census;
mod request;
mod selection;

mod allowed;
mod intervene;
pub(crate) mod table;

pub mod bulk;

pub use allowed::{AllowedOperation, allowed_operations};
pub use census::{Census, Counted};
pub use intervene::{Commanded, Intervened, Outcome, claim_key, intervene, intervene_as};
pub use request::Request;
pub(crate) use request::check_key;
pub use selection::Selection;
