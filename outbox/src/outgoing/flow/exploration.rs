//! The relay's decisions under whatever may happen, in any order: a log, a broker and a database of a few
//! lines each, and a seed that chooses what happens next.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use uuid::Uuid;

use crate::{
    broker::{Failure, FailureClass},
    outgoing::{
        cursor::{Cursor, Cut},
        flow::{Answer, Fault, Flow, Question, Room, Verdict, Why},
        logged::Logged,
        parking::{Answered, BlockedKey, Due, Queue},
        reader::Page,
        ring::Tick,
    },
};

/// Rows of a tick.
const TICK: usize = 5;
const TOPICS: [&str; 3] = ["a", "b", "c"];

/// What a topic does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// Refuses, and says that it is itself.
    Missing,
    /// Fails in a way that nobody has listed, and breaks the producer.
    Strange,
    /// Takes batches of this size only.
    Narrow(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Poison { asked: bool },
    Blocked,
    Held,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A producer and what is on its way through it.
#[derive(Default)]
struct Line {
    given: Vec<(usize, Logged)>,
    /// It sends nothing more.
    broken: bool,
    /// Reports that the relay has not taken yet.
    reports: Vec<(usize, Result<(), Failure>)>,
}

struct World {
    dice: Dice,
    now: Instant,
    log: Vec<Logged>,
    /// The tick to be read next, and the number after which.
    place: (usize, i64),
    flow: Flow,
    question: Option<Question>,

    line: Line,
    tries: Line,
    moods: HashMap<&'static str, Mood>,
    /// Refused for good, even alone; and those that ever were.
    sick: HashSet<i64>,
    was_sick: HashSet<i64>,
    /// First occurrences in order.
    arrived: Vec<i64>,
    acknowledged: HashSet<i64>,

    stored: Cursor,
    parked: BTreeMap<i64, (Class, Logged)>,
    blocked: HashMap<BlockedKey, Option<i64>>,
    resets: usize,
}

fn cut(n: usize) -> Cut {
    let snapshot = format!("{0}:{0}:", n + 1).parse().unwrap();
    Cut { snapshot, floor: 0 }
}

fn failure(class: FailureClass, reason: &str) -> Failure {
    let reason = reason.to_owned();
    Failure { class, reason }
}

fn key(row: &Logged) -> BlockedKey {
    let (topic, key) = (row.topic.clone(), row.key.clone());
    BlockedKey { topic, key }
}

fn flow_at(cursor: &Cursor, now: Instant) -> Flow {
    let room = Room {
        messages: 12,
        bytes: 1 << 20,
    };
    Flow::at(cursor.clone(), room, 1_000_000, now)
}

impl World {
    fn new(seed: u64, rows: i64) -> Self {
        let mut dice = Dice(seed);
        let now = Instant::now();
        let (mut sick, mut log) = (HashSet::new(), Vec::new());
        for seq in 1..=rows {
            if dice.one_in(15) {
                sick.insert(seq);
            }
            log.push(Logged {
                seq,
                message_id: Uuid::nil(),
                topic: TOPICS[dice.below(3)].to_owned(),
                key: ["", "x", "y"][dice.below(3)].to_owned(),
                kind: "test.v1".to_owned(),
                payload: Some(vec![0; 1_000 + 20_000 * dice.below(2)]),
                traceparent: None,
                headers: None,
                created_at: Utc::now(),
                flaw: dice.one_in(20).then(|| "a test".to_owned()),
            });
        }
        let stored = Cursor::at(cut(0));
        Self {
            dice,
            now,
            log,
            place: (0, 0),
            flow: flow_at(&stored, now),
            question: None,
            line: Line::default(),
            tries: Line::default(),
            moods: TOPICS.map(|topic| (topic, Mood::Well)).into(),
            was_sick: sick.clone(),
            sick,
            arrived: Vec::new(),
            acknowledged: HashSet::new(),
            stored,
            parked: BTreeMap::new(),
            blocked: HashMap::new(),
            resets: 0,
        }
    }

    // ---- the log ----

    fn read(&mut self) {
        let (tick, after) = self.place;
        let rows = self.log.chunks(TICK).nth(tick);
        let Some(rows) = rows.filter(|_| self.flow.wants_rows()) else {
            return;
        };
        let left: Vec<_> = rows.iter().filter(|row| row.seq > after).cloned().collect();
        let page = 1 + self.dice.below(TICK);
        let rows: Vec<_> = left.iter().take(page).cloned().collect();
        let last = rows.len() == left.len();
        self.place = match (last, rows.last()) {
            (true, _) => (tick + 1, 0),
            (false, row) => (tick, row.map_or(after, |row| row.seq)),
        };
        let tick = Arc::new(Tick {
            settled: cut(tick),
            target: cut(tick + 1),
            ceiling: i64::MAX,
        });
        self.flow.take(Page { tick, rows, last });
    }

    fn passed(cursor: &Cursor) -> (usize, i64) {
        let tick = cursor.settled.snapshot.xmax() as usize - 1;
        (tick, cursor.last_seq)
    }

    /// The cursor passes nothing that is neither acknowledged nor parked.
    fn check(&self) {
        let (tick, last) = Self::passed(self.flow.cursor());
        for (n, row) in self.log.iter().enumerate() {
            let passed = n / TICK < tick || (n / TICK == tick && row.seq <= last);
            let kept = self.acknowledged.contains(&row.seq) || self.parked.contains_key(&row.seq);
            assert!(!passed || kept, "{} is lost", row.seq);
        }
    }

    // ---- the broker ----

    fn arrive(&mut self, row: &Logged) {
        if self.arrived.contains(&row.seq) {
            return;
        }
        for earlier in &self.log {
            if earlier.seq >= row.seq || key(earlier) != key(row) || row.key.is_empty() {
                continue;
            }
            let excused = self.was_sick.contains(&earlier.seq) || earlier.flaw.is_some();
            let first = excused || self.arrived.contains(&earlier.seq);
            assert!(first, "{} overtakes {}", row.seq, earlier.seq);
        }
        assert!(row.flaw.is_none(), "no record can be made of {}", row.seq);
        self.arrived.push(row.seq);
    }

    /// The broker takes or refuses something.
    fn serve(&mut self, of_tries: bool) {
        let mut line = std::mem::take(match of_tries {
            true => &mut self.tries,
            false => &mut self.line,
        });
        if !line.given.is_empty() && !line.broken {
            let chosen = self.dice.below(line.given.len());
            let topic = line.given[chosen].1.topic.clone();
            let of = |(_, row): &(usize, Logged)| row.topic == topic;
            let together = 1 + self.dice.below(3);
            let batch: Vec<_> = line.given.iter().filter(|g| of(g)).cloned().collect();
            let mood = self.moods[topic.as_str()];
            let (batch, refused) = match mood {
                Mood::Missing => (batch, Some(failure(FailureClass::Topic, "UnknownTopic"))),
                Mood::Strange => {
                    line.broken = true;
                    let one = batch[..1].to_vec();
                    (one, Some(failure(FailureClass::Unlisted, "Unknown")))
                }
                Mood::Well | Mood::Narrow(_) => {
                    let most = match mood {
                        Mood::Narrow(most) => most,
                        _ => usize::MAX,
                    };
                    // As the client was told, if it has more than one.
                    let (mut bytes, mut together, max) = (0, together, self.flow.batch_bytes());
                    let batch: Vec<_> = batch
                        .into_iter()
                        .take_while(|(_, row)| {
                            let size = row.payload.as_ref().map_or(0, Vec::len);
                            let first = bytes == 0;
                            let fits = first || (together > 0 && bytes + size <= max);
                            bytes += size;
                            together = together.saturating_sub(1);
                            fits
                        })
                        .collect();
                    let bytes: usize = batch
                        .iter()
                        .map(|(_, row)| row.payload.as_ref().map_or(0, Vec::len))
                        .sum();
                    let sick = batch.iter().any(|(_, row)| self.sick.contains(&row.seq));
                    let why = match (bytes > most, sick) {
                        (true, _) => Some("MessageSizeTooLarge"),
                        (false, true) => Some("InvalidRecord"),
                        (false, false) => None,
                    };
                    line.broken = why.is_some();
                    if bytes > most && batch.len() == 1 {
                        self.was_sick.insert(batch[0].1.seq);
                    }
                    (batch, why.map(|why| failure(FailureClass::Record, why)))
                }
            };
            let tokens: HashSet<_> = batch.iter().map(|(token, _)| *token).collect();
            line.given.retain(|(token, _)| !tokens.contains(token));
            for (token, row) in &batch {
                if refused.is_none() {
                    self.arrive(row);
                }
                let result = refused.clone().map_or(Ok(()), Err);
                line.reports.push((*token, result));
            }
        }
        match of_tries {
            true => self.tries = line,
            false => self.line = line,
        }
    }

    /// The cluster is away for a moment.
    fn fail(line: &mut Line) {
        line.broken = true;
        for (token, _) in line.given.drain(..) {
            let away = failure(FailureClass::Outage, "AllBrokersDown");
            line.reports.push((token, Err(away)));
        }
    }

    // ---- the relay's loop, a piece at a time ----

    fn feed(&mut self, most: usize) {
        for _ in 0..most {
            let Some((token, row)) = self.flow.next(self.now) else {
                return;
            };
            if self.dice.one_in(20) {
                return self.flow.not_sent(token, row);
            }
            if self.line.broken {
                let broken = failure(FailureClass::Outage, "Fatal");
                self.line.reports.push((token, Err(broken)));
                return;
            }
            self.line.given.push((token, row));
        }
    }

    /// Some reports, the acknowledgements among them in any order.
    fn take_deliveries(&mut self, all: bool) {
        let mut taken = 0;
        while !self.line.reports.is_empty() && (all || taken < 3) {
            let chosen = match all {
                true => 0,
                false => self.dice.below(self.line.reports.len()),
            };
            let (token, result) = self.line.reports.remove(chosen);
            taken += 1;
            match result {
                Ok(()) => self.flow.acknowledged(token),
                Err(failure) if self.flow.knows(token) => self.flow.refused(token, failure),
                Err(_) => {}
            }
        }
        self.advance();
        match self.flow.verdict() {
            Verdict::GoOn => {}
            Verdict::Park(fault) => self.park(&fault),
            Verdict::StartOver(failure, question) => {
                self.withhold();
                self.resets += 1;
                self.line.broken = false;
                self.line.given.clear();
                self.flow.start_over(Some(failure.class), self.now);
                self.rewind();
                self.question = question;
            }
        }
    }

    fn advance(&mut self) {
        let acknowledged = &mut self.acknowledged;
        self.flow.advance(|sent| {
            acknowledged.insert(sent.seq);
        });
        self.check();
    }

    fn rewind(&mut self) {
        let (tick, last) = Self::passed(self.flow.cursor());
        self.place = (tick, last);
    }

    fn answer(&mut self) {
        let answer = match self.question.take() {
            None => return,
            Some(Question::Well(..)) => Answer::Well(true),
            Some(Question::Limit(topic)) => Answer::Limit(match self.moods[&*topic] {
                Mood::Narrow(most) if self.dice.one_in(2) => Some(most),
                _ => None,
            }),
        };
        self.flow.answered(answer);
    }

    fn store(&mut self) {
        self.stored = self.flow.cursor().clone();
    }

    /// The lease moves to another process.
    fn crash(&mut self) {
        self.flow = flow_at(&self.stored, self.now);
        self.flow.remember(self.blocked.keys().cloned());
        (self.line, self.tries) = (Line::default(), Line::default());
        self.question = None;
        self.look();
        self.rewind();
    }

    // ---- the database ----

    fn park(&mut self, fault: &Fault) {
        self.flow.set_aside(fault);
        self.line.broken = false;
        let row = self.log.iter().find(|row| row.seq == fault.seq);
        let row = row.unwrap().clone();
        let class = Class::Poison { asked: false };
        self.parked.entry(fault.seq).or_insert((class, row));
        self.store();
        let blocked = self.block(fault.seq);
        self.flow.remember(blocked);
        self.advance();
    }

    fn block(&mut self, seq: i64) -> Option<BlockedKey> {
        let key = key(&self.parked[&seq].1);
        if key.key.is_empty() {
            return None;
        }
        self.blocked
            .entry(key.clone())
            .or_default()
            .get_or_insert(seq);
        for (class, row) in self.parked.values_mut() {
            if *class == Class::Held && self::key(row) == key {
                *class = Class::Blocked;
            }
        }
        Some(key)
    }

    fn withhold(&mut self) {
        if !self.flow.has_withheld() {
            return;
        }
        let keys = self.flow.keys_to_check().into_iter();
        let locked = keys.filter(|key| self.blocked.contains_key(key)).collect();
        let sorted = self.flow.sort_withheld(&locked);
        let mut copies: Vec<_> = sorted
            .blocked
            .iter()
            .map(|w| (w.seq, Class::Blocked))
            .collect();
        for held in sorted.held.values() {
            copies.extend(held.messages.iter().map(|w| (w.seq, Class::Held)));
        }
        let poison = Class::Poison { asked: false };
        copies.extend(sorted.flawed.iter().map(|w| (w.seq, poison)));
        for (seq, class) in copies {
            let row = self.log.iter().find(|row| row.seq == seq).unwrap().clone();
            self.parked.entry(seq).or_insert((class, row));
        }
        self.store();
        let flawed = sorted.flawed.iter();
        assert!(flawed.clone().all(|w| matches!(w.why, Why::Flawed(_))));
        let flawed: Vec<_> = flawed.map(|withheld| withheld.seq).collect();
        let blocked = flawed
            .into_iter()
            .filter_map(|seq| self.block(seq))
            .collect();
        for (token, row) in self.flow.parked(sorted, blocked, self.now) {
            self.line.given.push((token, row));
        }
        self.advance();
    }

    fn look(&mut self) {
        let mut queues = Vec::new();
        for (class, row) in self.parked.values() {
            let (topic, seq) = (row.topic.clone(), row.seq);
            match class {
                Class::Held => queues.push(Queue::Topic(topic)),
                Class::Poison { asked: true } => queues.push(Queue::One { topic, seq }),
                Class::Poison { asked: false } | Class::Blocked => {}
            }
        }
        for (BlockedKey { topic, key }, head) in &self.blocked {
            if head.is_none() {
                let (topic, key) = (topic.clone(), key.clone());
                queues.push(Queue::Key { topic, key });
            }
        }
        self.flow.queues.add(queues, self.now);
    }

    fn next_of(&self, due: &Due) -> Vec<Logged> {
        let of = |(class, row): &&(Class, Logged)| match &due.queue {
            Queue::Topic(topic) => *class == Class::Held && row.topic == *topic,
            Queue::Key { topic, key } => {
                *class == Class::Blocked && row.topic == *topic && row.key == *key
            }
            Queue::One { seq, .. } => {
                matches!(class, Class::Poison { asked: true }) && row.seq == *seq
            }
        };
        let rows = self.parked.values().filter(of).map(|(_, row)| row.clone());
        rows.take(due.limit as usize).collect()
    }

    fn try_parked(&mut self) {
        for due in self.flow.queues.due(self.now) {
            let rows = self.next_of(&due);
            if rows.is_empty() {
                self.flow.healed(&due.queue);
            }
            for row in rows {
                let token = self.flow.queues.try_one(&due, row.seq);
                if row.flaw.is_some() {
                    self.flow.queues.not_sent(token);
                    self.refuse(&due.queue, row.seq);
                    break;
                }
                if self.tries.broken {
                    let broken = failure(FailureClass::Outage, "Fatal");
                    self.tries.reports.push((token, Err(broken)));
                    break;
                }
                self.tries.given.push((token, row));
            }
        }
    }

    fn refuse(&mut self, queue: &Queue, seq: i64) {
        if let Some((class, _)) = self.parked.get_mut(&seq) {
            *class = Class::Poison { asked: false };
            if !matches!(queue, Queue::One { .. }) {
                let blocked = self.block(seq);
                self.flow.remember(blocked);
            }
        }
        if !matches!(queue, Queue::Topic(_)) {
            self.flow.queues.remove(queue);
        }
    }

    fn take_parked(&mut self) {
        for (token, result) in std::mem::take(&mut self.tries.reports) {
            match self.flow.queues.answered(token, &result, self.now) {
                Answered::Nothing | Answered::Failed => {}
                Answered::Taken(seq) => self.forget(seq),
                Answered::Refused(tried, _) => self.refuse(&tried.queue, tried.seq),
            }
        }
        if self.flow.queues.needs_a_producer() {
            self.tries = Line::default();
            self.flow.queues.renewed();
        }
    }

    /// It was acknowledged at last, or an operator has discarded it.
    fn forget(&mut self, seq: i64) {
        let Some((_, row)) = self.parked.remove(&seq) else {
            return;
        };
        self.acknowledged.insert(seq);
        let key = key(&row);
        let Some(head) = self.blocked.get_mut(&key) else {
            return;
        };
        head.take_if(|head| *head == seq);
        let follows =
            |(class, row): &(Class, Logged)| *class == Class::Blocked && self::key(row) == key;
        if head.is_none() && !self.parked.values().any(follows) {
            self.blocked.remove(&key);
            self.flow.open(&key);
        }
    }

    // ---- what happens ----

    fn step(&mut self) {
        match self.dice.below(16) {
            0 | 1 => self.read(),
            2 | 3 => {
                // As in the loop: what is known of a topic is known before more is sent to it.
                self.take_deliveries(true);
                self.withhold();
                let most = 1 + self.dice.below(6);
                self.feed(most);
            }
            4..=6 => self.serve(false),
            7 => self.take_deliveries(false),
            8 => self.take_deliveries(true),
            9 => self.withhold(),
            10 => self.answer(),
            11 => self.serve(true),
            12 => {
                self.look();
                self.try_parked();
            }
            13 => self.take_parked(),
            14 => self.now += Duration::from_millis(self.dice.below(400) as u64),
            _ => self.happen(),
        }
    }

    /// Something that nobody in the relay does.
    fn happen(&mut self) {
        match self.dice.below(8) {
            0 => Self::fail(&mut self.line),
            1 => Self::fail(&mut self.tries),
            2 => self.crash(),
            3 | 4 => self.store(),
            5 => {
                let mood = match self.dice.below(5) {
                    0 => Mood::Missing,
                    1 => Mood::Strange,
                    2 => Mood::Narrow([500, 20_000, 40_000][self.dice.below(3)]),
                    _ => Mood::Well,
                };
                let topic = TOPICS[self.dice.below(3)];
                self.moods.insert(topic, mood);
            }
            6 => {
                let one = self.dice.below(self.log.len()) as i64;
                self.sick.remove(&one);
                if let Some((Class::Poison { asked }, _)) = self.parked.get_mut(&one) {
                    *asked = true;
                }
            }
            _ => {
                // An operator discards a head.
                let heads: Vec<_> = self.blocked.values().flatten().copied().collect();
                if !heads.is_empty() {
                    let head = heads[self.dice.below(heads.len())];
                    self.was_sick.insert(head);
                    self.forget(head);
                    self.advance();
                }
            }
        }
    }

    /// A round of the loop in which everything that can happen does.
    fn round(&mut self) {
        self.read();
        self.feed(100);
        for _ in 0..12 {
            self.serve(false);
            self.serve(true);
        }
        self.take_deliveries(true);
        self.withhold();
        // The loop goes on while the broker is being asked.
        self.take_deliveries(true);
        self.feed(1);
        self.answer();
        self.look();
        self.take_parked();
        self.try_parked();
        self.now += Duration::from_millis(100);
    }

    /// Whether every message of a topic has been sent, but for those that are refused for good and
    /// those behind them.
    fn is_done(&self, topic: &str) -> bool {
        let of = self.log.iter().filter(|row| row.topic == topic);
        let stands = |row: &Logged| match self.parked.get(&row.seq) {
            None => self.acknowledged.contains(&row.seq),
            Some((Class::Held, _)) => false,
            Some((Class::Poison { .. } | Class::Blocked, _)) => true,
        };
        of.clone().all(stands)
    }
}

#[test]
fn in_any_order_nothing_is_lost_or_overtaken_and_all_ends_when_all_is_well() {
    let mut resets = 0;
    for seed in 0..200 {
        let told = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, 40);
            for _ in 0..1_000 {
                world.step();
            }
            world.moods = TOPICS.map(|topic| (topic, Mood::Well)).into();
            let rounds = (0..1_000).find(|_| {
                world.round();
                TOPICS.iter().all(|topic| world.is_done(topic))
            });
            assert!(rounds.is_some(), "it does not end");
            world.resets
        });
        resets += told.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(resets > 500, "{resets} resets: too little happens");
}

