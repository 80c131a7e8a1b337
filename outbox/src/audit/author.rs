//! Who did something, and why.

use std::fmt;

/// Who did something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// His name.
    pub actor: String,
    /// What he might do at most, where a service knew him by his token.
    pub role: Option<String>,
    /// Why, in his words.
    pub reason: Option<String>,
}

impl Author {
    /// Somebody, for no reason that is known.
    #[must_use]
    pub fn new(actor: impl Into<String>) -> Self {
        Self {
            actor: actor.into(),
            role: None,
            reason: None,
        }
    }

    /// Known by his token, with this role.
    #[must_use]
    pub fn with_role(self, role: Option<impl Into<String>>) -> Self {
        let role = role.map(Into::into);
        Self { role, ..self }
    }

    /// For this reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        let reason = Some(reason.into());
        Self { reason, ..self }
    }
}

/// As it is noted beside what is asked for: `ann: the topic takes larger messages now`.
impl fmt::Display for Author {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(out, "{}: {reason}", self.actor),
            None => out.write_str(&self.actor),
        }
    }
}

/// A name, and behind a colon a reason if there is one.
impl From<&str> for Author {
    fn from(text: &str) -> Self {
        match text.split_once(": ") {
            Some((actor, reason)) if !actor.is_empty() && !reason.is_empty() => {
                Self::new(actor).because(reason)
            }
            // A row without an actor is refused; whoever says nothing is still somebody.
            _ if text.is_empty() => Self::new("unknown"),
            _ => Self::new(text),
        }
    }
}

impl From<&String> for Author {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Author {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&Author> for Author {
    fn from(author: &Author) -> Self {
        author.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_bring_its_reason() {
        let ann = Author::new("ann");
        assert_eq!(Author::from("ann"), ann);
        let because = ann.because("the bank: it is closed");
        assert_eq!(Author::from("ann: the bank: it is closed"), because);
        assert_eq!(because.to_string(), "ann: the bank: it is closed");
        assert_eq!(Author::from("").actor, "unknown");
        for odd in [": why", "ann: ", "ann:why"] {
            assert_eq!(Author::from(odd), Author::new(odd));
        }
    }
}
