//! How much is waiting, once a second.

use crate::{
    Error,
    outgoing::leader::{Leader, table::waiting},
};

/// A backlog up to this is counted, a larger one estimated: so many rows are read at most.
const COUNTED: i64 = 1_000;

impl Leader<'_> {
    /// Says how much the broker has not acknowledged and how old the oldest of it is.
    ///
    /// What is sent is passed by the cursor, so what is waiting begins at it: this reads no published
    /// row. Above what is counted stands the distance of two numbers, as in `recompense outbox status`:
    /// too high by the transactions that were rolled back, too low by those that were open for long.
    pub(super) async fn measure(&mut self) -> Result<(), Error> {
        let waiting = waiting(self.connection, &self.cursor, COUNTED).await?;
        let passed = match self.cursor.is_between_ticks() {
            true => self.cursor.settled.floor,
            false => self.cursor.settled.floor.max(self.cursor.last_seq),
        };
        let messages = match waiting.messages < COUNTED {
            true => waiting.messages,
            false => waiting.messages.max(self.floor - passed),
        };
        self.metrics
            .waiting(messages, waiting.oldest_seconds, self.paused);
        Ok(())
    }
}
