//! The name of one thing asked of a participant, and the key derived from it.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{Error, words::words};

words! {
    /// Forwards or back.
    pub enum Phase {
        /// The step's effect.
        Action = "action",
        /// Undoing it.
        Compensation = "compensation",
    }
}

/// One operation: every attempt at it is the same operation, a new round is another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Operation {
    /// The saga it belongs to.
    pub saga_id: Uuid,
    /// The step, by name.
    pub step: String,
    /// Forwards or back.
    pub phase: Phase,
    /// One execution of the step; a new one starts only when the former is settled.
    pub round: i32,
}

impl Operation {
    /// The correlation key, a UUIDv5: derived and never drawn, so that nothing that happens twice
    /// can mint a second one.
    ///
    /// ```
    /// # use saga::{Operation, Phase};
    /// let once = Operation { saga_id: uuid::Uuid::nil(), step: "pay".into(), phase: Phase::Action, round: 1 };
    /// assert_eq!(once.key(), once.clone().key());
    /// assert_ne!(once.key(), Operation { round: 2, ..once.clone() }.key());
    /// ```
    #[must_use]
    pub fn key(&self) -> Uuid {
        // Length first: `a` + `b1` must not read as `ab` + `1`.
        let step = self.step.as_bytes();
        let phase = self.phase.as_str().as_bytes();
        let mut name = Vec::with_capacity(step.len() + phase.len() + 20);
        for field in [step, phase] {
            name.extend_from_slice(&(field.len() as u64).to_be_bytes());
            name.extend_from_slice(field);
        }
        name.extend_from_slice(&self.round.to_be_bytes());
        Uuid::new_v5(&self.saga_id, &name)
    }
}

/// How far the clock of whoever draws an id may be ahead of the database's.
const AHEAD: TimeDelta = TimeDelta::hours(24);

/// Whether this can be the id of a saga that starts `now`. Participants tell by the id's time whether
/// they may have forgotten the saga: of one without a time, or of a time to come, they would say that
/// nothing took effect where something did.
///
/// # Errors
///
/// [`Error::SagaId`].
pub(crate) fn check_saga_id(saga_id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
    let wrong = |reason| Err(Error::SagaId { saga_id, reason });
    let begun = saga_id
        .get_timestamp()
        .filter(|_| saga_id.get_version_num() == 7);
    let Some(begun) = begun else {
        return wrong("it is not a UUIDv7, so its time cannot be told");
    };
    let latest = (now + AHEAD).timestamp();
    match i64::try_from(begun.to_unix().0).is_ok_and(|begun| begun <= latest) {
        true => Ok(()),
        false => wrong("its time is more than a day ahead of the database's clock"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_without_a_time_or_of_a_time_to_come_is_none_for_a_saga() {
        let now = Utc::now();
        let at = |after: TimeDelta| {
            let seconds = (now + after).timestamp().unsigned_abs();
            Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0))
        };
        let said = |id| check_saga_id(id, now).map_err(|error| error.to_string());
        assert_eq!(said(Uuid::now_v7()), Ok(()));
        assert_eq!(said(at(TimeDelta::days(-400))), Ok(()));
        assert_eq!(said(at(TimeDelta::hours(23))), Ok(()));
        let ahead = said(at(TimeDelta::hours(25))).unwrap_err();
        assert!(ahead.contains("more than a day ahead"), "{ahead}");
        for without in [
            Uuid::nil(),
            Uuid::max(),
            Uuid::from_u128(7),
            Uuid::new_v5(&Uuid::NAMESPACE_OID, b"order 7"),
        ] {
            let wrong = said(without).unwrap_err();
            assert!(wrong.contains("not a UUIDv7"), "{wrong}");
            assert!(wrong.contains(&without.to_string()), "{wrong}");
        }
    }

    #[test]
    fn the_key_is_the_same_for_ever() {
        let operation = Operation {
            saga_id: Uuid::from_u128(1),
            step: "authorize-payment".to_owned(),
            phase: Phase::Action,
            round: 1,
        };
        let key = operation.key().to_string();
        assert_eq!(key, "05afece7-7801-560f-8216-4e8db8a93584");
    }

    #[test]
    fn whatever_differs_makes_another_key() {
        let mut keys = std::collections::BTreeSet::new();
        let mut expected = 0;
        for saga_id in [Uuid::from_u128(1), Uuid::from_u128(2)] {
            for step in ["pay", "pay\0", "payaction", "p", ""] {
                for phase in Phase::ALL {
                    for round in [1, 2, 256] {
                        let operation = Operation {
                            saga_id,
                            step: step.to_owned(),
                            phase: *phase,
                            round,
                        };
                        keys.insert(operation.key());
                        expected += 1;
                    }
                }
            }
        }
        assert_eq!(keys.len(), expected);
    }
}
