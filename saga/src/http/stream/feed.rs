//! The list's changes: a ring that the poller fills and followers read, each at its own pace. Pure.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    http::{stream::client::Line, view::Summary},
    operator::Selection,
};

/// How many changes are kept for those who come back or are slow.
const KEPT: usize = 4_096;
/// How many changes a follower takes at once.
const TAKEN: usize = 100;

/// A place in the ring. The epoch names the time from one start of the feed to the next: numbers of
/// another one mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: Uuid,
    pub(crate) number: u64,
}

impl Place {
    pub(crate) fn to_id(self) -> String {
        format!("{}-{}", self.epoch.simple(), self.number)
    }

    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (epoch, number) = id.split_once('-')?;
        let place = Self {
            epoch: Uuid::try_parse(epoch).ok()?,
            number: number.parse().ok()?,
        };
        (place.to_id() == id).then_some(place)
    }
}

/// What a follower takes.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Changes after its place that it wants, and its place afterwards. Maybe none.
    Changes(Vec<Line>, Place),
    /// Its place is not in the ring: it loads the list anew and goes on from here.
    Lost(Place),
    /// The feed has not begun; it will.
    NotYet,
}

#[derive(Default)]
pub(crate) struct Feed {
    /// None while nobody follows.
    epoch: Option<Uuid>,
    /// The number of the last change.
    last: u64,
    ring: VecDeque<Arc<Change>>,
    /// The last event of each saga that is followed.
    known: HashMap<Uuid, i64>,
}

struct Change {
    number: u64,
    summary: Summary,
    line: Line,
}

impl Feed {
    /// Whether changes are told.
    pub(crate) fn has_begun(&self) -> bool {
        self.epoch.is_some()
    }

    /// Begins, or begins anew: what was is forgotten.
    pub(crate) fn begin(&mut self, seen: HashMap<Uuid, i64>) {
        *self = Self {
            epoch: Some(Uuid::now_v7()),
            known: seen,
            ..Self::default()
        };
    }

    /// Nobody follows any more.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }

    /// Those of the sagas that have moved since they were seen, and those that are not seen any
    /// more: they may have ended.
    pub(crate) fn moved(&self, seen: &HashMap<Uuid, i64>) -> Vec<Uuid> {
        let moved = seen
            .iter()
            .filter(|(id, seq)| self.known.get(id) != Some(seq));
        let gone = self.known.keys().filter(|id| !seen.contains_key(id));
        moved.map(|(id, _)| *id).chain(gone.copied()).collect()
    }

    /// Whether every one of the newest is new: then there may be more that nobody has seen.
    pub(crate) fn may_have_missed(&self, newest: &[Uuid]) -> bool {
        !newest.is_empty() && newest.iter().all(|id| !self.known.contains_key(id))
    }

    /// Takes note of what was seen, and tells those that have moved.
    pub(crate) fn turn(&mut self, mut seen: HashMap<Uuid, i64>, moved: Vec<Summary>) {
        let Some(epoch) = self.epoch else { return };
        for summary in moved {
            // Read a moment later, it may have moved once more.
            let entry = seen.entry(summary.id);
            entry.and_modify(|seq| *seq = summary.seq.max(*seq));
            if self.known.get(&summary.id) == Some(&summary.seq) {
                continue;
            }
            let Ok(data) = serde_json::to_string(&summary) else {
                continue;
            };
            self.last += 1;
            let number = self.last;
            let line = Line::new("saga", Place { epoch, number }.to_id(), data);
            self.ring.push_back(Arc::new(Change {
                number,
                summary,
                line,
            }));
        }
        self.known = seen;
        let surplus = self.ring.len().saturating_sub(KEPT);
        self.ring.drain(..surplus);
    }

