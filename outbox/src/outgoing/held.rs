//! Topics that refused, and the messages kept for them.
//!
//! A message of a held topic goes to `outbox.parked` instead of the broker, so that it cannot
//! overtake those already there. Every now and then the oldest is tried; when it is acknowledged
//! the rest follow in order, and when none is left the topic is held no longer. Pure.

use std::collections::HashMap;

/// Marks the token of a held message: it is not in the ring.
const MARK: usize = 1 << (usize::BITS - 1);
/// How many are tried at once of a topic that has just taken one.
const BATCH: i64 = 20;

#[derive(Debug, Default)]
pub(crate) struct Held {
    /// By topic, how many to try next.
    topics: HashMap<String, i64>,
    /// On their way once more, by token.
    trying: HashMap<usize, Trying>,
    tokens: usize,
}

/// A held message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trying {
    topic: String,
    pub(crate) seq: i64,
    /// Whether it is the only one of its topic, so that a refusal is its own.
    pub(crate) alone: bool,
}

impl Held {
    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Notes topics as held.
    pub(crate) fn hold(&mut self, topics: impl IntoIterator<Item = String>) {
        for topic in topics {
            self.topics.entry(topic).or_insert(1);
        }
    }

    /// The topics of which nothing is on its way, with how many messages to try.
    pub(crate) fn due(&self) -> Vec<(String, i64)> {
        let idle = |topic: &str| self.trying.values().all(|trying| trying.topic != topic);
        let due = self.topics.iter().filter(|(topic, _)| idle(topic));
        due.map(|(topic, limit)| (topic.clone(), *limit)).collect()
    }

    /// Nothing is kept for the topic any more.
    pub(crate) fn release(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    /// Names a message that is about to be tried.
    pub(crate) fn try_one(&mut self, topic: &str, seq: i64) -> usize {
        let token = MARK | self.tokens;
        self.tokens += 1;
        let trying = Trying {
            topic: topic.to_owned(),
            seq,
            alone: self.topics.get(topic) == Some(&1),
        };
        self.trying.insert(token, trying);
        token
    }

    /// The message of a token that was tried; `None` for every other token.
    pub(crate) fn tried(&mut self, token: usize, taken: bool) -> Option<Trying> {
        let trying = self.trying.remove(&token)?;
        if let Some(limit) = self.topics.get_mut(&trying.topic) {
            *limit = if taken { BATCH } else { 1 };
        }
        Some(trying)
    }

    /// Forgets what is on its way.
    pub(crate) fn clear(&mut self) {
        self.trying.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_tried_until_it_is_taken_then_a_batch() {
        let mut held = Held::default();
        held.hold(["a".to_owned(), "b".to_owned()]);
        held.hold(["a".to_owned()]);
        let token = held.try_one("a", 7);
        assert_eq!(held.due(), [("b".to_owned(), 1)], "a waits for its answer");
        let tried = held.tried(token, true).unwrap();
        assert_eq!((tried.seq, tried.alone), (7, true));
        assert_eq!(held.tried(token, true), None, "an answer counts once");
        let mut due = held.due();
        due.sort();
        assert_eq!(due, [("a".to_owned(), BATCH), ("b".to_owned(), 1)]);

        let token = held.try_one("a", 8);
        let tried = held.tried(token, false).unwrap();
        assert_eq!((tried.seq, tried.alone), (8, false), "one of a batch");
        held.release("b");
        assert_eq!(held.due(), [("a".to_owned(), 1)]);
        assert!(held.contains("a") && !held.contains("b"));
    }
}
