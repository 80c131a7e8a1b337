//! Tokens from a file, one a line: `name role sha256:<hex> [expires 2027-01-01T00:00:00Z]`.
//!
//! Only their SHA-256 is at rest. A plain hash is right for them and would be wrong for passwords:
//! what slows down a guesser is needed where secrets are few, and these are 256 bits of the operating
//! system's randomness (NIST SP 800-63B, section 5.1.2.2, asks for salt and stretching of look-up
//! secrets below 112 bits only).

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::http::auth::caller::{Caller, is_name_of_a_token};
use crate::http::auth::file::File;
use crate::http::auth::rejection::Rejection;
use crate::http::auth::role::Role;

/// What a token begins with, so that people and scanners of repositories know one.
const PREFIX: &str = "rcp_";
const HASH: &str = "sha256:";

/// A new token, and the line that lets it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    /// The token. It is nowhere else.
    pub token: String,
    /// The line for the file.
    pub line: String,
}

/// Makes a token out of 256 random bits.
///
/// # Errors
/// A name that a line cannot hold, or an operating system that gives no randomness.
pub fn mint(name: &str, role: Role, expires: Option<DateTime<Utc>>) -> Result<Minted, String> {
    if !is_name_of_a_token(name) || name.contains(char::is_whitespace) || name.starts_with('#') {
        return Err("a name has 1 to 200 bytes, no space, and does not begin with #".to_owned());
    }
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| format!("no randomness: {error}"))?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits));
    let digest: String = digest(&token).iter().map(|b| format!("{b:02x}")).collect();
    let mut line = format!("{name} {role} {HASH}{digest}");
    if let Some(expires) = expires {
        let expires = expires.to_rfc3339_opts(SecondsFormat::Secs, true);
        line.push_str(&format!(" expires {expires}"));
    }
    Ok(Minted { token, line })
}

/// The tokens of a file, as it was when it was last whole.
#[derive(Debug)]
pub(super) struct Tokens {
    file: File,
    entries: RwLock<Arc<[Entry]>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    role: Role,
    digest: [u8; 32],
    expires: Option<DateTime<Utc>>,
}

impl Tokens {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let file = File::new(path);
        let text = file.changed().unwrap_or_else(|| Ok(String::new()))?;
        Ok(Self {
            file,
            entries: RwLock::new(parse(&text)?),
        })
    }

    /// Reads it again if it has changed. One that cannot be read changes nothing.
    pub(super) fn refresh(&self) {
        let Some(text) = self.file.changed() else {
            return;
        };
        let file = self.file.path().display();
        match text.and_then(|text| parse(&text)) {
            Ok(entries) => {
                tracing::info!(%file, tokens = entries.len(), "the tokens were read again");
                *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
            }
            Err(reason) => {
                tracing::error!(%file, reason, "the tokens cannot be read; those known go on counting");
            }
        }
    }

    /// Whose token this is. Every entry is looked at, and each comparison takes the same time.
    pub(super) fn caller(&self, token: &str, now: DateTime<Utc>) -> Result<Caller, Rejection> {
        let digest = digest(token);
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for entry in entries.iter() {
            if bool::from(entry.digest.ct_eq(&digest)) {
                found = Some(entry);
            }
        }
        match found {
            None => Err(Rejection::Unknown),
            Some(entry) if entry.expires.is_some_and(|expires| expires <= now) => {
                Err(Rejection::Expired)
            }
            Some(entry) => Ok(Caller {
                name: entry.name.clone(),
                role: entry.role,
            }),
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The error names the line and never repeats it: somebody may have put the token there.
fn parse(text: &str) -> Result<Arc<[Entry]>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = parse_line(line).map_err(|reason| format!("line {number}: {reason}"))?;
        if entries.iter().any(|known| known.digest == entry.digest) {
            return Err(format!("line {number}: the same token stands above"));
        }
        entries.push(entry);
    }
    Ok(entries.into())
}

