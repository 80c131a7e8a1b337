//! Who gets it and who stands in the line: pure.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    Error,
    locks::claim::{Acquired, Claim},
};

/// How a claim finds its resource, under the resource's lock.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) capacity: i64,
    /// Held together, by whomever.
    pub(crate) used: i64,
    /// Whether somebody stands in the line.
    pub(crate) line: bool,
    /// What the same saga has claimed of it before.
    pub(crate) own: Option<Own>,
}

/// A claim that exists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) units: i64,
    pub(crate) waits: bool,
}

/// The capacities that new claims name and that are not the present ones; of several the last.
pub(crate) fn changed_capacities<'a>(
    claims: &'a [(Uuid, Claim)],
    found: &[Found],
) -> HashMap<&'a str, i64> {
    let mut named = HashMap::new();
    for ((_, claim), found) in claims.iter().zip(found) {
        if found.own.is_none() {
            named.insert(claim.resource.as_str(), (claim.capacity, found.capacity));
        }
    }
    let changed = named.into_iter().filter(|(_, (new, old))| new != old);
    changed
        .map(|(resource, (new, _))| (resource, new))
        .collect()
}

/// What comes of each claim, one after the other.
pub(crate) fn decide(claims: &[(Uuid, Claim)], found: &[Found]) -> Result<Vec<Acquired>, Error> {
    // What the claims before have made of the resources.
    let mut resources: HashMap<&str, (i64, bool)> = HashMap::new();
    let mut made: HashMap<(Uuid, &str), (i64, Acquired)> = HashMap::new();
    let mut answers = Vec::with_capacity(claims.len());
    for ((saga_id, claim), found) in claims.iter().zip(found) {
        let own = found.own.map(|own| match own.waits {
            true => (own.units, Acquired::Waiting),
            false => (own.units, Acquired::Granted),
        });
        let this = (*saga_id, claim.resource.as_str());
        let answer = if let Some((units, answer)) = own.or_else(|| made.get(&this).copied()) {
            if units != claim.units {
                return Err(claim.error(
                    "the saga has claimed it already, with other units; a claim cannot be changed, \
                     only given up",
                ));
            }
            answer
        } else {
            let resource = resources.entry(&claim.resource);
            let (used, line) = resource.or_insert((found.used, found.line));
            let answer = if claim.units > found.capacity {
                Acquired::TooLarge
            } else if *line || claim.units > found.capacity - *used {
                *line = true;
                Acquired::Waiting
            } else {
                *used += claim.units;
                Acquired::Granted
            };
            made.insert(this, (claim.units, answer));
            answer
        };
        answers.push(answer);
    }
    Ok(answers)
}
