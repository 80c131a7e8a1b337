//! What the relay decides: which rows are sent, which are parked, what is held back, when everything
//! starts over, and how far the cursor has come. Pure: rows, acknowledgements, refusals, room and time
//! in, decisions out; the [`leader`](crate::outgoing::leader) carries them out.
//!
//! Promised, and explored in `exploration`, in whatever order things happen:
//!
//! - The cursor passes no message that is neither acknowledged nor parked.
//! - Messages of a key are first sent in order, except those that were in flight when an earlier one
//!   was refused for good.
//! - A topic that refuses, whatever the way, stops no other for longer than it takes to find that out.
//! - Nothing spins: each failure is followed by a pause, by something parked, or by smaller batches.
//!
//! Whose fault a failure is says [`FailureClass`]. One that is not listed there counts as nobody's, so it
//! parks nothing; but if the broker is well whenever it is asked, and the same topic fails that way
//! again and again, it is that topic's.

#[cfg(test)]
mod exploration;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    broker::{Failure, FailureClass, is_too_large},
    outgoing::{
        cursor::Cursor,
        logged::Logged,
        parking::{BlockedKey, BlockedKeys, Queue, Queues},
        reader::Page,
        ring::{Oldest, Ring, Sent, Tick},
    },
};

/// First and longest pause after an outage that broke the producer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// So often a topic fails in a way that is not listed, while the broker is well, until it is held.
const STRIKES: u32 = 3;
/// Batches are not made smaller than this, in bytes: a topic that refuses even these has a limit
/// below what `enqueue` lets in, or refuses for another reason.
const SMALLEST_BATCH: usize = 16 << 10;
/// What is sent beside a payload, see `enqueue`.
const ENVELOPE: usize = 1024;
/// Names of topics that are remembered, so that each message does not carry its own.
const NAMES: usize = 10_000;

/// How much may be in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What is to be done after deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    GoOn,
    /// The record was refused when it was alone: park it, with a new producer.
    Park(Fault),
    /// Park what is withheld, give the producer up and start over at the cursor. Nothing is sent
    /// before a question is answered.
    StartOver(Failure, Option<Question>),
}

/// A record the broker refused when it was alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) token: usize,
    pub(crate) seq: i64,
    pub(crate) topic: Arc<str>,
    pub(crate) failure: Failure,
}

/// What the broker is to be asked before the next message is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// A batch was too large for this topic: how much does it take?
    Limit(Arc<str>),
    /// A failure that is not listed, of this topic and message: is the broker well?
    Well(Arc<str>, i64),
}

/// What the broker said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The largest batch, in bytes; `None` when it did not say.
    Limit(Option<usize>),
    Well(bool),
}

/// A message about to be parked, by its token.
#[derive(Debug)]
pub(crate) struct Withheld {
    pub(crate) token: usize,
    pub(crate) seq: i64,
    pub(crate) topic: Arc<str>,
    pub(crate) why: Why,
}

#[derive(Debug)]
pub(crate) enum Why {
    /// An earlier message of its key is parked. The row may be sent after all, if the key is open.
    Blocked(Box<Logged>),
    /// Its topic refuses.
    Held,
    /// No record can be made of it.
    Flawed(String),
}

/// What is about to be parked, by the class it is parked as.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    pub(crate) blocked: Vec<Withheld>,
    /// By topic, with what the broker said of it.
    pub(crate) held: HashMap<Arc<str>, Held>,
    pub(crate) flawed: Vec<Withheld>,
    /// For keys that an operator has opened meanwhile: to be sent after all.
    opened: Vec<Withheld>,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) reason: String,
    pub(crate) messages: Vec<Withheld>,
    /// Whether the topic refuses since now only.
    pub(crate) begins: bool,
}

/// A failure that concerns more than its own record.
#[derive(Debug)]
struct Broken {
    token: usize,
    seq: i64,
    topic: Arc<str>,
    failure: Failure,
}

pub(crate) struct Flow {
    room: Room,
    /// Acknowledged or parked.
    cursor: Cursor,
    /// Read and not yet sent.
    pending: VecDeque<(Arc<Tick>, Logged)>,
    /// The tick `pending` ends, if it does.
    ending: Option<Arc<Tick>>,
    /// In flight.
    ring: Ring,

