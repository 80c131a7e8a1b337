//! The checked types of single settings.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tracing_subscriber::EnvFilter;

/// Where a database is and how to get in. Its `Debug` and `Display` show everything but the
/// password.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

impl DatabaseUrl {
    /// What sqlx connects with.
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        &self.0
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    /// The reason never repeats the text: it may hold a password in the wrong place.
    fn from_str(text: &str) -> Result<Self, String> {
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            return Err("must begin with postgres://".to_owned());
        }
        match text.parse() {
            Ok(options) => Ok(Self(options)),
            Err(sqlx::Error::Configuration(reason)) => Err(format!("not a database URL: {reason}")),
            Err(_) => Err("not a database URL".to_owned()),
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.0;
        let database = options.get_database().unwrap_or(options.get_username());
        write!(
            out,
            "postgres://{}@{}:{}/{database}",
            options.get_username(),
            options.get_host(),
            options.get_port(),
        )
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DatabaseUrl({self})")
    }
}

/// The brokers to begin with, each a `host:port`; `Display` is what Kafka clients take as
/// `bootstrap.servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaBrokers(Vec<String>);

impl FromStr for KafkaBrokers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|broker| {
                let broker = broker.trim();
                match broker.rsplit_once(':') {
                    Some((host, port)) if is_host(host) && is_port(port) => Ok(broker.to_owned()),
                    // Not repeated: it may be another setting's URL.
                    _ => Err("must be host:port, several separated by commas".to_owned()),
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for KafkaBrokers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join(","))
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    match text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        }
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port != 0)
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One readable line each, coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged: directives as in `RUST_LOG`, known to parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter these directives make.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(reason) => Err(format!("not log directives: {reason}")),
        }
    }
}

/// The longest duration that a setting takes: what PostgreSQL can still add to a time.
const LONGEST: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// A duration as people write it: a whole number and one of `ms`, `s`, `m`, `h`, `d`; at most a hundred
/// years. For use as `value_parser`.
///
/// # Errors
/// What is wrong, in one line, for anything else: no unit, a fraction, a sign, more than fits.
pub fn duration(text: &str) -> Result<Duration, String> {
    // The text is not repeated: it may be a secret that was meant for another setting.
    let wrong = || "must be a duration such as 500ms, 2s, 5m, 1h or 7d".to_owned();
    let too_long = || "must be at most 36500d, a hundred years".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds_each = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(wrong()),
    };
    let milliseconds = number.checked_mul(milliseconds_each).ok_or_else(too_long)?;
    match Duration::from_millis(milliseconds) {
        time if time > LONGEST => Err(too_long()),
        time => Ok(time),
    }
}

/// As [`duration`], of something that takes time.
///
/// # Errors
/// As [`duration`], and for nothing.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        time => Ok(time),
    }
}

/// A name for a setting that must hold one: not empty, no blanks around it, no control characters.
///
/// # Errors
/// What is wrong, in one line.
pub fn name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("must not be empty".to_owned()),
        text if text.trim() != text => Err("must not begin or end with a blank".to_owned()),
        text if text.chars().any(char::is_control) => {
            Err("must not hold control characters".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

/// What Kafka takes as the name of a member: as a topic's, at most 249 of `a-z`, `A-Z`, `0-9`, `.`, `_`, `-`.
pub(in crate::config) fn kafka_member(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match (1..=249).contains(&text.len()) && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("must be 1 to 249 letters, digits, dots, underscores or hyphens".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        let cases = [
            ("500ms", Duration::from_millis(500)),
            ("2s", Duration::from_secs(2)),
            ("5m", Duration::from_secs(300)),
            ("1h", Duration::from_secs(3600)),
            ("7d", Duration::from_secs(604_800)),
            ("0s", Duration::ZERO),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not_a_duration() {
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            " 1s",
            "1 s",
            "1w",
            "99999999999999999999s",
            "9999999999999999999h",
            "1s1s",
            "µs",
        ] {
            let reason = duration(text).unwrap_err();
            assert!(reason.starts_with("must be "), "{text}: {reason}");
        }
    }

    #[test]
    fn a_database_url_never_shows_its_password() {
        let url: DatabaseUrl = "postgres://shop:s3cret@db:5433/orders".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://shop@db:5433/orders");
        assert!(!format!("{url:?}").contains("s3cret"));
        for wrong in [
            "s3cret",
            "http://u:s3cret@h/d",
            "postgres://u:s3cret@h:port/d",
        ] {
            let reason = wrong.parse::<DatabaseUrl>().unwrap_err();
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        for right in ["localhost:9092", "a:1, b-2.example:65535", "[::1]:9092"] {
            assert!(right.parse::<KafkaBrokers>().is_ok(), "{right}");
        }
        for wrong in [
            "",
            "localhost",
            "localhost:",
            ":9092",
            "a:0",
            "a:70000",
            "a:1,,b:2",
            "::1:9092",
        ] {
            assert!(wrong.parse::<KafkaBrokers>().is_err(), "{wrong}");
        }
        let brokers: KafkaBrokers = "a:1, b:2".parse().unwrap();
        assert_eq!(brokers.to_string(), "a:1,b:2");
    }
}