fn parse_line(line: &str) -> Result<Entry, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, role, hash, expires) = match words[..] {
        [name, role, hash] => (name, role, hash, None),
        [name, role, hash, "expires", expires] => (name, role, hash, Some(expires)),
        _ => return Err("must be `name role sha256:<hex> [expires <RFC 3339>]`".to_owned()),
    };
    if !is_name_of_a_token(name) {
        return Err(
            "the name must have 1 to 200 bytes, no control characters, and not begin with jwt:"
                .to_owned(),
        );
    }
    let role = role.parse().map_err(|error| format!("the role {error}"))?;
    let digest = hash.strip_prefix(HASH).and_then(unhex);
    let digest = digest.ok_or("the third word must be sha256: and 64 hexadecimal digits")?;
    let expires = expires.map(|time| {
        let time = DateTime::parse_from_rfc3339(time);
        let wrong = "the time must be as in 2027-01-01T00:00:00Z";
        time.map(|time| time.to_utc()).map_err(|_| wrong)
    });
    Ok(Entry {
        name: name.to_owned(),
        role,
        digest,
        expires: expires.transpose()?,
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str) -> Tokens {
        Tokens {
            file: File::new(Path::new("nowhere")),
            entries: RwLock::new(parse(text).unwrap()),
        }
    }

    #[test]
    fn no_token_has_the_name_of_a_jwts_bearer() {
        let hash = "0".repeat(64);
        assert!(parse(&format!("ann viewer sha256:{hash}")).is_ok());
        let reason = parse(&format!("jwt:ann viewer sha256:{hash}")).unwrap_err();
        assert!(reason.contains("jwt:"), "{reason}");
        assert!(mint("jwt:ann", Role::Viewer, None).is_err());
    }

    #[test]
    fn a_minted_token_is_let_in_by_its_line_and_by_no_other() {
        let ann = mint("ann", Role::Operator, None).unwrap();
        let bob = mint("bob", Role::Viewer, None).unwrap();
        assert!(ann.token.starts_with(PREFIX) && ann.token.len() == PREFIX.len() + 43);
        assert_ne!(ann.token, bob.token);
        assert!(!ann.line.contains(&ann.token[PREFIX.len()..]));
        let tokens = known(&format!("# people\n\n{}\n  {}  \n", ann.line, bob.line));
        let found = |token: &str| tokens.caller(token, Utc::now());
        let (role, name) = (Role::Operator, "ann".to_owned());
        assert_eq!(found(&ann.token), Ok(Caller { name, role }));
        assert_eq!(found(&bob.token).unwrap().role, Role::Viewer);
        for wrong in [
            "",
            PREFIX,
            &ann.token[1..],
            &format!("{} ", ann.token),
            &ann.line,
        ] {
            assert_eq!(found(wrong), Err(Rejection::Unknown), "{wrong}");
        }
    }

    #[test]
    fn a_token_ends_at_its_time() {
        let expires = DateTime::parse_from_rfc3339("2027-01-01T00:00:00Z")
            .unwrap()
            .to_utc();
        let minted = mint("ann", Role::Admin, Some(expires)).unwrap();
        assert!(
            minted.line.ends_with(" expires 2027-01-01T00:00:00Z"),
            "{}",
            minted.line
        );
        let tokens = known(&minted.line);
        let second = chrono::TimeDelta::seconds(1);
        assert!(tokens.caller(&minted.token, expires - second).is_ok());
        assert_eq!(
            tokens.caller(&minted.token, expires),
            Err(Rejection::Expired)
        );
    }

    #[test]
    fn a_wrong_line_is_named_and_not_repeated() {
        let hash = "0".repeat(64);
        let good = format!("ann viewer sha256:{hash}");
        let wrong = [
            "s3cret".to_owned(),
            format!("ann s3cret sha256:{hash}"),
            format!("ann viewer s3cret:{hash}"),
            format!("ann viewer sha256:{}", &hash[1..]),
            format!("ann viewer sha256:s3cret{}", &hash[6..]),
            format!("ann viewer sha256:+{}", &hash[1..]),
            format!("{good} s3cret"),
            format!("{good} expires s3cret"),
            format!("{good} until 2027-01-01T00:00:00Z"),
            good.clone(),
        ];
        for line in wrong {
            let reason = parse(&format!("{good}\n{line}")).unwrap_err();
            assert!(reason.starts_with("line 2: "), "{line}: {reason}");
            assert!(!reason.contains("s3cret"), "{reason}");
        }
        for name in ["", "two words", "#x", "a\nb", &"n".repeat(201)] {
            assert!(mint(name, Role::Viewer, None).is_err(), "{name}");
        }
    }
}
