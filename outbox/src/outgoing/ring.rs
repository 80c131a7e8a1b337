//! What is on its way to the broker, in the order it was sent.
//!
//! Acknowledgements come in any order; the cursor may only move over an unbroken run of them.
//! Pure: tokens in, cursors out.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use crate::outgoing::cursor::{Cursor, Cut};

/// The bounds of one tick, shared by its slots.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) settled: Cut,
    pub(crate) target: Cut,
    /// No row of it has a higher number. Above lies what has come since, which may be much.
    pub(crate) ceiling: i64,
}

/// A message that was given to the broker's client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) seq: i64,
    pub(crate) topic: Arc<str>,
    pub(crate) bytes: usize,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) sent_at: Instant,
}

#[derive(Debug)]
struct Slot {
    tick: Arc<Tick>,
    /// `None` marks the end of the tick.
    message: Option<Sent>,
    fate: Fate,
}

impl Slot {
    fn seq(&self) -> Option<i64> {
        self.message.as_ref().map(|message| message.seq)
    }
}

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// On its way.
    Open,
    Acknowledged,
    /// Not to be waited for: it is parked, or it is the end of a tick.
    Aside,
}

/// A message that holds the cursor back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) seq: i64,
    pub(crate) topic: Arc<str>,
    pub(crate) sent_at: Instant,
    /// How much later a message was sent that the broker has acknowledged already.
    pub(crate) overtaken_by: Option<Duration>,
}

/// The outstanding messages. A token is the position of a message in the order of sending.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    slots: VecDeque<Slot>,
    /// The token of the front slot.
    front: usize,
    messages: usize,
    bytes: usize,
}

impl Ring {
    /// Notes a message about to be sent and returns its token.
    pub(crate) fn push(&mut self, tick: &Arc<Tick>, message: Sent) -> usize {
        let token = self.front + self.slots.len();
        self.messages += 1;
        self.bytes += message.bytes;
        self.slots.push_back(Slot {
            tick: Arc::clone(tick),
            message: Some(message),
            fate: Fate::Open,
        });
        token
    }

    /// Notes that everything of `tick` has been pushed.
    pub(crate) fn end(&mut self, tick: &Arc<Tick>) {
        // An empty tick after an ended one: only the later end counts. Otherwise a single message
        // stuck in an outage would let ends pile up behind it.
        if let Some(slot) = self.slots.back_mut()
            && slot.message.is_none()
        {
            slot.tick = Arc::clone(tick);
            return;
        }
        self.slots.push_back(Slot {
            tick: Arc::clone(tick),
            message: None,
            fate: Fate::Aside,
        });
    }

    /// Marks a message as acknowledged. A token of a former producer's life is ignored.
    pub(crate) fn acknowledge(&mut self, token: usize) {
        self.settle(token, Fate::Acknowledged);
    }

    /// Marks a message as one that is not waited for, because it is parked.
    pub(crate) fn set_aside(&mut self, token: usize) {
        self.settle(token, Fate::Aside);
    }

