//! What a person may do to a saga.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::words::words;

/// A person's wish, with who wishes it and why. Both go into the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intervention {
    /// What is to happen.
    pub what: What,
    /// Who wants it.
    pub actor: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// What a person wants to happen to a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// Send nothing until it is resumed. Answers still count.
    Pause {},
    /// Go on.
    Resume {},
    /// Turn back, as long as there is a way.
    Cancel {},
    /// Do now what it waits to do again: the next attempt, the next round, or, parked, the same
    /// operation once more.
    Retry {
        /// Only this step; every one that can be retried where none is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
    },
    /// Take a step for done: somebody did it by hand.
    CompleteStep {
        /// The step; its action must be under way or parked.
        step: String,
        /// What the participant would have answered.
        reply: Value,
    },
    /// Take a step for undone: somebody did it by hand, or lives with it.
    SkipCompensation {
        /// The step; its compensation must be under way or parked.
        step: String,
    },
    /// Give the saga up as it is. What took effect stays.
    Abandon {},
    /// Go on under another version of the definition.
    Migrate {
        /// Which.
        to: i32,
    },
}

words! {
    /// The names of what a person may do.
    pub enum OperationName {
        /// Send nothing until it is resumed.
        Pause = "pause",
        /// Go on.
        Resume = "resume",
        /// Turn back.
        Cancel = "cancel",
        /// Do now what it waits to do again.
        Retry = "retry",
        /// Take a step for done.
        CompleteStep = "complete_step",
        /// Take a step for undone.
        SkipCompensation = "skip_compensation",
        /// Give the saga up.
        Abandon = "abandon",
        /// Go on under another version.
        Migrate = "migrate",
    }
}

impl What {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> OperationName {
        match self {
            Self::Pause {} => OperationName::Pause,
            Self::Resume {} => OperationName::Resume,
            Self::Cancel {} => OperationName::Cancel,
            Self::Retry { .. } => OperationName::Retry,
            Self::CompleteStep { .. } => OperationName::CompleteStep,
            Self::SkipCompensation { .. } => OperationName::SkipCompensation,
            Self::Abandon {} => OperationName::Abandon,
            Self::Migrate { .. } => OperationName::Migrate,
        }
    }

    /// The step it names.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Retry { step } => step.as_deref(),
            Self::CompleteStep { step, .. } | Self::SkipCompensation { step } => Some(step),
            _ => None,
        }
    }
}
