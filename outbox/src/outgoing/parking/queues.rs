//! Which parked messages are to be tried next. Pure.
//!
//! Of each topic one queue at a time is on its way, and of that queue one message until it is
//! taken, then a batch: a record that is too large fails its whole batch, so only what is refused
//! alone is refused for its own sake.

use std::collections::{HashMap, HashSet};

/// How many are tried at once of a queue that has just given one.
const BATCH: i64 = 500;
/// Most queues begun in one turn, so that a crowd of them does not hold up the leader.
const TURN: usize = 20;

/// Parked messages that are sent one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Queue {
    /// Everything held for a topic.
    Topic(String),
    /// What waits behind a blocked key whose head is gone.
    Key { topic: String, key: String },
    /// A single message an operator wants to be sent again.
    One { topic: String, seq: i64 },
}

impl Queue {
    fn topic(&self) -> &str {
        match self {
            Self::Topic(topic) | Self::Key { topic, .. } | Self::One { topic, .. } => topic,
        }
    }
}

/// A queue to be tried, and how many of its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) queue: Queue,
    pub(crate) limit: i64,
}

/// A parked message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) queue: Queue,
    pub(crate) seq: i64,
    /// Whether it is the only one of its topic, so that a refusal is its own.
    pub(crate) alone: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// With how many to try next.
    queues: HashMap<Queue, i64>,
    /// On their way, by token.
    trying: HashMap<usize, Tried>,
    tokens: usize,
}

impl Queues {
    /// Whether messages of the topic are held.
    pub(crate) fn hold(&self, topic: &str) -> bool {
        let held = |queue: &Queue| matches!(queue, Queue::Topic(held) if held == topic);
        self.queues.keys().any(held)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Notes queues. Those known already stay as they are.
    pub(crate) fn add(&mut self, queues: impl IntoIterator<Item = Queue>) {
        for queue in queues {
            self.queues.entry(queue).or_insert(1);
        }
    }

    /// The queues to be tried now: of each topic with nothing on its way, one.
    pub(crate) fn due(&self) -> Vec<Due> {
        let mut busy: HashSet<&str> = self.trying.values().map(|t| t.queue.topic()).collect();
        let due = self.queues.iter();
        let due = due.filter(|(queue, _)| busy.insert(queue.topic()));
        let due = due.map(|(queue, limit)| Due {
            queue: queue.clone(),
            limit: *limit,
        });
        due.take(TURN).collect()
    }

    /// There is nothing left in it.
    pub(crate) fn remove(&mut self, queue: &Queue) {
        self.queues.remove(queue);
    }

    /// Names a message that is about to be tried; `due` is what it was found by.
    pub(crate) fn try_one(&mut self, due: &Due, seq: i64) -> usize {
        let token = self.tokens;
        self.tokens += 1;
        let tried = Tried {
            queue: due.queue.clone(),
            seq,
            alone: due.limit == 1,
        };
        self.trying.insert(token, tried);
        token
    }

    /// The message of a token that was tried; `None` when it was forgotten.
    pub(crate) fn tried(&mut self, token: usize, taken: bool) -> Option<Tried> {
        let tried = self.trying.remove(&token)?;
        if let Some(limit) = self.queues.get_mut(&tried.queue) {
            *limit = if taken { BATCH } else { 1 };
        }
        Some(tried)
    }

    /// Whether a message is on its way, by its token.
    pub(crate) fn is_trying(&self, token: usize) -> bool {
        self.trying.contains_key(&token)
    }

    /// Forgets what is on its way.
    pub(crate) fn forget(&mut self) {
        self.trying.clear();
        self.queues.values_mut().for_each(|limit| *limit = 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Queue {
        Queue::Topic(name.to_owned())
    }

    fn key(topic: &str, key: &str) -> Queue {
        let (topic, key) = (topic.to_owned(), key.to_owned());
        Queue::Key { topic, key }
    }

    #[test]
    fn one_is_tried_until_it_is_taken_then_a_batch() {
        let mut queues = Queues::default();
        queues.add([topic("a"), topic("a")]);
        let [due] = &queues.due()[..] else {
            panic!("once")
        };
        assert_eq!(due.limit, 1);
        let token = queues.try_one(due, 7);
        assert_eq!(queues.due(), [], "a waits for its answer");
        let tried = queues.tried(token, true).unwrap();
        assert_eq!((tried.seq, tried.alone), (7, true));
        assert_eq!(queues.tried(token, true), None, "an answer counts once");
        let [due] = &queues.due()[..] else {
            panic!("again")
        };
        assert_eq!(due.limit, BATCH);
        let token = queues.try_one(due, 8);
        let tried = queues.tried(token, false).unwrap();
        assert_eq!((tried.seq, tried.alone), (8, false), "one of a batch");
        assert_eq!(queues.due()[0].limit, 1, "then alone");
        queues.remove(&topic("a"));
        assert!(queues.is_empty());
    }

    #[test]
    fn of_a_topic_one_queue_is_on_its_way_at_a_time() {
        let mut queues = Queues::default();
        queues.add([key("a", "1"), key("a", "2"), key("b", "1")]);
        let due = queues.due();
        assert_eq!(due.len(), 2, "one of each topic");
        let of_a = due.iter().find(|due| due.queue.topic() == "a").unwrap();
        let token = queues.try_one(of_a, 1);
        assert_eq!(queues.due().len(), 1, "a is busy, whatever its queue");
        queues.tried(token, true);
        queues.remove(&of_a.queue);
        assert_eq!(queues.due().len(), 2);
    }

    #[test]
    fn what_was_forgotten_is_tried_alone_again() {
        let mut queues = Queues::default();
        queues.add([topic("a")]);
        let token = queues.try_one(&queues.due()[0].clone(), 1);
        queues.tried(token, true);
        let token = queues.try_one(&queues.due()[0].clone(), 2);
        queues.forget();
        assert_eq!(queues.tried(token, true), None);
        assert_eq!(queues.due()[0].limit, 1);
        assert!(queues.hold("a") && !queues.hold("b"));
    }
}
