//! Who says so: the CloudEvents `source` of every message that a relay sends.

use std::{fmt, net::Ipv6Addr, ops::Deref, str::FromStr};

/// A CloudEvents `source`: a URI reference (RFC 3986, appendix A) of 1 to [`Source::MAX`] bytes, such as
/// `/orders` or `https://shop.example/orders`. Receivers refuse a message without a valid one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source(String);

impl Source {
    /// Its longest length, in bytes: it travels with every message.
    pub const MAX: usize = 255;
}

/// `/outbox`
impl Default for Source {
    fn default() -> Self {
        Self("/outbox".to_owned())
    }
}

impl FromStr for Source {
    type Err = String;

    /// The reason does not repeat the text, which may be something else in the wrong place.
    fn from_str(text: &str) -> Result<Self, String> {
        match flaw(text) {
            None => Ok(Self(text.to_owned())),
            Some(flaw) => Err(format!(
                "must be a URI reference of 1 to {} bytes, such as /orders or https://shop.example/orders: {flaw}",
                Self::MAX
            )),
        }
    }
}

impl Deref for Source {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why it is none.
fn flaw(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > Source::MAX {
        return Some("it is longer");
    }
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte))
    {
        return Some("it has a character that has to be percent-encoded");
    }
    let is_encoded = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_encoded) {
        return Some("a % is not followed by two hexadecimal digits");
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if fragment.contains(['#', '[', ']']) || query.contains(['[', ']']) {
        return Some("its query or fragment has one of # [ ]");
    }
    let rest = match rest.split_once(':') {
        Some((scheme, rest)) if !scheme.contains('/') => {
            if !is_scheme(scheme) {
                return Some("what comes before its first : is no scheme");
            }
            rest
        }
        _ => rest,
    };
    let path = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !is_authority(authority) {
                return Some("its host or port is none");
            }
            path
        }
        None => rest,
    };
    path.contains(['[', ']'])
        .then_some("its path has one of [ ]")
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// `user@host:port`, of which only the host need be there, and may be empty.
fn is_authority(text: &str) -> bool {
    let (user, host) = text.split_once('@').unwrap_or(("", text));
    let (is_host, port) = match host.strip_prefix('[') {
        Some(host) => match host.split_once(']') {
            Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (host, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            (!host.contains(['[', ']', '@']), port)
        }
    };
    let port = port
        .strip_prefix(':')
        .or_else(|| port.is_empty().then_some(port));
    let is_port = port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    is_host && is_port && !user.contains(['[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_references_are_taken_as_they_are() {
        let longest = format!("/{}", "x".repeat(Source::MAX - 1));
        for text in [
            "/outbox",
            "orders",
            "./a:b",
            "/a:b",
            "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
            "https://shop.example/orders",
            "https://shop.example:8443/a/b?c=d/e?f#g",
            "https://[::1]:80/",
            "//host",
            "mailto:shop@example.org",
            "file:///a",
            "/caf%C3%A9",
            "?query",
            "#fragment",
            "1-555-123-4567",
            &longest,
        ] {
            let source = text
                .parse::<Source>()
                .unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(&*source, text);
        }
    }

    #[test]
    fn anything_else_is_refused_without_being_repeated() {
        let too_long = "x".repeat(Source::MAX + 1);
        // 128 letters, 256 bytes.
        let long_in_bytes = "é".repeat(128);
        for (text, why) in [
            ("", "empty"),
            (&*too_long, "longer"),
            (&long_in_bytes, "longer"),
            ("my orders", "percent-encoded"),
            ("/café", "percent-encoded"),
            ("/a\nb", "percent-encoded"),
            ("/a\\b", "percent-encoded"),
            ("/{a}", "percent-encoded"),
            ("/100%", "hexadecimal"),
            ("/%4", "hexadecimal"),
            ("/%zz", "hexadecimal"),
            ("/%4%41", "hexadecimal"),
            ("/a#b#c", "fragment"),
            ("/a?b[c]", "fragment"),
            ("1a:b", "scheme"),
            (":b", "scheme"),
            ("a_b:c", "scheme"),
            ("http://a:b/", "host or port"),
            ("http://[::1", "host or port"),
            ("http://[::g]/", "host or port"),
            ("http://[::1]80/", "host or port"),
            ("http://a@b@c/", "host or port"),
            ("http://[a]b@c/", "host or port"),
            ("/a[b]", "path"),
        ] {
            let reason = text.parse::<Source>().unwrap_err();
            assert!(reason.contains(why), "{text}: {reason}");
            assert!(text.is_empty() || !reason.contains(text), "{reason}");
        }
    }
}
