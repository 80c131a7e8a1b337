//! Resources of a simulated world: so many units of each, first come first served, as the real ones.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

use crate::{event::LockAnswer, locks::Claim};

/// Who holds what, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    lines: BTreeMap<String, Line>,
}

#[derive(Debug, Default)]
struct Line {
    capacity: i64,
    held: Vec<(Uuid, i64)>,
    waiting: VecDeque<(Uuid, i64)>,
}

impl Line {
    fn held(&self) -> i64 {
        self.held.iter().map(|(_, units)| units).sum()
    }

    /// Whoever is first in the line and fits gets what it waits for, then the next.
    fn grant(&mut self) -> Vec<Uuid> {
        let mut granted = Vec::new();
        while let Some((saga, units)) = self.waiting.front().copied() {
            if self.held() + units > self.capacity {
                break;
            }
            self.waiting.pop_front();
            self.held.push((saga, units));
            granted.push(saga);
        }
        granted
    }
}

impl Resources {
    /// A saga claims units. What it is told at once; nothing if it has to wait.
    pub(crate) fn claim(&mut self, saga: Uuid, claim: &Claim) -> Option<LockAnswer> {
        let line = self.lines.entry(claim.resource.clone()).or_default();
        // Claimed already: it is told how that stands.
        if line.held.iter().any(|(holder, _)| *holder == saga) {
            return Some(answer(&claim.resource, true));
        }
        if line.waiting.iter().any(|(waiting, _)| *waiting == saga) {
            return None;
        }
        line.capacity = claim.capacity;
        if claim.units > claim.capacity {
            return Some(answer(&claim.resource, false));
        }
        line.waiting.push_back((saga, claim.units));
        let granted = line.grant().contains(&saga);
        granted.then(|| answer(&claim.resource, true))
    }

    /// A saga gives everything back and leaves every line. Returns who gets what by that.
    pub(crate) fn release(&mut self, saga: Uuid) -> Vec<(Uuid, LockAnswer)> {
        let mut granted = Vec::new();
        for (resource, line) in &mut self.lines {
            line.held.retain(|(holder, _)| *holder != saga);
            line.waiting.retain(|(waiting, _)| *waiting != saga);
            let lucky = line.grant().into_iter();
            granted.extend(lucky.map(|saga| (saga, answer(resource, true))));
        }
        granted
    }

    /// A resource that a saga claims, and whether it holds it.
    pub(crate) fn claimed_by(&self, saga: Uuid) -> Option<(&str, bool)> {
        self.lines.iter().find_map(|(resource, line)| {
            let held = line.held.iter().any(|(holder, _)| *holder == saga);
            let claims = held || line.waiting.iter().any(|(waiting, _)| *waiting == saga);
            claims.then_some((resource.as_str(), held))
        })
    }

    /// A resource of which more is held than there is.
    pub(crate) fn overdrawn(&self) -> Option<&str> {
        let overdrawn = self
            .lines
            .iter()
            .find(|(_, line)| line.held() > line.capacity);
        overdrawn.map(|(resource, _)| resource.as_str())
    }

    /// How many units are held by anybody.
    pub(crate) fn held(&self) -> i64 {
        self.lines.values().map(Line::held).sum()
    }
}

fn answer(resource: &str, granted: bool) -> LockAnswer {
    LockAnswer {
        resource: resource.to_owned(),
        granted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(units: i64) -> Claim {
        Claim {
            resource: "credit".to_owned(),
            units,
            capacity: 3,
        }
    }

    #[test]
    fn first_come_first_served_and_nobody_beyond_the_capacity() {
        let [ada, bob, cyd, dan] = [1, 2, 3, 4].map(Uuid::from_u128);
        let mut resources = Resources::default();
        assert!(resources.claim(ada, &claim(2)).is_some_and(|a| a.granted));
        assert_eq!(resources.claim(bob, &claim(2)), None);
        // There would be room, and somebody is before him.
        assert_eq!(resources.claim(cyd, &claim(1)), None);
        assert!(resources.claim(dan, &claim(4)).is_some_and(|a| !a.granted));
        assert_eq!(resources.held(), 2);
        let lucky: Vec<_> = resources
            .release(ada)
            .into_iter()
            .map(|(saga, _)| saga)
            .collect();
        assert_eq!(lucky, [bob, cyd]);
        assert_eq!(resources.overdrawn(), None);
        if let Some(line) = resources.lines.get_mut("credit") {
            line.capacity = 2;
        }
        assert_eq!(resources.overdrawn(), Some("credit"));
    }
}
