//! From serde's errors to a field and a sentence.
//!
//! Serde says `invalid type: string "4711", expected u32 at line 1 column 9`. The value is the
//! client's and stays out of answers and logs; `u32` means nothing to its author.

use std::fmt::Display;

use crate::http::problem::FieldError;

/// The field an error is about, and what it must be. `whole` names the outermost value, for
/// errors that are about no field.
pub(super) fn field_error(path: &str, message: &dyn Display, whole: &str) -> FieldError {
    let message = message.to_string();
    let parent = if path == "." { "" } else { path };
    let (inner, message) = match about_a_key(&message) {
        Some((key, "missing")) => (key, "is required".to_owned()),
        Some((key, "duplicate")) => (key, "is given more than once".to_owned()),
        Some((key, _)) => (key, "is not known".to_owned()),
        None => ("", expectation(&message)),
    };
    let field = match (parent, inner) {
        ("", "") => whole.to_owned(),
        (parent, "") => parent.to_owned(),
        ("", key) => key.to_owned(),
        (parent, key) if parent == key || parent.ends_with(&format!(".{key}")) => parent.to_owned(),
        (parent, key) => format!("{parent}.{key}"),
    };
    FieldError { field, message }
}

/// ``missing field `name` `` → `(name, missing)`, likewise `unknown` and `duplicate`.
fn about_a_key(message: &str) -> Option<(&str, &'static str)> {
    ["missing", "duplicate", "unknown"]
        .into_iter()
        .find_map(|what| {
            let rest = message.strip_prefix(what)?.strip_prefix(" field `")?;
            let (key, _) = rest.split_once('`')?;
            Some((key, what))
        })
}

fn expectation(message: &str) -> String {
    let message = match message.rfind(" at line ") {
        Some(position) => &message[..position],
        None => message,
    };
    match message.rfind(", expected ") {
        Some(position) => format!(
            "must be {}",
            plainly(&message[position + ", expected ".len()..])
        ),
        None if message == "invalid digit found in string" => "must be a whole number".to_owned(),
        None => message.to_owned(),
    }
}

/// A type of Rust in the words of somebody who writes JSON.
pub(super) fn plainly(expected: &str) -> String {
    macro_rules! whole_number {
        ($($type:ident),*) => {
            match expected {
                $(stringify!($type) => return format!("a whole number from {} to {}", $type::MIN, $type::MAX),)*
                _ => {}
            }
        };
    }
    whole_number!(u8, u16, u32, u64, i8, i16, i32, i64);
    match expected {
        "f32" | "f64" => "a number".to_owned(),
        "bool" => "true or false".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "an object".to_owned(),
        "a borrowed string" | "char" | "a character" => "a string".to_owned(),
        other if other.starts_with("struct ") => "an object".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_a_field_and_a_sentence() {
        let cases = [
            (
                "items[0].quantity",
                "invalid type: string \"a, expected b\", expected u8 at line 1 column 9",
                "items[0].quantity",
                "must be a whole number from 0 to 255",
            ),
            (
                "delivery",
                "missing field `postcode` at line 3 column 1",
                "delivery.postcode",
                "is required",
            ),
            (".", "missing field `items`", "items", "is required"),
            (
                "colour",
                "unknown field `colour`, expected `size`",
                "colour",
                "is not known",
            ),
            (
                "status",
                "unknown variant `x`, expected `a` or `b`",
                "status",
                "must be `a` or `b`",
            ),
            (
                ".",
                "invalid type: null, expected struct Order at line 1 column 4",
                "body",
                "must be an object",
            ),
            (
                "limit",
                "invalid digit found in string",
                "limit",
                "must be a whole number",
            ),
        ];
        for (path, said, field, message) in cases {
            let error = field_error(path, &said, "body");
            assert_eq!(
                (error.field.as_str(), error.message.as_str()),
                (field, message)
            );
        }
    }
}
