//! Why somebody is not let in.

/// Why a credential makes nobody a caller. Its text is for that somebody's eyes and repeats nothing
/// of what he sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// There is none.
    #[error("a bearer token is needed")]
    Missing,
    /// It is none of ours by its looks.
    #[error("the credential is not `Bearer` and one token")]
    Malformed,
    /// No such token, or no such key.
    #[error("the token, or the key that signed it, is not known here")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// A JWT with a wrong signature, algorithm, issuer, audience or claim.
    #[error("the token is not valid here")]
    Invalid,
    /// A good JWT that gives no role known here.
    #[error("the token gives no role that is known here")]
    NoRole,
    /// A JWT, and its issuer's keys could not be fetched yet.
    #[error("the keys that the token is checked with are not there yet")]
    NoKeys,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::Invalid,
        Self::NoRole,
        Self::NoKeys,
    ];

    /// In a word, for the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
            Self::NoRole => "no_role",
            Self::NoKeys => "no_keys",
        }
    }
}
