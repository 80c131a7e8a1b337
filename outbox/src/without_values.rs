//! What serde says of JSON that it could not read, without what was in it. Pure.
//!
//! Payloads must not reach a log, and serde quotes them. What it takes from the reader's own types may be
//! said: the name of a field that is missing, what was expected.

/// Why some JSON could not be read: what is wrong, and where, but no value of it.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Placed { total: i64 }
///
/// let error = serde_json::from_str::<Placed>(r#"{"secret": 1}"#).err().unwrap();
/// assert_eq!(outbox::without_values(&error), "missing field `total` at line 1 column 13");
/// ```
#[must_use]
pub fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = if error.is_data() { said(&text) } else { None };
    let what = what.unwrap_or_else(|| format!("{:?} error", error.classify()));
    format!("{what} at line {} column {}", error.line(), error.column())
}

/// The part of serde's text that is not from the JSON; `None` where that cannot be told.
fn said(text: &str) -> Option<String> {
    let text = text.rsplit_once(" at line ").map_or(text, |(said, _)| said);
    if ["missing field `", "duplicate field `"]
        .iter()
        .any(|own| text.starts_with(own))
    {
        return Some(text.to_owned());
    }
    // The last: what was found may say "expected" too. What is expected is the reader's word.
    let (found, expected) = text.rsplit_once(", expected ")?;
    let what = [
        "invalid type",
        "invalid value",
        "invalid length",
        "unknown variant",
        "unknown field",
    ];
    let what = what.into_iter().find(|what| found.starts_with(what))?;
    // Of what was found only its type.
    let kinds = [
        "boolean",
        "integer",
        "floating point",
        "character",
        "string",
        "byte array",
        "null",
        "sequence",
        "map",
        "unit variant",
        "newtype variant",
        "tuple variant",
        "struct variant",
    ];
    let found = found.strip_prefix(what)?.trim_start_matches(": ");
    let found = kinds.into_iter().find(|kind| found.starts_with(kind));
    Some(match found.filter(|_| what == "invalid type") {
        Some(found) => format!("{what}: {found}, expected {expected}"),
        None => format!("{what}, expected {expected}"),
    })
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, de::DeserializeOwned};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Placed {
        #[serde(rename = "total")]
        _total: u64,
        #[serde(rename = "state", default)]
        _state: Option<State>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum State {
        Open,
        Closed,
    }

    fn reason<T: DeserializeOwned>(json: &str) -> String {
        without_values(&serde_json::from_str::<T>(json).err().unwrap())
    }

    #[test]
    fn what_is_wrong_is_told_and_no_value_is() {
        for (json, told) in [
            ("{}", "missing field `total`"),
            (r#"{"total":1,"total":2}"#, "duplicate field `total`"),
            (
                r#"{"total":"s3cret"}"#,
                "invalid type: string, expected u64",
            ),
            (
                r#"{"total":"s3cret, expected s3cret"}"#,
                "invalid type: string, expected u64",
            ),
            (r#"{"total":-5}"#, "invalid value, expected u64"),
            (
                r#"{"total":1,"s3cret":2}"#,
                "unknown field, expected `total` or `state`",
            ),
            (
                r#"{"total":1,"state":"s3cret"}"#,
                "unknown variant, expected `open` or `closed`",
            ),
            ("[s3cret", "Syntax error"),
            ("{", "Eof error"),
        ] {
            let reason = reason::<Placed>(json);
            assert!(reason.starts_with(told), "{reason}");
            assert!(reason.contains(" at line 1 column "), "{reason}");
            assert!(!reason.contains("s3cret"), "{reason}");
        }
        // The words of a type's own are not known to be without a value.
        assert!(reason::<uuid::Uuid>(r#""s3cret""#).starts_with("Data error at line"));
    }
}
