//! What a saga claims, and what it is told.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Error, words::words};

/// The longest name of a resource, in bytes. The schema says the same.
pub(crate) const LONGEST_RESOURCE: usize = 200;

/// So many units of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Claim {
    /// Its name, like `credit/018f…`: 1 to 200 bytes.
    pub resource: String,
    /// How much of it is claimed; at least 1.
    pub units: i64,
    /// How much of it there is; at least 1. Of different claims the latest new one counts.
    pub capacity: i64,
}

impl Claim {
    /// A claim that nobody shares.
    pub fn exclusive(resource: impl Into<String>) -> Self {
        Self {
            resource: resource.into(),
            units: 1,
            capacity: 1,
        }
    }

    /// Whether it can be a claim at all. Its definer is to blame if not: trying again is no help.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bytes = self.resource.len();
        let reason = if bytes == 0 {
            "a resource needs a name".to_owned()
        } else if bytes > LONGEST_RESOURCE {
            format!("its name has {bytes} bytes, {LONGEST_RESOURCE} are allowed")
        } else if self.resource.contains('\0') {
            "its name contains a NUL character".to_owned()
        } else if self.units <= 0 {
            "the units of a claim must be at least 1".to_owned()
        } else if self.capacity <= 0 {
            "the capacity of a resource must be at least 1".to_owned()
        } else {
            return Ok(());
        };
        Err(self.error(reason))
    }

    /// Claims of one saga, each resource once and in the order in which they came first: a saga must
    /// never wait for itself. Units of one resource are added up, the last capacity counts; what is
    /// exclusive by all of its claims is exclusive, however often it is claimed.
    ///
    /// # Errors
    ///
    /// [`Error::Claim`] when one of them cannot be a claim.
    pub(crate) fn merged(claims: Vec<Self>) -> Result<Vec<Self>, Error> {
        let mut merged: Vec<Self> = Vec::with_capacity(claims.len());
        for claim in claims {
            claim.check()?;
            match merged
                .iter_mut()
                .find(|known| known.resource == claim.resource)
            {
                Some(known) if known.is_exclusive() && claim.is_exclusive() => {}
                Some(known) => {
                    known.units = known.units.saturating_add(claim.units);
                    known.capacity = claim.capacity;
                }
                None => merged.push(claim),
            }
        }
        Ok(merged)
    }

    fn is_exclusive(&self) -> bool {
        (self.units, self.capacity) == (1, 1)
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Claim {
            // An overlong name is not repeated in full.
            resource: self.resource.chars().take(LONGEST_RESOURCE).collect(),
            reason: reason.into(),
        }
    }
}

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// The saga holds it.
    Granted,
    /// It stands in the line; a later release grants it.
    Waiting,
    /// More than there is: nothing was claimed, and waiting would not help.
    TooLarge,
}

words! {
    /// Where a claim stands.
    pub enum ClaimState {
        /// In the line.
        Waiting = "waiting",
        /// Granted by somebody else's release; the saga has not noticed yet.
        Granted = "granted",
        /// Held, and the saga knows.
        Held = "held",
    }
}

/// A claim that waited and was granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Granted {
    /// Whose.
    pub saga_id: Uuid,
    /// Of what.
    pub resource: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_one_resource_are_one_claim() {
        let claim = |resource: &str, units, capacity| Claim {
            resource: resource.to_owned(),
            units,
            capacity,
        };
        let exclusive = Claim::exclusive;
        let merged = |claims: &[Claim]| Claim::merged(claims.to_vec());
        assert_eq!(
            merged(&[exclusive("b"), exclusive("a"), exclusive("b")]).unwrap(),
            [exclusive("b"), exclusive("a")]
        );
        assert_eq!(
            merged(&[claim("credit", 30, 90), claim("credit", 30, 100)]).unwrap(),
            [claim("credit", 60, 100)],
            "twice as much is claimed, though both claims are alike"
        );
        assert_eq!(
            merged(&[claim("a", i64::MAX, 9), claim("a", 1, 9)]).unwrap(),
            [claim("a", i64::MAX, 9)]
        );
        let one_is_none = [claim("a", -5, 9), claim("a", 9, 9)];
        assert!(
            merged(&one_is_none)
                .unwrap_err()
                .to_string()
                .contains("units")
        );
    }

    #[test]
    fn what_cannot_be_a_claim_is_refused_and_said_why() {
        let with = |resource: &str, units, capacity| Claim {
            resource: resource.to_owned(),
            units,
            capacity,
        };
        assert!(Claim::exclusive("a").check().is_ok());
        assert!(with(&"x".repeat(200), i64::MAX, i64::MAX).check().is_ok());
        // More than there is is no mistake of the definer: it is an answer.
        assert!(with("a", 2, 1).check().is_ok());
        for (wrong, says) in [
            (with("", 1, 1), "needs a name"),
            (with(&"x".repeat(201), 1, 1), "201 bytes"),
            (with("a\0b", 1, 1), "NUL"),
            (with("a", 0, 1), "units"),
            (with("a", -1, 1), "units"),
            (with("a", 1, 0), "capacity"),
        ] {
            let error = wrong.check().unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(!error.is_transient());
        }
    }
}
