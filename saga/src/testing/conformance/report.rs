//! What was tried and what came of it.

use std::fmt;

use crate::words::words;

words! {
    /// One thing that a participant has to get right, in the order tried.
    pub enum Case {
        /// An action succeeds once; the reply's key and headers are a reply's.
        ActionSucceeds = "action_succeeds",
        /// Further attempts at an action get the first reply again, byte for byte; one effect.
        ActionRepeated = "action_repeated",
        /// The same record, delivered three times, has one effect.
        ActionRedelivered = "action_redelivered",
        /// A refusal leaves nothing, and is the operation's answer for good.
        RefusalStored = "refusal_stored",
        /// After a refusal the next round is another operation and may succeed.
        NewRoundAfterRefusal = "new_round_after_refusal",
        /// A compensation undoes its action.
        CompensationUndoes = "compensation_undoes",
        /// Further attempts at a compensation get the first reply again and undo nothing more.
        CompensationRepeated = "compensation_repeated",
        /// An action that comes again after it was undone gets its first reply and does nothing.
        ActionRepeatedAfterCompensation = "action_repeated_after_compensation",
        /// A compensation that comes first keeps its action from ever taking effect.
        CompensationFirst = "compensation_first",
        /// A tombstone is for its round only.
        NewRoundAfterCompensation = "new_round_after_compensation",
        /// There is nothing to undo of a refused action.
        RefusalCompensated = "refusal_compensated",
        /// An expired action is refused, for good, and has no effect.
        ActionExpired = "action_expired",
        /// A compensation is carried out however late it comes.
        CompensationNeverExpires = "compensation_never_expires",
        /// Action and compensation at once, on one record key and in both orders.
        RacedOnOneKey = "raced_on_one_key",
        /// Action and compensation at once, on different record keys: in parallel, perhaps.
        RacedAcrossPartitions = "raced_across_partitions",
        /// A probe of an operation that has its answer repeats it and does nothing.
        ProbeOfAnswered = "probe_of_answered",
        /// A probe of an operation that never came keeps it from ever taking effect.
        ProbeOfUnknown = "probe_of_unknown",
        /// Many sagas' actions, compensations and probes, some of them repeated, shuffled by seed.
        Storm = "storm",
        /// An action that errs after its effect is tried again until it has succeeded, once.
        ActionStumbles = "action_stumbles",
        /// The same with its compensation on another record key: nothing of it remains.
        StumblingCompensated = "stumbling_compensated",
        /// What was first sent before anything that it remembers is neither carried out nor answered.
        LongBegun = "long_begun",
        /// A kind it does not know is not answered, and does not hold up what follows.
        UnknownKind = "unknown_kind",
        /// Nor is a command without one of its headers.
        MissingHeader = "missing_header",
        /// Nor one with a header that cannot be read.
        UnreadableHeader = "unreadable_header",
        /// Nor one whose key is not that of its saga, step, phase and round.
        WrongOpKey = "wrong_op_key",
        /// Nor one whose payload cannot be read.
        GarbagePayload = "garbage_payload",
    }
}

impl Case {
    /// Whether it needs an action that stumbles.
    #[must_use]
    pub fn stumbles(self) -> bool {
        matches!(self, Self::ActionStumbles | Self::StumblingCompensated)
    }

    /// Whether it asks what became of an operation.
    #[must_use]
    pub fn probes(self) -> bool {
        matches!(self, Self::ProbeOfAnswered | Self::ProbeOfUnknown)
    }
}

/// What was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    /// What a participant has to do.
    pub expected: String,
    /// What this one did.
    pub seen: String,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The case.
    pub case: Case,
    /// Passed, or the first deviation.
    pub result: Result<(), Deviation>,
}

/// What came of all of them. Shown, it is a table for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order tried.
    pub verdicts: Vec<Verdict>,
    /// What the storm was drawn from.
    pub seed: u64,
    /// Whether effects were counted, not only replies judged.
    pub counted_effects: bool,
}

impl Report {
    /// The cases that failed, in the order tried.
    #[must_use]
    pub fn failed(&self) -> Vec<Case> {
        let failed = self.verdicts.iter().filter(|v| v.result.is_err());
        failed.map(|verdict| verdict.case).collect()
    }

    /// For a test.
    ///
    /// # Panics
    ///
    /// If a case failed, with the report.
    pub fn assert_conforms(&self) {
        assert!(
            self.failed().is_empty(),
            "the participant breaks its promises\n{self}"
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Verdict { case, result } in &self.verdicts {
            match result {
                Ok(()) => writeln!(f, "passed  {case}")?,
                Err(Deviation { expected, seen }) => {
                    writeln!(f, "FAILED  {case}")?;
                    writeln!(f, "        expected: {expected}")?;
                    writeln!(f, "        seen:     {seen}")?;
                }
            }
        }
        let judged = match self.counted_effects {
            true => "replies and effects were judged",
            false => "replies alone were judged",
        };
        let (failed, all) = (self.failed().len(), self.verdicts.len());
        write!(
            f,
            "{failed} of {all} cases failed; {judged}; seed {}",
            self.seed
        )
    }
}
