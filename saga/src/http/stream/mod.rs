//! What happens to sagas, while it happens: server-sent events.
//!
//! ```text
//! saga.event ──────┐                       ┌→ watcher of one saga  (one page in hand, one waiting)
//! saga.instance ───┴→ poller (Streams::run)┤
//!                                          └→ feed, a ring of changes ←─ followers of the list read it
//! ```
//!
//! What passes here: rows that were committed, to whoever watches. Promised: **one poller for all
//! clients of a process**, at most three statements each time it looks, and none while nobody
//! watches; a client that is slow or gone costs no memory beyond its place, and delays no other;
//! who comes back with `Last-Event-ID` gets what it missed, without gap or repetition, or is told to load
//! anew. Not promised: that a follower of the list sees each state between two looks; and of more
//! than a thousand open sagas of one status the list follows the newest.
//!
//! If we die here, the streams end; clients come back to any replica with the last id they saw. The
//! history of one saga goes on there exactly. The list's ids are this process's own: another one
//! says `reload`.

mod client;
mod feed;
mod poller;
mod registry;
mod watcher;

pub use registry::Streams;

pub(crate) use client::{follow, watch};