    /// Records refused in company: to be sent alone.
    suspects: BTreeSet<i64>,
    /// The suspect in flight alone: its token and number.
    alone: Option<(usize, i64)>,
    /// The highest number that was given to a producer that has been given up since.
    given: i64,

    /// Of the deliveries that are being taken.
    broken: Option<Broken>,
    /// Records of a batch that was refused, with their sizes.
    refused: Vec<(i64, usize)>,
    /// Those of a batch that was too large, until it is known how much its topic takes.
    too_large: Vec<(i64, usize)>,
    /// The largest batch of several records.
    batch_bytes: usize,
    asked: Option<Question>,
    /// Failures that are not listed, by topic: how many, and the message that failed last. Until that
    /// message is acknowledged.
    strikes: HashMap<Arc<str>, (u32, i64)>,

    /// What is parked.
    blocked: BlockedKeys,
    pub(crate) queues: Queues,
    withheld: Vec<Withheld>,
    /// What the broker said last of a topic that refuses.
    reasons: HashMap<Arc<str>, String>,
    names: HashSet<Arc<str>>,

    backoff: Duration,
    /// Nothing is sent before.
    resume_at: Instant,
}

impl Flow {
    /// Goes on from a cursor.
    pub(crate) fn at(cursor: Cursor, room: Room, batch_bytes: usize, now: Instant) -> Self {
        Self {
            room,
            cursor,
            pending: VecDeque::new(),
            ending: None,
            ring: Ring::default(),
            suspects: BTreeSet::new(),
            alone: None,
            given: 0,
            broken: None,
            refused: Vec::new(),
            too_large: Vec::new(),
            batch_bytes,
            asked: None,
            strikes: HashMap::new(),
            blocked: BlockedKeys::default(),
            queues: Queues::default(),
            withheld: Vec::new(),
            reasons: HashMap::new(),
            names: HashSet::new(),
            backoff: BACKOFF.0,
            resume_at: now,
        }
    }

