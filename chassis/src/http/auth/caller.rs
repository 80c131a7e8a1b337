//! Who asks.

use crate::http::auth::role::Role;

/// The longest name of a caller, in bytes: what an actor may have everywhere.
const LONGEST: usize = 200;

/// What the name of a JWT's bearer begins with, and no token's: a token `ann` and a JWT's `ann` are two.
const BY_JWT: &str = "jwt:";

/// Who asks, as a credential proved. A request's extensions hold it where one was needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token, or `jwt:` and the JWT's `sub`. What is done is recorded under it.
    pub name: String,
    /// What he may do at most.
    pub role: Role,
}

/// The name of a JWT's bearer, if it may be recorded.
pub(super) fn name_by_jwt(subject: &str) -> Option<String> {
    let name = format!("{BY_JWT}{subject}");
    (is_name(subject) && is_name(&name)).then_some(name)
}

/// Whether a token may have this name.
pub(super) fn is_name_of_a_token(text: &str) -> bool {
    is_name(text) && !text.starts_with(BY_JWT)
}

/// Whether something may be recorded as a name: 1 to 200 bytes, no control characters, not blank.
fn is_name(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len())
        && !text.trim().is_empty()
        && !text.chars().any(char::is_control)
}
