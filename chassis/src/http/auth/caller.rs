//! Who asks.

use crate::http::auth::role::Role;

/// The longest name of a caller, in bytes: what an actor may have everywhere.
const LONGEST: usize = 200;

/// Who asks, as a credential proved. A request's extensions hold it where one was needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token, or the JWT's `sub`. What is done is recorded under it.
    pub name: String,
    /// What he may do at most.
    pub role: Role,
}

/// Whether something may be recorded as a name: 1 to 200 bytes, no control characters, not blank.
pub(super) fn is_name(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len())
        && !text.trim().is_empty()
        && !text.chars().any(char::is_control)
}