    /// Learns which keys are blocked already.
    pub(crate) fn remember(&mut self, blocked: impl IntoIterator<Item = BlockedKey>) {
        blocked.into_iter().for_each(|key| self.blocked.block(key));
    }

    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.ring.messages()
    }

    pub(crate) fn suspects(&self) -> usize {
        self.suspects.len()
    }

    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// The highest number of its key's later messages that may have arrived before a message that is
    /// refused now.
    pub(crate) fn given(&self) -> i64 {
        self.given
    }

    pub(crate) fn has_room(&self) -> bool {
        self.ring.messages() < self.room.messages && self.ring.bytes() < self.room.bytes
    }

    /// Whether a page is wanted.
    pub(crate) fn wants_rows(&self) -> bool {
        self.pending.is_empty() && self.ending.is_none() && self.has_room()
    }

    /// Whether the cursor has moved over a message.
    pub(crate) fn is_past(&self, token: usize) -> bool {
        self.ring.is_past(token)
    }

    /// The message that holds the cursor back, if one does.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        self.ring.oldest()
    }

    // ---- rows in ----

    /// Takes rows that were read.
    pub(crate) fn take(&mut self, page: Page) {
        if page.last {
            self.ending = Some(Arc::clone(&page.tick));
        }
        let rows = page.rows.into_iter();
        self.pending
            .extend(rows.map(|row| (Arc::clone(&page.tick), row)));
    }

    /// The next message to be sent, with its token. What must not be sent is withheld on the way.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(usize, Logged)> {
        if self.asked.is_some() || now < self.resume_at {
            return None;
        }
        while self.alone.is_none() && self.has_room() {
            let Some((tick, row)) = self.pending.pop_front() else {
                if let Some(tick) = self.ending.take() {
                    self.ring.end(&tick);
                }
                return None;
            };
            let suspect = self.suspects.contains(&row.seq);
            // A row without a record blocks its key, which must be known before the next is sent.
            let waits = row.flaw.is_none() && self.withholds_flawed();
            if waits || (suspect && self.ring.messages() > 0) {
                self.pending.push_front((tick, row));
                return None;
            }
            let sent = Sent {
                seq: row.seq,
                topic: self.name(&row.topic),
                bytes: row.bytes(),
                created_at: row.created_at,
                sent_at: now,
            };
            let topic = Arc::clone(&sent.topic);
            let token = self.ring.push(&tick, sent);
            match self.why_not(row) {
                Ok(row) => {
                    self.alone = suspect.then_some((token, row.seq));
                    return Some((token, row));
                }
                Err((seq, why)) => self.withheld.push(Withheld {
                    token,
                    seq,
                    topic,
                    why,
                }),
            }
        }
        None
    }

    /// The producer had no room for it.
    pub(crate) fn not_sent(&mut self, token: usize, row: Logged) {
        self.alone.take_if(|(alone, _)| *alone == token);
        if let Some(tick) = self.ring.take_back() {
            self.pending.push_front((tick, row));
        }
    }

    /// A row that may be sent, or its number and why it must be parked.
    fn why_not(&self, mut row: Logged) -> Result<Logged, (i64, Why)> {
        let seq = row.seq;
        if self.blocked.contains(&row.topic, &row.key) {
            return Err((seq, Why::Blocked(Box::new(row))));
        }
        if let Some(flaw) = row.flaw.take() {
            return Err((seq, Why::Flawed(flaw)));
        }
        if self.queues.hold(&row.topic) {
            return Err((seq, Why::Held));
        }
        Ok(row)
    }

    fn withholds_flawed(&self) -> bool {
        let last = self.withheld.last();
        last.is_some_and(|withheld| matches!(withheld.why, Why::Flawed(_)))
    }

    fn name(&mut self, topic: &str) -> Arc<str> {
        if let Some(name) = self.names.get(topic) {
            return Arc::clone(name);
        }
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        let name: Arc<str> = topic.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    // ---- deliveries in ----

    pub(crate) fn acknowledged(&mut self, token: usize) {
        if !self.strikes.is_empty()
            && let Some(sent) = self.ring.message(token)
            && let Some((_, seq)) = self.strikes.get(&sent.topic)
            && *seq == sent.seq
        {
            self.strikes.remove(&sent.topic);
        }
        self.ring.acknowledge(token);
    }

    /// Whether a report is about a message in flight, and not from before everything started over.
    pub(crate) fn knows(&self, token: usize) -> bool {
        self.ring.message(token).is_some()
    }

    pub(crate) fn refused(&mut self, token: usize, failure: Failure) {
        let Some(sent) = self.ring.message(token) else {
            return;
        };
        let (seq, topic, bytes) = (sent.seq, Arc::clone(&sent.topic), sent.bytes);
        let broken = |failure| Broken {
            token,
            seq,
            topic: Arc::clone(&topic),
            failure,
        };
        let struck_out = || self.is_struck_out(&topic);
        match failure.class {
            FailureClass::Topic => self.hold(token, failure.reason),
            FailureClass::Record => {
                self.refused.push((seq, bytes));
                self.broken = Some(broken(failure));
            }
            // The producer has failed with it, so that everything starts over, without its topic.
            FailureClass::Unlisted if struck_out() => {
                let broken = broken(failure.clone());
                self.broken.get_or_insert(broken);
                self.hold(token, failure.reason);
            }
            // What the client gave up because of a refused record is no outage.
            FailureClass::Outage | FailureClass::Ours | FailureClass::Unlisted => {
                self.broken.get_or_insert_with(|| broken(failure));
            }
        }
    }

    /// Withholds a message that was sent, because its topic refuses it.
    fn hold(&mut self, token: usize, reason: String) {
        let Some(sent) = self.ring.message(token) else {
            return;
        };
        let (seq, topic) = (sent.seq, Arc::clone(&sent.topic));
        if self.alone.take_if(|(alone, _)| *alone == token).is_some() {
            self.suspects.remove(&seq);
        }
        self.reasons.insert(Arc::clone(&topic), reason);
        let why = Why::Held;
        self.withheld.push(Withheld {
            token,
            seq,
            topic,
            why,
        });
    }

    /// Withholds everything in flight to a topic.
    pub(crate) fn hold_all_of(&mut self, topic: &str, reason: &str) {
        let of = self.ring.outstanding();
        let of = of.filter(|(_, sent)| &*sent.topic == topic);
        let tokens: Vec<_> = of.map(|(token, _)| token).collect();
        for token in tokens {
            self.hold(token, reason.to_owned());
        }
    }

    /// What follows from the deliveries taken since the last verdict.
    pub(crate) fn verdict(&mut self) -> Verdict {
        let refused = std::mem::take(&mut self.refused);
        let Some(broken) = self.broken.take() else {
            return Verdict::GoOn;
        };
        let Broken {
            token,
            seq,
            topic,
            failure,
        } = broken;
        let question = match failure.class {
            FailureClass::Record if self.alone == Some((token, seq)) => {
                return Verdict::Park(Fault {
                    token,
                    seq,
                    topic,
                    failure,
                });
            }
            FailureClass::Record if is_too_large(&failure) => {
                self.too_large = refused;
                Some(Question::Limit(topic))
            }
            FailureClass::Record => {
                self.suspects.extend(refused.iter().map(|(seq, _)| *seq));
                None
            }
            FailureClass::Unlisted if !self.is_struck_out(&topic) => {
                Some(Question::Well(topic, seq))
            }
            _ => None,
        };
        self.asked.clone_from(&question);
        Verdict::StartOver(failure, question)
    }

    fn is_struck_out(&self, topic: &str) -> bool {
        self.strikes.get(topic).is_some_and(|(n, _)| *n >= STRIKES)
    }

    /// Takes the answer to the question of the last verdict.
    pub(crate) fn answered(&mut self, answer: Answer) {
        match (self.asked.take(), answer) {
            (Some(Question::Well(topic, seq)), Answer::Well(true)) => {
                let strikes = self.strikes.entry(topic).or_default();
                *strikes = (strikes.0 + 1, seq);
            }
            (Some(Question::Limit(_)), Answer::Limit(limit)) => {
                let said = limit.filter(|limit| *limit < self.batch_bytes);
                let smaller = said.unwrap_or(self.batch_bytes / 2).max(SMALLEST_BATCH);
                let shrinks = smaller < self.batch_bytes;
                self.batch_bytes = self.batch_bytes.min(smaller);
                // In smaller batches only what is too large itself is refused.
                let refused = std::mem::take(&mut self.too_large).into_iter();
                let most = said.unwrap_or(smaller);
                let suspect = |(_, bytes): &(i64, usize)| !shrinks || bytes + ENVELOPE > most;
                self.suspects
                    .extend(refused.filter(suspect).map(|(seq, _)| seq));
            }
            _ => {}
        }
    }

    /// A topic takes only so much.
    pub(crate) fn shrink_batches(&mut self, bytes: usize) {
        self.batch_bytes = self.batch_bytes.min(bytes);
    }

    // ---- the cursor ----

    /// Moves the cursor over what is acknowledged or parked without a gap; says whether a message was.
    /// `published` is told of each that was acknowledged.
    pub(crate) fn advance(&mut self, mut published: impl FnMut(&Sent)) -> bool {
        let (before, mut any) = (self.ring.messages(), false);
        let moved = self.ring.advance(|sent| {
            any = true;
            published(sent);
        });
        if let Some(cursor) = moved {
            self.cursor = cursor;
        }
        if let Some((_, seq)) = self.alone.take_if(|(token, _)| self.ring.is_past(*token)) {
            tracing::info!(seq, "a suspect was acknowledged when sent alone");
            self.suspects.remove(&seq);
        }
        if any {
            self.backoff = BACKOFF.0;
        }
        self.ring.messages() < before
    }

    /// Forgets what was read and is in flight; it is read and sent again.
    pub(crate) fn rewind(&mut self) {
        self.ring.clear();
        self.pending.clear();
        self.withheld.clear();
        self.ending = None;
        self.alone = None;
    }

    /// With a new producer, at the cursor; after an outage not before a pause.
    pub(crate) fn start_over(&mut self, class: Option<FailureClass>, now: Instant) {
        self.given = self.given.max(self.ring.highest_seq());
        self.rewind();
        let outage = [
            FailureClass::Outage,
            FailureClass::Ours,
            FailureClass::Unlisted,
        ];
        if class.is_some_and(|class| outage.contains(&class)) {
            self.resume_at = now + self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
    }

    // ---- parking ----

    pub(crate) fn has_withheld(&self) -> bool {
        !self.withheld.is_empty()
    }

    /// The keys because of which something is withheld: they may be open by now.
    pub(crate) fn keys_to_check(&self) -> Vec<BlockedKey> {
        let keys = self.withheld.iter().filter_map(key_of);
        keys.collect::<HashSet<_>>().into_iter().collect()
    }

    /// Takes what is to be parked now. `locked` are those of the keys that are still blocked.
    pub(crate) fn sort_withheld(&mut self, locked: &HashSet<BlockedKey>) -> Sorted {
        let mut sorted = Sorted::default();
        for withheld in std::mem::take(&mut self.withheld) {
            match (&withheld.why, key_of(&withheld)) {
                (Why::Flawed(_), _) => sorted.flawed.push(withheld),
                (Why::Blocked(_), Some(key)) if locked.contains(&key) => {
                    sorted.blocked.push(withheld);
                }
                (Why::Blocked(_), _) => sorted.opened.push(withheld),
                (Why::Held, _) => {
                    let topic = Arc::clone(&withheld.topic);
                    let held = sorted.held.entry(topic);
                    let held = held.or_insert_with(|| self.held(&withheld.topic));
                    held.messages.push(withheld);
                }
            }
        }
        sorted
    }

    fn held(&self, topic: &str) -> Held {
        let reason = self.reasons.get(topic).cloned();
        Held {
            reason: reason.unwrap_or_else(|| "its topic is held".to_owned()),
            messages: Vec::new(),
            begins: !self.queues.hold(topic),
        }
    }

    /// These are parked, and these keys are blocked by it. Returns what is to be sent after all.
    pub(crate) fn parked(
        &mut self,
        sorted: Sorted,
        blocked: Vec<BlockedKey>,
        now: Instant,
    ) -> Vec<(usize, Logged)> {
        let Sorted {
            blocked: followers,
            held,
            flawed,
            opened,
        } = sorted;
        self.remember(blocked);
        for (topic, held) in held {
            self.queues.add([Queue::Topic(topic.to_string())], now);
            self.strikes.remove(&topic);
            for withheld in held.messages {
                self.ring.set_aside(withheld.token);
            }
        }
        for withheld in followers.into_iter().chain(flawed) {
            self.ring.set_aside(withheld.token);
        }
        opened.iter().filter_map(key_of).for_each(|key| {
            self.blocked.open(&key);
        });
        let mut sends = Vec::new();
        for withheld in opened {
            let Withheld {
                token, topic, why, ..
            } = withheld;
            let Why::Blocked(row) = why else { continue };
            match self.why_not(*row) {
                Ok(row) => sends.push((token, row)),
                Err((seq, why)) => self.withheld.push(Withheld {
                    token,
                    seq,
                    topic,
                    why,
                }),
            }
        }
        sends
    }

    /// The refused one is about to be parked, so the cursor may pass it.
    pub(crate) fn set_aside(&mut self, fault: &Fault) {
        self.ring.set_aside(fault.token);
        self.alone = None;
        self.suspects.remove(&fault.seq);
    }

    /// A key holds nothing any more.
    pub(crate) fn open(&mut self, key: &BlockedKey) {
        self.blocked.open(key);
    }

    /// A topic takes messages again.
    pub(crate) fn healed(&mut self, queue: &Queue) {
        if let Queue::Topic(topic) = queue {
            self.reasons.remove(topic.as_str());
        }
        self.queues.remove(queue);
    }
}

fn key_of(withheld: &Withheld) -> Option<BlockedKey> {
    match &withheld.why {
        Why::Blocked(row) => Some(BlockedKey {
            topic: row.topic.clone(),
            key: row.key.clone(),
        }),
        Why::Held | Why::Flawed(_) => None,
    }
}
