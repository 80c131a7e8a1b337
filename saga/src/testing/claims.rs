//! What one saga has in the table of locks, whatever it believes itself.
//!
//! As the real table: a claim is granted or refused in the transaction that makes it, or it waits and
//! is granted when another saga gives back what it holds; of two claims of one resource the second is
//! told how the first stands. An end gives back what the saga has, if the saga knew of anything when
//! its last turn began: otherwise nobody asks the table.

use std::collections::BTreeMap;

use crate::{
    decide::{Decision, Effect},
    instance::Instance,
    testing::course::{Stopped, broken},
};

/// The claims of one saga, by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Claims {
    rows: BTreeMap<String, Claimed>,
}

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Claimed {
    /// Made in this transaction, and not answered yet.
    Asked,
    /// In the line behind others.
    Waiting,
    Held,
}

impl Claims {
    /// What a decision means for the table. `before`: the saga as it was read from its row.
    pub(crate) fn follow(&mut self, before: Option<&Instance>, decision: &Decision) {
        for effect in &decision.effects {
            match effect {
                Effect::Acquire(claims) => {
                    for claim in claims {
                        let row = self.rows.entry(claim.resource.clone());
                        row.or_insert(Claimed::Asked);
                    }
                }
                Effect::Ended(_) if gives_back(before) => self.rows.clear(),
                _ => {}
            }
        }
    }

    /// Something else happens: what was not answered at once waits.
    pub(crate) fn time_goes_on(&mut self) {
        for row in self.rows.values_mut() {
            if *row == Claimed::Asked {
                *row = Claimed::Waiting;
            }
        }
    }

    /// The claims that may still be settled.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&str, Claimed)> {
        let rows = self.rows.iter();
        let rows = rows.map(|(resource, claimed)| (resource.as_str(), *claimed));
        rows.filter(|(_, claimed)| *claimed != Claimed::Held)
    }

    /// A claim is settled. Where it stood.
    pub(crate) fn settle(&mut self, resource: &str, granted: bool) -> Result<Claimed, Stopped> {
        let Some(row) = self.rows.get_mut(resource) else {
            return broken(format!("{resource} is not claimed"));
        };
        let before = *row;
        match granted {
            true => *row = Claimed::Held,
            false => drop(self.rows.remove(resource)),
        }
        Ok(before)
    }

    /// Whoever has ended has nothing, and nobody holds what is not theirs.
    pub(crate) fn promises(&self, now: &Instance) -> Result<(), Stopped> {
        if now.status.is_terminal()
            && let Some((resource, claimed)) = self.rows.iter().next()
        {
            return still_claims(now, resource, *claimed == Claimed::Held);
        }
        let held = |resource: &str| self.rows.get(resource) == Some(&Claimed::Held);
        match now
            .locks
            .iter()
            .find(|lock| lock.held && !held(&lock.resource))
        {
            Some(lock) => broken(format!(
                "it counts on {}, which it does not hold",
                lock.resource
            )),
            None => Ok(()),
        }
    }
}

/// What a saga that ended must not have.
pub(crate) fn still_claims<T>(now: &Instance, resource: &str, held: bool) -> Result<T, Stopped> {
    let has = if held { "holds" } else { "waits for" };
    broken(format!(
        "it is {}, and still {has} {resource}, for ever",
        now.status
    ))
}

/// Whether an end gives anything back. None before: the saga starts in this transaction.
pub(crate) fn gives_back(before: Option<&Instance>) -> bool {
    before.is_none_or(|before| !before.locks.is_empty())
}
