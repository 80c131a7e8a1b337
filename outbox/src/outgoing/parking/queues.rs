//! Which parked messages are to be tried next. Pure.
//!
//! Of each topic one queue at a time is on its way, and of that queue one message until it is
//! taken, then a batch: a record that is too large fails its whole batch, so only what is refused
//! alone is refused for its own sake. A queue that is refused is put off by itself, ever longer; the
//! one that has waited longest comes first.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::broker::{Failure, FailureClass};

/// How many are tried at once of a queue that has just given one.
const BATCH: i64 = 500;
/// Most queues begun in one turn, so that a crowd of them does not hold up the leader.
const TURN: usize = 20;
/// How long a queue is put off that was refused: at first, and at most.
const PUT_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

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

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answered {
    /// It was about a try that has been forgotten.
    Nothing,
    /// It was acknowledged: to be removed.
    Taken(i64),
    /// It was refused for its own sake.
    Refused(Tried, Failure),
    /// It stays, and is tried again.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// How many to try next.
    limit: i64,
    due_at: Instant,
    /// Since it was last taken.
    failures: u32,
}

/// What is known of the producer that parked messages are sent through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Producer {
    #[default]
    Good,
    /// It has been told that a topic refuses, and may remember that for a while.
    Stale,
    /// It sends nothing more.
    Broken,
}

#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: HashMap<Queue, Waiting>,
    /// The topics of whose queues messages are held: asked for each row of the log.
    held: HashSet<String>,
    /// On their way, by token.
    trying: HashMap<usize, Tried>,
    tokens: usize,
    producer: Producer,
}

impl Queues {
    /// Whether messages of the topic are held.
    pub(crate) fn hold(&self, topic: &str) -> bool {
        self.held.contains(topic)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Notes queues. Those known already stay as they are.
    pub(crate) fn add(&mut self, queues: impl IntoIterator<Item = Queue>, now: Instant) {
        for queue in queues {
            if let Queue::Topic(topic) = &queue {
                self.held.insert(topic.clone());
            }
            self.queues.entry(queue).or_insert(Waiting {
                limit: 1,
                due_at: now,
                failures: 0,
            });
        }
    }

    /// The queues to be tried now: of each topic with nothing on its way, the one that has waited
    /// longest.
    pub(crate) fn due(&self, now: Instant) -> Vec<Due> {
        let due = self
            .queues
            .iter()
            .filter(|(_, waiting)| waiting.due_at <= now);
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(queue, waiting)| (waiting.due_at, *queue));
        let mut busy: HashSet<&str> = self.trying.values().map(|t| t.queue.topic()).collect();
        let due = due.into_iter();
        let due = due.filter(|(queue, _)| busy.insert(queue.topic()));
        let due = due.map(|(queue, waiting)| Due {
            queue: queue.clone(),
            limit: waiting.limit,
        });
        due.take(TURN).collect()
    }

