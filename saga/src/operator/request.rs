//! What is asked, checked at the door.

use sha2::{Digest, Sha256};

use crate::{
    Error,
    intervention::{Intervention, What},
    table::has_nul,
};

/// The longest name of a person or a program.
const MAX_ACTOR: usize = 200;
/// The longest reason.
const MAX_REASON: usize = 2000;
/// The longest idempotency key.
const MAX_KEY: usize = 255;

/// One intervention, as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is to happen.
    pub what: What,
    /// Who wants it: 1 to 200 bytes.
    pub actor: String,
    /// Why, in a sentence: 1 to 2,000 bytes.
    pub reason: String,
    /// The number of the last event that the person saw; none if any will do.
    pub expected_seq: Option<i64>,
    /// Names this request: the same one sent again is not carried out again. 1 to 255 visible
    /// ASCII characters. A dry run has no use for it.
    pub idempotency_key: String,
    /// Say what would happen, and let nothing happen.
    pub dry_run: bool,
}

impl Request {
    /// Whether it can be carried out on any saga at all.
    ///
    /// # Errors
    ///
    /// [`Error::Request`], which names the field.
    pub fn check(&self) -> Result<(), Error> {
        check_author(&self.actor, &self.reason)?;
        check_what(&self.what)?;
        match self.dry_run {
            true => Ok(()),
            false => check_key(&self.idempotency_key),
        }
    }

    /// What goes into the history.
    pub(crate) fn intervention(&self) -> Intervention {
        Intervention {
            what: self.what.clone(),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
        }
    }

    /// Tells two requests under one key apart.
    pub(crate) fn hash(&self) -> Result<String, Error> {
        hash(&(&self.what, &self.actor, &self.reason, self.expected_seq))
    }
}

/// Somebody, and why.
pub(crate) fn check_author(actor: &str, reason: &str) -> Result<(), Error> {
    check_text("actor", actor, MAX_ACTOR)?;
    check_text("reason", reason, MAX_REASON)
}

pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    let bytes = key.as_bytes();
    match (1..=MAX_KEY).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) {
        true => Ok(()),
        false => Err(wrong(
            "idempotency_key",
            format!("must be 1 to {MAX_KEY} visible ASCII characters"),
        )),
    }
}

/// PostgreSQL keeps no NUL, in text or in JSON.
pub(crate) fn check_what(what: &What) -> Result<(), Error> {
    if what.step().is_some_and(|step| step.contains('\0')) {
        return Err(wrong("step", "it contains a NUL character"));
    }
    match what {
        What::CompleteStep { reply, .. } if has_nul(reply) => {
            Err(wrong("reply", "it contains a NUL character"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn wrong(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Request {
        field,
        reason: reason.into(),
    }
}

/// The sha256 of its JSON, in hexadecimal.
pub(crate) fn hash(request: &impl serde::Serialize) -> Result<String, Error> {
    let json = serde_json::to_vec(request).map_err(|error| wrong("request", error.to_string()))?;
    let digest = Sha256::digest(json);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn check_text(field: &'static str, text: &str, longest: usize) -> Result<(), Error> {
    if text.trim().is_empty() {
        return Err(wrong(field, "must not be empty"));
    }
    if text.len() > longest {
        return Err(wrong(field, format!("must be at most {longest} bytes")));
    }
    match text.contains('\0') {
        true => Err(wrong(field, "it contains a NUL character")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request() -> Request {
        Request {
            what: What::Pause {},
            actor: "ann".to_owned(),
            reason: "the bank is closed".to_owned(),
            expected_seq: None,
            idempotency_key: "k".to_owned(),
            dry_run: false,
        }
    }

    fn field(request: &Request) -> Option<&'static str> {
        match request.check() {
            Ok(()) => None,
            Err(Error::Request { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_wrong_request_names_its_field() {
        let sick = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            request
        };
        let complete = |reply| What::CompleteStep {
            step: "pay".to_owned(),
            reply,
        };
        let mut nul = request();
        nul.what = complete(json!({"a": [{"b": "\0"}]}));
        let cases = [
            (request(), None),
            (sick(|r| r.actor = " ".to_owned()), Some("actor")),
            (sick(|r| r.actor = "a".repeat(201)), Some("actor")),
            (sick(|r| r.actor = "a\0".to_owned()), Some("actor")),
            (sick(|r| r.reason = String::new()), Some("reason")),
            (sick(|r| r.reason = "a".repeat(2001)), Some("reason")),
            (
                sick(|r| r.idempotency_key = String::new()),
                Some("idempotency_key"),
            ),
            (
                sick(|r| r.idempotency_key = "a b".to_owned()),
                Some("idempotency_key"),
            ),
            (
                sick(|r| r.idempotency_key = "a".repeat(256)),
                Some("idempotency_key"),
            ),
            (nul, Some("reply")),
        ];
        for (request, expected) in cases {
            assert_eq!(field(&request), expected, "{request:?}");
        }
        let mut dry = request();
        (dry.dry_run, dry.idempotency_key) = (true, String::new());
        assert_eq!(field(&dry), None, "a dry run needs no key");
    }

    #[test]
    fn requests_are_told_apart_by_everything_that_is_asked() {
        let same = request().hash().unwrap();
        let mut others = [(); 4].map(|()| request());
        others[0].what = What::Cancel {};
        others[1].actor = "bob".to_owned();
        others[2].reason = "another".to_owned();
        others[3].expected_seq = Some(3);
        for other in others {
            assert_ne!(other.hash().unwrap(), same, "{other:?}");
        }
        let mut key = request();
        key.idempotency_key = "another".to_owned();
        assert_eq!(key.hash().unwrap(), same);
    }
}
