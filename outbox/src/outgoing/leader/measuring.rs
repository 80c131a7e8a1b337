//! How much is waiting, once a second.

use crate::{
    Error,
    outgoing::{
        backlog::{table::count, unsettled},
        leader::Leader,
    },
};

/// A backlog up to this is counted, a larger one estimated: so many rows are read at most, of each of
/// three sources.
const COUNTED: i64 = 1_000;

impl Leader<'_> {
    /// Says how much the broker has not acknowledged and how old the oldest of it is.
    ///
    /// What is sent is passed by the cursor, so what is waiting begins at it: this reads no published
    /// row. Above what is counted stands the distance of two numbers, as in `recompense outbox status`:
    /// too high by the transactions that were rolled back, too low by those that were open for long.
    pub(super) async fn measure(&mut self) -> Result<(), Error> {
        let waiting = count(self.connection, &unsettled(self.flow.cursor()), COUNTED).await?;
        let counted: i64 = waiting.iter().map(|topic| topic.messages).sum();
        let ages = waiting.iter().map(|topic| topic.oldest_seconds);
        let messages = match counted < COUNTED {
            true => counted,
            false => counted.max(self.written.floor - self.flow.cursor().passed()),
        };
        self.metrics
            .waiting(messages, ages.fold(0.0, f64::max), self.written.paused);
        Ok(())
    }
}
