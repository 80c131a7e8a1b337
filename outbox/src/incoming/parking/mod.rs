//! What could not be handled, in order.
//!
//! Promised, with [`OnPoison::BlockKey`](crate::incoming::OnPoison::BlockKey): once a message is parked,
//! nothing later of its key is handled before it is handled or discarded. A blocked key is a row of
//! `outbox.inbox_blocked`. Whoever parks behind it, handles what is parked, or discards it, holds that
//! row `for update`, and looks at what is parked in a later statement; so no follower slips past a head
//! that is just being removed. The transaction that removes the key's last parked message removes the row.
//!
//! An operator only asks ([`parked`]); the consumer handles ([`replayer`]): each message in a
//! transaction that deletes its parked row, handles it without asking the inbox (its row is there since
//! it was parked), and asks for the next of its key. If that dies, the message is parked as before and
//! still asked for.
//!
//! The first of a key is its *head*; of class `blocked` are its followers. A follower that fails when
//! its turn comes is the new head, and those behind it wait on.

pub mod parked;
pub(super) mod replayer;
mod sickness;
pub(super) mod table;

pub(super) use sickness::Sickness;