    fn settle(&mut self, token: usize, fate: Fate) {
        let index = token.checked_sub(self.front);
        if let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) {
            slot.fate = fate;
        }
    }

    /// The message a token stands for, while it is outstanding.
    pub(crate) fn message(&self, token: usize) -> Option<&Sent> {
        let index = token.checked_sub(self.front)?;
        self.slots.get(index)?.message.as_ref()
    }

    /// The highest number of those outstanding; 0 when there are none.
    pub(crate) fn highest_seq(&self) -> i64 {
        let seqs = self.slots.iter().filter_map(Slot::seq);
        seqs.max().unwrap_or(0)
    }

    /// Moves over the unbroken run of slots at the front that nobody waits for any more; where it
    /// ends is the new cursor. `None` when nothing moved. `published` is told of each message that
    /// was acknowledged when it was enqueued.
    pub(crate) fn advance(&mut self, mut published: impl FnMut(&Sent)) -> Option<Cursor> {
        let mut last = None;
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.fate != Fate::Open)
        {
            let slot = self.slots.pop_front()?;
            self.front += 1;
            if let Some(message) = &slot.message {
                self.messages -= 1;
                self.bytes -= message.bytes;
                if slot.fate == Fate::Acknowledged {
                    published(message);
                }
            }
            last = Some(slot);
        }
        last.map(|slot| match slot.seq() {
            Some(last_seq) => Cursor {
                settled: slot.tick.settled.clone(),
                target: slot.tick.target.clone(),
                last_seq,
                ceiling: slot.tick.ceiling,
            },
            None => Cursor::at(slot.tick.target.clone()),
        })
    }

    /// Undoes the last push: the message was not sent after all. Returns its tick.
    pub(crate) fn take_back(&mut self) -> Option<Arc<Tick>> {
        let slot = self.slots.pop_back()?;
        if let Some(message) = &slot.message {
            self.messages -= 1;
            self.bytes -= message.bytes;
        }
        Some(slot.tick)
    }

    /// Whether the cursor has moved over a token.
    pub(crate) fn is_past(&self, token: usize) -> bool {
        token < self.front
    }

    /// Forgets everything outstanding: it will be read and sent again.
    pub(crate) fn clear(&mut self) {
        // Tokens go on, so that a late acknowledgement of the past meets no slot of the future.
        *self = Self {
            front: self.front + self.slots.len(),
            ..Self::default()
        };
    }

    /// The message that holds the cursor back, if one does.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        let front = self.slots.front().filter(|slot| slot.fate == Fate::Open)?;
        let front = front.message.as_ref()?;
        let acknowledged = self.slots.iter().rev();
        let mut acknowledged = acknowledged.filter(|slot| slot.fate == Fate::Acknowledged);
        let last = acknowledged.find_map(|slot| slot.message.as_ref());
        Some(Oldest {
            seq: front.seq,
            topic: Arc::clone(&front.topic),
            sent_at: front.sent_at,
            overtaken_by: last.map(|last| last.sent_at.saturating_duration_since(front.sent_at)),
        })
    }

    /// The messages on their way, by token.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (usize, &Sent)> {
        let slots = (self.front..).zip(&self.slots);
        let open = slots.filter(|(_, slot)| slot.fate == Fate::Open);
        open.filter_map(|(token, slot)| Some((token, slot.message.as_ref()?)))
    }

    /// Messages not yet moved over.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(snapshot: &str) -> Cut {
        let snapshot = snapshot.parse().unwrap();
        Cut { snapshot, floor: 0 }
    }

    fn tick(settled: &str, target: &str) -> Arc<Tick> {
        Arc::new(Tick {
            settled: cut(settled),
            target: cut(target),
            ceiling: i64::MAX,
        })
    }

    fn sent(seq: i64, bytes: usize, sent_at: Instant) -> Sent {
        Sent {
            seq,
            topic: "t".into(),
            bytes,
            created_at: Utc::now(),
            sent_at,
        }
    }

    fn place(cursor: &Cursor) -> (String, String, i64) {
        let (settled, target) = (
            cursor.settled.snapshot.to_string(),
            cursor.target.snapshot.to_string(),
        );
        (settled, target, cursor.last_seq)
    }

    #[test]
    fn the_cursor_moves_only_over_an_unbroken_run() {
        let first = tick("1:1:", "9:9:");
        let mut ring = Ring::default();
        let tokens: Vec<_> = (10..14)
            .map(|seq| ring.push(&first, sent(seq, 100, Instant::now())))
            .collect();
        ring.acknowledge(tokens[1]);
        ring.acknowledge(tokens[2]);
        assert_eq!(ring.advance(|_| ()), None);

        ring.acknowledge(tokens[0]);
        let cursor = ring.advance(|_| ()).unwrap();
        assert_eq!(place(&cursor), ("1:1:".into(), "9:9:".into(), 12));
        assert_eq!((ring.messages(), ring.bytes()), (1, 100));
    }

    #[test]
    fn an_ended_tick_settles_its_target_even_with_the_next_one_under_way() {
        let (first, second) = (tick("1:1:", "9:9:"), tick("9:9:", "20:20:"));
        let mut ring = Ring::default();
        let a = ring.push(&first, sent(10, 1, Instant::now()));
        ring.end(&first);
        let b = ring.push(&second, sent(4, 1, Instant::now()));
        ring.acknowledge(a);
        assert_eq!(ring.advance(|_| ()).unwrap(), Cursor::at(cut("9:9:")));
        ring.acknowledge(b);
        let cursor = ring.advance(|_| ()).unwrap();
        assert_eq!(place(&cursor), ("9:9:".into(), "20:20:".into(), 4));
        assert_eq!(ring.messages(), 0);
    }

    #[test]
    fn ends_of_empty_ticks_do_not_pile_up_behind_a_stuck_message() {
        let mut ring = Ring::default();
        let stuck = ring.push(&tick("1:1:", "2:2:"), sent(10, 1, Instant::now()));
        ring.end(&tick("1:1:", "2:2:"));
        for n in 2..100 {
            ring.end(&tick(
                &format!("{n}:{n}:"),
                &format!("{}:{}:", n + 1, n + 1),
            ));
        }
        assert_eq!(ring.slots.len(), 2);
        ring.acknowledge(stuck);
        assert_eq!(ring.advance(|_| ()).unwrap(), Cursor::at(cut("100:100:")));
    }

    #[test]
    fn an_acknowledgement_from_before_a_clear_is_ignored() {
        let only = tick("1:1:", "9:9:");
        let mut ring = Ring::default();
        let old = ring.push(&only, sent(10, 1, Instant::now()));
        ring.clear();
        let new = ring.push(&only, sent(10, 1, Instant::now()));
        assert_ne!(old, new);
        ring.acknowledge(old);
        assert_eq!(ring.advance(|_| ()), None);
        assert_eq!(ring.message(old), None);
        assert_eq!(ring.message(new).unwrap().seq, 10);
    }

    #[test]
    fn what_is_set_aside_lets_the_cursor_pass_and_counts_as_nothing() {
        let only = tick("1:1:", "9:9:");
        let mut ring = Ring::default();
        let tokens: Vec<_> = (10..13)
            .map(|seq| ring.push(&only, sent(seq, 1, Instant::now())))
            .collect();
        ring.set_aside(tokens[0]);
        ring.acknowledge(tokens[1]);
        let mut published = 0;
        let cursor = ring.advance(|_| published += 1).unwrap();
        assert_eq!((cursor.last_seq, published, ring.messages()), (11, 1, 1));
    }

    #[test]
    fn the_oldest_tells_how_far_others_are_ahead_of_it() {
        let only = tick("1:1:", "9:9:");
        let mut ring = Ring::default();
        assert_eq!(ring.oldest(), None);
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let stuck = ring.push(&only, sent(10, 1, start));
        let next = ring.push(&only, sent(11, 1, later));
        let last = ring.push(&only, sent(12, 1, later));
        assert_eq!(ring.oldest().unwrap().overtaken_by, None);
        ring.acknowledge(next);
        ring.set_aside(last);
        let oldest = ring.oldest().unwrap();
        assert_eq!((oldest.seq, oldest.sent_at), (10, start));
        assert_eq!(oldest.overtaken_by, Some(Duration::from_secs(2)));
        let outstanding = ring.outstanding().map(|(token, sent)| (token, sent.seq));
        assert_eq!(outstanding.collect::<Vec<_>>(), [(stuck, 10)]);
        ring.acknowledge(stuck);
        assert_eq!(ring.oldest(), None, "nothing holds the cursor back");
    }
}