#[test]
fn a_topic_that_never_heals_stops_no_other_whatever_its_way() {
    for mood in [Mood::Missing, Mood::Strange, Mood::Narrow(500)] {
        for seed in 0..8 {
            let mut world = World::new(seed, 120);
            world.moods.insert("a", mood);
            let rounds = (0..1_000).find(|_| {
                world.round();
                ["b", "c"].iter().all(|topic| world.is_done(topic))
            });
            assert!(
                rounds.is_some(),
                "{mood:?} with seed {seed} stops the others"
            );
            // What is tried again and again is tried with pauses.
            let before = world.resets;
            for _ in 0..600 {
                world.round();
            }
            let more = world.resets - before;
            assert!(
                more < 100,
                "{mood:?}, seed {seed}: {more} resets in a minute"
            );
        }
    }
}

#[test]
fn a_narrower_topic_makes_smaller_batches_and_suspects_only_what_is_larger() {
    let mut world = World::new(7, 300);
    world.sick.clear();
    world.was_sick.clear();
    for row in &mut world.log {
        (row.flaw, row.payload) = (None, Some(vec![0; 15_000]));
    }
    world.moods.insert("a", Mood::Narrow(40_000));
    let rounds = (0..1_000).find(|_| {
        world.round();
        assert_eq!(world.flow.suspects(), 0, "none is sent alone");
        TOPICS.iter().all(|topic| world.is_done(topic))
    });
    assert!(rounds.is_some(), "all are sent");
    assert!(world.parked.is_empty(), "none is refused for good");
    assert!((1..10).contains(&world.resets), "{} resets", world.resets);
}
