//! Bytes for those who asked to see them.

use std::fmt::Write as _;

use serde::Serialize;

/// A payload's bytes in a form that fits JSON and a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Its bytes are UTF-8.
    Text(String),
    /// They are not: two digits a byte.
    Hex(String),
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Hex(hex(error.as_bytes())),
        }
    }
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_told_in_hex() {
        let json = |bytes: &[u8]| serde_json::to_string(&Payload::from(bytes.to_vec())).unwrap();
        assert_eq!(json(b"{}"), r#"{"text":"{}"}"#);
        assert_eq!(json(&[0, 255]), r#"{"hex":"00ff"}"#);
    }
}
