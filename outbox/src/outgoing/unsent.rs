//! Whether the relay has sent a message: for whoever must not hold its silence against the receiver.
//!
//! Promised: what is said to be sent was acknowledged by the broker, or has left the log. Not promised:
//! that what is said to be unsent still is when the caller hears of it. Where no relay has ever led,
//! somebody else carries the log (change data capture), and everything counts as sent.

use sqlx::PgTransaction;

use crate::{Error, outgoing::table};

/// Where a message was enqueued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The transaction's id, an `xid8` as text; without it only what is held is known to be unsent.
    pub xid: Option<String>,
    /// The message's topic.
    pub topic: String,
    /// Its key.
    pub key: String,
}

/// Which of these the relay has not sent yet, in the order asked: their transactions are not below
/// its stored cursor, or messages of their key are held because of their topic.
///
/// # Errors
///
/// [`Error::Database`].
pub async fn unsent(tx: &mut PgTransaction<'_>, asked: &[Sent]) -> Result<Vec<bool>, Error> {
    table::unsent(tx, asked).await
}
