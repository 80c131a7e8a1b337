//! What was not sent, and how it comes to be sent after all.
//!
//! A message that cannot be sent goes to `outbox.parked` as a full copy and the cursor moves on:
//!
//! | class | because | sent again |
//! |---|---|---|
//! | `held` | its topic refuses (unknown, not permitted) | by itself: the oldest is tried every second, later every five |
//! | `poison` | it was refused when sent alone, or no record can be made of it | when an operator asks |
//! | `blocked` | an earlier message of its key is poison | in order, once that one is sent or discarded |
//!
//! Promised: parking and the cursor's step over the message are one transaction that only the
//! leader can commit; messages of a key are first seen in order, except those that were on their
//! way when an earlier one was refused for good (`overtaken_by` names the last). Whoever parks
//! behind a blocked key, sends from it or discards from it holds its row in `outbox.blocked_key`
//! `for update`, so nothing is parked behind a key that is just being opened.
//!
//! If the leader dies here, the rows say what is to be done; what was sent and not yet forgotten is
//! sent again.

mod blocked;
mod queues;
pub(crate) mod table;

pub(crate) use blocked::{BlockedKey, BlockedKeys};
pub(crate) use queues::{Answered, Due, Queue, Queues, Tried};