    /// There is nothing left in it.
    pub(crate) fn remove(&mut self, queue: &Queue) {
        self.queues.remove(queue);
        if let Queue::Topic(topic) = queue {
            self.held.remove(topic);
        }
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

    /// There was no room for it in the producer.
    pub(crate) fn not_sent(&mut self, token: usize) {
        self.trying.remove(&token);
    }

    /// Takes the answer to a try.
    pub(crate) fn answered(
        &mut self,
        token: usize,
        result: &Result<(), Failure>,
        now: Instant,
    ) -> Answered {
        let Some(tried) = self.trying.remove(&token) else {
            return Answered::Nothing;
        };
        let class = result.as_ref().err().map(|failure| failure.class);
        // What a broken producer still reports is nobody's fault.
        let consequence = self.producer != Producer::Good
            && !matches!(class, Some(FailureClass::Topic | FailureClass::Record));
        if let Some(waiting) = self.queues.get_mut(&tried.queue) {
            waiting.due_at = now;
            match class {
                None => (waiting.limit, waiting.failures) = (BATCH, 0),
                Some(FailureClass::Record) => waiting.limit = 1,
                Some(_) if consequence => waiting.limit = 1,
                Some(_) => {
                    waiting.limit = 1;
                    let pause = PUT_OFF.0 * 2_u32.pow(waiting.failures.min(8));
                    waiting.due_at = now + pause.min(PUT_OFF.1);
                    waiting.failures += 1;
                }
            }
        }
        let after = match class {
            None => Producer::Good,
            Some(FailureClass::Topic) => Producer::Stale,
            Some(_) => Producer::Broken,
        };
        self.producer = self.producer.max(after);
        match result {
            Ok(()) => Answered::Taken(tried.seq),
            Err(failure) if failure.class == FailureClass::Record && tried.alone => {
                Answered::Refused(tried, failure.clone())
            }
            Err(_) => Answered::Failed,
        }
    }

    /// Whether a message is on its way, by its token.
    pub(crate) fn is_trying(&self, token: usize) -> bool {
        self.trying.contains_key(&token)
    }

    /// Whether the producer is to be given up: it sends nothing more, or it may have learned that a
    /// topic is missing and has nothing else to do.
    pub(crate) fn needs_a_producer(&self) -> bool {
        match self.producer {
            Producer::Good => false,
            Producer::Stale => self.trying.is_empty(),
            Producer::Broken => true,
        }
    }

    /// There is a new producer. What was on its way is tried again, alone first.
    pub(crate) fn renewed(&mut self) {
        self.producer = Producer::Good;
        for (_, tried) in self.trying.drain() {
            if let Some(waiting) = self.queues.get_mut(&tried.queue) {
                waiting.limit = 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: Result<(), Failure> = Ok(());

    fn topic(name: &str) -> Queue {
        Queue::Topic(name.to_owned())
    }

    fn key(topic: &str, key: &str) -> Queue {
        let (topic, key) = (topic.to_owned(), key.to_owned());
        Queue::Key { topic, key }
    }

    fn refused(class: FailureClass) -> Result<(), Failure> {
        Err(Failure {
            class,
            reason: "a test".to_owned(),
        })
    }

    #[test]
    fn one_is_tried_until_it_is_taken_then_a_batch() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        queues.add([topic("a"), topic("a")], now);
        let [due] = &queues.due(now)[..] else {
            panic!("once")
        };
        assert_eq!(due.limit, 1);
        let token = queues.try_one(due, 7);
        assert_eq!(queues.due(now), [], "a waits for its answer");
        assert_eq!(queues.answered(token, &TAKEN, now), Answered::Taken(7));
        let again = queues.answered(token, &TAKEN, now);
        assert_eq!(again, Answered::Nothing, "an answer counts once");
        let [due] = &queues.due(now)[..] else {
            panic!("again")
        };
        assert_eq!(due.limit, BATCH);
        let token = queues.try_one(due, 8);
        let record = refused(FailureClass::Record);
        let answered = queues.answered(token, &record, now);
        assert_eq!(answered, Answered::Failed, "one of a batch");
        queues.renewed();
        let due = queues.due(now)[0].clone();
        assert_eq!(due.limit, 1, "then alone");
        let token = queues.try_one(&due, 8);
        let answered = queues.answered(token, &record, now);
        assert!(matches!(answered, Answered::Refused(tried, _) if tried.seq == 8));
        queues.remove(&topic("a"));
        assert!(queues.is_empty());
    }

    #[test]
    fn of_a_topic_one_queue_is_on_its_way_at_a_time() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        queues.add([key("a", "1"), key("a", "2"), key("b", "1")], now);
        let due = queues.due(now);
        assert_eq!(due.len(), 2, "one of each topic");
        let of_a = due.iter().find(|due| due.queue.topic() == "a").unwrap();
        let token = queues.try_one(of_a, 1);
        assert_eq!(queues.due(now).len(), 1, "a is busy, whatever its queue");
        queues.answered(token, &TAKEN, now);
        queues.remove(&of_a.queue);
        assert_eq!(queues.due(now).len(), 2);
    }

    #[test]
    fn a_topic_that_goes_on_refusing_is_put_off_and_the_others_are_not() {
        let (mut queues, mut now) = (Queues::default(), Instant::now());
        queues.add([topic("a"), topic("b")], now);
        let mut taken = 0;
        let mut tries = 0;
        for _ in 0..100 {
            for due in queues.due(now) {
                let token = queues.try_one(&due, 1);
                let of_b = due.queue == topic("b");
                tries += i32::from(!of_b);
                let result = match of_b {
                    true => TAKEN,
                    // As by an error that breaks the producer under everybody.
                    false => refused(FailureClass::Outage),
                };
                taken += i32::from(queues.answered(token, &result, now) == Answered::Taken(1));
            }
            if queues.needs_a_producer() {
                queues.renewed();
            }
            now += Duration::from_millis(100);
        }
        assert_eq!(taken, 100, "b is tried each time");
        assert!((3..6).contains(&tries), "{tries} tries of a in ten seconds");
    }

    #[test]
    fn what_fails_because_another_broke_the_producer_is_tried_again_at_once() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        queues.add([topic("a"), topic("b")], now);
        let tokens = queues.due(now).into_iter();
        let tokens: Vec<_> = tokens
            .map(|due| (due.queue.clone(), queues.try_one(&due, 1)))
            .collect();
        for name in ["a", "b"] {
            let (_, token) = tokens.iter().find(|(of, _)| *of == topic(name)).unwrap();
            let class = match name {
                "a" => FailureClass::Topic,
                _ => FailureClass::Outage,
            };
            queues.answered(*token, &refused(class), now);
        }
        assert!(queues.needs_a_producer());
        queues.renewed();
        let due: Vec<_> = queues.due(now).into_iter().map(|due| due.queue).collect();
        assert_eq!(due, [topic("b")]);
    }

    #[test]
    fn a_crowd_of_missing_topics_is_tried_in_turns() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        queues.add((0..50).map(|n| topic(&n.to_string())), now);
        let mut seen = HashSet::new();
        for turn in 0..3 {
            for due in queues.due(now) {
                let token = queues.try_one(&due, 1);
                queues.answered(token, &refused(FailureClass::Topic), now);
                seen.insert(due.queue);
            }
            assert_eq!(seen.len(), (20 * (turn + 1)).min(50));
        }
        assert_eq!(queues.due(now), []);
    }

    #[test]
    fn what_was_forgotten_is_tried_alone_again() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        queues.add([topic("a")], now);
        let token = queues.try_one(&queues.due(now)[0].clone(), 1);
        queues.answered(token, &TAKEN, now);
        let token = queues.try_one(&queues.due(now)[0].clone(), 2);
        queues.renewed();
        assert_eq!(queues.answered(token, &TAKEN, now), Answered::Nothing);
        assert_eq!(queues.due(now)[0].limit, 1);
        assert!(queues.hold("a") && !queues.hold("b"));
    }
}
