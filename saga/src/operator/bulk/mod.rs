//! One intervention for many sagas.
//!
//! What passes here: a selection, made into a list of sagas when it is asked for, and its items one
//! at a time. Promised: each saga of the list gets one result, with the reason where nothing was
//! done; no more a second than was asked for, by all replicas together; whoever dies, anybody goes
//! on with what is pending, and nothing is done twice. A saga that has moved on since it was listed
//! is left alone, unless that was allowed. Not promised: a moment; and no item sees the others. If
//! we die here, the item's transaction is rolled back, its result with it.

mod table;

mod ask;
mod look;
mod worker;

pub(crate) use ask::forget;
pub use ask::{
    BulkRequest, Created, Expected, cancel, cancel_as, claim_key, create, create_as, expect,
};
pub use look::{Bulk, Counts, Item, items, list, show};
pub use worker::{Bulks, Worked};

use crate::words::words;

words! {
    /// Where a bulk operation stands.
    pub enum BulkStatus {
        /// Sagas wait for their turn.
        Running = "running",
        /// Each has had its turn. Final.
        Done = "done",
        /// A person stopped it; the rest was left alone. Final.
        Cancelled = "cancelled",
    }
}

words! {
    /// What became of one saga of a bulk operation.
    pub enum ItemResult {
        /// It was done.
        Done = "done",
        /// Its state did not allow it.
        Refused = "refused",
        /// It has moved on since it was listed, and was left alone.
        Changed = "changed",
        /// It is forgotten.
        Gone = "gone",
        /// It could not be done, several times; nothing of it remains.
        Failed = "failed",
    }
}
