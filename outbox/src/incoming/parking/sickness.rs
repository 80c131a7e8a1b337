//! Why a message is parked.

use std::{fmt, str::FromStr};

use serde::Serialize;

use crate::Error;

/// The sort of reason for which a message is parked. The words are those of
/// `inbox_parked_class_is_known`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Not one of our messages.
    Unreadable,
    /// The handler's permanent error, or panic.
    Refused,
    /// A transient error outlived its budget.
    Exhausted,
    /// Behind another parked message of its key.
    Blocked,
    /// A word that this version does not know: a newer one wrote it.
    Other,
}

impl Class {
    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::Exhausted => "exhausted",
            Self::Blocked => "blocked",
            Self::Other => "other",
        }
    }

    /// Of a row. One that says what only a newer version knows must not hide the others.
    pub(crate) fn of_row(word: &str) -> Self {
        word.parse().unwrap_or(Self::Other)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Class {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        [
            Self::Unreadable,
            Self::Refused,
            Self::Exhausted,
            Self::Blocked,
        ]
        .into_iter()
        .find(|class| class.as_str() == word)
        .ok_or_else(|| {
            Error::permanent(format!(
                "{word} is no class of parked messages: unreadable, refused, exhausted, blocked"
            ))
        })
    }
}

/// Longer reasons are cut: an error may quote what it read.
const LONGEST_REASON: usize = 2_000;

/// A class with the particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sickness {
    pub(crate) class: Class,
    pub(crate) reason: String,
    /// How often the handler has failed.
    pub(crate) attempts: i32,
}

impl Sickness {
    pub(crate) fn unreadable(reason: &str) -> Self {
        Self::new(Class::Unreadable, reason, 0)
    }

    pub(crate) fn refused(error: &Error, attempts: i32) -> Self {
        Self::new(Class::Refused, &error.to_string(), attempts)
    }

    pub(crate) fn exhausted(error: &Error, attempts: i32) -> Self {
        Self::new(Class::Exhausted, &error.to_string(), attempts)
    }

    pub(crate) fn blocked() -> Self {
        Self::new(Class::Blocked, "an earlier message of its key is parked", 0)
    }

    fn new(class: Class, reason: &str, attempts: i32) -> Self {
        // PostgreSQL's text cannot hold NUL.
        let reason = reason.replace('\0', "\u{fffd}");
        Self {
            class,
            reason: reason.chars().take(LONGEST_REASON).collect(),
            attempts,
        }
    }
}
