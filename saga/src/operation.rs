//! The name of one thing asked of a participant, and the key derived from it.

use uuid::Uuid;

use crate::words::words;

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

#[cfg(test)]
mod tests {
    use super::*;

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