    /// What comes after a place. Whoever has none is lost, and so begins by loading the list.
    pub(crate) fn after(&self, place: Option<Place>, wanted: &Selection) -> Taken {
        let Some(epoch) = self.epoch else {
            return Taken::NotYet;
        };
        let here = |number| Place { epoch, number };
        let first = self.last - self.ring.len() as u64;
        let place = place.filter(|place| place.epoch == epoch);
        let place = place.filter(|place| (first..=self.last).contains(&place.number));
        let Some(place) = place else {
            return Taken::Lost(here(self.last));
        };
        let skipped = usize::try_from(place.number - first).unwrap_or(usize::MAX);
        let mut lines = Vec::new();
        for change in self.ring.iter().skip(skipped) {
            if matches(wanted, &change.summary) {
                lines.push(change.line.clone());
            }
            if lines.len() == TAKEN {
                return Taken::Changes(lines, here(change.number));
            }
        }
        Taken::Changes(lines, here(self.last))
    }
}

/// Of the filters those that never change their mind about a saga.
fn matches(wanted: &Selection, saga: &Summary) -> bool {
    let is = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
    let prefix = wanted.business_key_prefix.as_deref().unwrap_or_default();
    let mut tag = wanted.tag.iter();
    is(&wanted.definition, &saga.definition)
        && wanted.version.is_none_or(|version| version == saga.version)
        && is(&wanted.business_key, &saga.business_key)
        && saga.business_key.starts_with(prefix)
        && tag.all(|(name, value)| saga.tags.get(name) == Some(value))
        && wanted.created_after.is_none_or(|at| saga.created_at >= at)
        && wanted.created_before.is_none_or(|at| saga.created_at < at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;

    use super::*;
    use crate::{instance::Status, stored::Word};

    fn summary(id: u128, seq: i64) -> Summary {
        Summary {
            id: Uuid::from_u128(id),
            definition: "trip".to_owned(),
            version: 1,
            business_key: format!("key-{id}"),
            tags: BTreeMap::from([("customer".to_owned(), id.to_string())]),
            paused: false,
            late: false,
            status: Word::Known(Status::Running),
            reason: None,
            parked_reason: None,
            waiting: None,
            seq,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            ended_at: None,
            unreadable: None,
        }
    }

    fn seen(sagas: &[(u128, i64)]) -> HashMap<Uuid, i64> {
        let sagas = sagas.iter();
        sagas
            .map(|(id, seq)| (Uuid::from_u128(*id), *seq))
            .collect()
    }

    fn taken(feed: &Feed, place: Option<Place>, wanted: &Selection) -> (Vec<String>, Place) {
        match feed.after(place, wanted) {
            Taken::Changes(lines, place) => {
                let lines = lines.iter().map(|line| line.id().to_owned()).collect();
                (lines, place)
            }
            other => panic!("{other:?}"),
        }
    }

    fn begun() -> (Feed, Place) {
        let mut feed = Feed::default();
        assert!(matches!(
            feed.after(None, &Selection::default()),
            Taken::NotYet
        ));
        feed.begin(seen(&[(1, 1)]));
        match feed.after(None, &Selection::default()) {
            Taken::Lost(place) => (feed, place),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_change_is_told_once_to_whoever_has_its_place() {
        let (mut feed, start) = begun();
        let everything = Selection::default();
        let now = seen(&[(1, 2), (2, 1)]);
        assert_eq!(feed.moved(&now).len(), 2);
        feed.turn(now.clone(), vec![summary(1, 2), summary(2, 1)]);
        let (told, place) = taken(&feed, Some(start), &everything);
        assert_eq!(told.len(), 2);
        assert_eq!(taken(&feed, Some(place), &everything).0, [""; 0]);
        assert!(feed.moved(&now).is_empty());
        let first = Place::parse(&told[0]).unwrap();
        assert_eq!(taken(&feed, Some(first), &everything).0, told[1..]);
    }

    #[test]
    fn one_that_ended_is_told_once_and_forgotten() {
        let (mut feed, start) = begun();
        assert_eq!(feed.moved(&seen(&[])), [Uuid::from_u128(1)]);
        feed.turn(seen(&[]), vec![summary(1, 5)]);
        assert_eq!(taken(&feed, Some(start), &Selection::default()).0.len(), 1);
        assert!(feed.moved(&seen(&[])).is_empty());
    }

    #[test]
    fn one_that_only_left_the_window_is_not_told() {
        let (mut feed, start) = begun();
        feed.turn(seen(&[]), vec![summary(1, 1)]);
        assert_eq!(taken(&feed, Some(start), &Selection::default()).0, [""; 0]);
    }

    #[test]
    fn one_that_moved_between_two_statements_is_told_once() {
        let (mut feed, start) = begun();
        feed.turn(seen(&[(1, 2)]), vec![summary(1, 3)]);
        assert!(feed.moved(&seen(&[(1, 3)])).is_empty());
        assert_eq!(taken(&feed, Some(start), &Selection::default()).0.len(), 1);
    }

    #[test]
    fn a_place_that_is_gone_or_foreign_is_lost() {
        let (mut feed, start) = begun();
        for seq in 2..=(KEPT as i64 + 2) {
            feed.turn(seen(&[(1, seq)]), vec![summary(1, seq)]);
        }
        assert_eq!(feed.ring.len(), KEPT);
        let everything = Selection::default();
        let lost = |place| matches!(feed.after(place, &everything), Taken::Lost(_));
        assert!(lost(Some(start)), "it has left the ring");
        assert!(
            !lost(Some(Place { number: 1, ..start })),
            "all after it is there"
        );
        let last = feed.last;
        assert!(
            lost(Some(Place {
                number: last + 1,
                ..start
            })),
            "not told yet"
        );
        let foreign = Place {
            epoch: Uuid::nil(),
            number: last,
        };
        assert!(lost(Some(foreign)));
        let (told, place) = taken(&feed, Some(Place { number: 1, ..start }), &everything);
        assert_eq!((told.len(), place.number), (TAKEN, 1 + TAKEN as u64));
    }

    #[test]
    fn an_avalanche_is_noticed() {
        let (feed, _) = begun();
        let id = Uuid::from_u128;
        assert!(!feed.may_have_missed(&[]));
        assert!(!feed.may_have_missed(&[id(2), id(1)]));
        assert!(feed.may_have_missed(&[id(3), id(2)]));
    }

    #[test]
    fn only_what_is_wanted_is_told() {
        let (mut feed, start) = begun();
        feed.turn(seen(&[(1, 2), (2, 1)]), vec![summary(1, 2), summary(2, 1)]);
        let told = |wanted: Selection| taken(&feed, Some(start), &wanted).0.len();
        let with = |change: fn(&mut Selection)| {
            let mut wanted = Selection::default();
            change(&mut wanted);
            wanted
        };
        assert_eq!(told(Selection::default()), 2);
        assert_eq!(told(with(|w| w.definition = Some("trip".to_owned()))), 2);
        assert_eq!(told(with(|w| w.definition = Some("tri".to_owned()))), 0);
        assert_eq!(told(with(|w| w.version = Some(2))), 0);
        assert_eq!(told(with(|w| w.business_key = Some("key-2".to_owned()))), 1);
        let prefix = |w: &mut Selection| w.business_key_prefix = Some("key-".to_owned());
        assert_eq!(told(with(prefix)), 2);
        let tag = |w: &mut Selection| w.tag = Some(("customer".to_owned(), "1".to_owned()));
        assert_eq!(told(with(tag)), 1);
        let late = |w: &mut Selection| w.created_after = DateTime::from_timestamp(1, 0);
        assert_eq!(told(with(late)), 0);
        let early = |w: &mut Selection| w.created_before = DateTime::from_timestamp(0, 0);
        assert_eq!(told(with(early)), 0);
    }
}
