//! The drawer of the person on call: what goes on in an outbox, and what may be asked of it.
//!
//! Everything here returns plain values that serialize; nothing prints. `recompense outbox …`
//! shows them in a terminal.
//!
//! Promised: looking costs little, whatever the log holds, and takes no lock that anybody waits
//! for. Payloads are returned only where they are asked for. An operator only *requests* a replay of
//! what is parked: the leader sends, and it alone deletes what it sent. The exception to all of this is [`rebase`],
//! which makes the cursor anew where no relay can lead.
//!
//! If we die here, a request is written or it is not; a replay of the log has enqueued whole pages.

mod census;
mod lag;
mod look;
mod status;
mod topics;

mod tail;

pub mod parked;
mod pause;
pub mod replay;

pub mod rebase;

pub mod doctor;

pub use crate::printable::Payload;
pub use census::{Census, Counted};
pub use lag::{Lag, TopicLag, lag};
pub use pause::{Paused, Resumed, pause, resume};
pub use status::{
    Backlog, InboxParked, Lease, ParkedCount, Partition, Pause, Status, Turn, status,
};
pub use tail::{Entry, Filter, Follow, State, tail};
pub use topics::{AtBroker, Topic, refresh_topics, topics};
