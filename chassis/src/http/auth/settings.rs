//! Settings: who may call a service.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use jsonwebtoken::{Algorithm, AlgorithmFamily};

use crate::config::{duration, name};
use crate::http::auth::machine::means_this_machine;

/// Who may call a service, and how long what he did is remembered; to be flattened into the service's
/// settings. With neither tokens nor JWTs nobody is asked, which is possible on loopback only.
#[derive(Debug, Clone, clap::Args)]
// Unless named it would be called like the settings that it stands beside.
#[group(id = "auth")]
#[command(next_help_heading = "Who may call")]
pub struct Settings {
    /// A file of tokens, one a line: `name role sha256:<hex> [expires 2027-01-01T00:00:00Z]`; roles
    /// are viewer, operator, admin, and `recompense token new` makes such lines. Read again within
    /// seconds when it changes.
    #[arg(long, env = "AUTH_TOKENS", value_name = "FILE")]
    pub auth_tokens: Option<PathBuf>,

    /// Whose JWTs count: their `iss`, exactly.
    #[arg(long, env = "JWT_ISSUER", value_name = "ISSUER", value_parser = name, requires_all = ["jwt_audience", "jwt_jwks"])]
    pub jwt_issuer: Option<String>,

    /// For whom they must be made: among their `aud`.
    #[arg(long, env = "JWT_AUDIENCE", value_name = "AUDIENCE", value_parser = name, requires_all = ["jwt_issuer", "jwt_jwks"])]
    pub jwt_audience: Option<String>,

    /// The issuer's public keys, a JWK set: a file, or a URL that is asked every five minutes and
    /// when a key is missing. A URL is https, unless it is on this machine; keys that could not be fetched
    /// again for a day count no more.
    #[arg(long, env = "JWT_JWKS", value_name = "FILE|URL", requires_all = ["jwt_issuer", "jwt_audience"])]
    pub jwt_jwks: Option<JwksSource>,

    /// With what JWTs may be signed; several separated by commas. Never `none`, and no HS256 or the
    /// like: those keys would not be public.
    #[arg(long, env = "JWT_ALGORITHMS", value_name = "NAME,…", default_value_t)]
    pub jwt_algorithms: Algorithms,

    /// The claim that holds the role: a text, or a list whose highest role counts.
    #[arg(
        long,
        env = "JWT_ROLE_CLAIM",
        value_name = "NAME",
        value_parser = name,
        default_value = "role"
    )]
    pub jwt_role_claim: String,

    /// Ask nobody who he is although others than this machine can connect. For where something in
    /// front asks, or nobody else comes.
    #[arg(long, env = "INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// How long what people did is remembered (`GET /v1/audit`), in days such as `365d`.
    #[arg(long, env = "AUDIT_RETENTION", value_name = "DURATION", default_value = "365d", value_parser = at_least_a_day)]
    pub audit_retention: Duration,
}

impl Settings {
    /// Whether anything says who may call.
    pub(super) fn ask(&self) -> bool {
        self.auth_tokens.is_some() || self.jwt_issuer.is_some()
    }

    /// Refuses to listen to others without asking who they are.
    pub(super) fn check(&self, listen: SocketAddr) -> Result<(), String> {
        if self.ask() || self.insecure || is_loopback(listen) {
            return Ok(());
        }
        Err(format!(
            "{listen} (--listen, environment LISTEN) is not loopback, and nobody would be asked who he is: give \
             --auth-tokens FILE (AUTH_TOKENS) or --jwt-issuer, --jwt-audience and --jwt-jwks (JWT_ISSUER …), or \
             --insecure (INSECURE) where something in front asks"
        ))
    }
}

/// Whether only this machine can connect there.
pub(super) fn is_loopback(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_loopback()
}

/// Whether a URL leads nowhere else.
#[must_use]
pub fn is_this_machine(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(means_this_machine)
}

/// Where an issuer's keys are.
#[derive(Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// In a file.
    File(PathBuf),
    /// Where HTTP leads.
    Url(reqwest::Url),
}

/// Without a URL's query, which may hold a secret.
impl fmt::Debug for JwksSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(out, "{}", file.display()),
            Self::Url(url) => {
                let origin = url.origin().ascii_serialization();
                write!(out, "{origin}{}", url.path())
            }
        }
    }
}

impl FromStr for JwksSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return match text {
                "" => Err("must be a file or a URL".to_owned()),
                file => Ok(Self::File(file.into())),
            };
        }
        match text.parse::<reqwest::Url>() {
            Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
                Err("must be a file, or a URL of http or https".to_owned())
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                Err("must not hold a user or a password".to_owned())
            }
            // Whoever can change these keys on their way can sign tokens.
            Ok(url) if url.scheme() == "http" && !is_this_machine(&url) => {
                Err("must be https, unless it is on this machine".to_owned())
            }
            Ok(url) => Ok(Self::Url(url)),
            Err(error) => Err(format!("not a URL: {error}")),
        }
    }
}

/// With what JWTs may be signed: only what needs no shared secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Algorithms(Vec<Algorithm>);

impl Algorithms {
    pub(super) fn all(&self) -> &[Algorithm] {
        &self.0
    }
}

impl Default for Algorithms {
    fn default() -> Self {
        Self(vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA])
    }
}

impl fmt::Display for Algorithms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|name| format!("{name:?}")).collect();
        out.write_str(&names.join(","))
    }
}

impl FromStr for Algorithms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |name: &str| {
            let algorithm: Algorithm = name.trim().parse().ok()?;
            (algorithm.family() != AlgorithmFamily::Hmac).then_some(algorithm)
        };
        let named: Option<Vec<_>> = text.split(',').map(known).collect();
        named.map(Self).ok_or_else(|| {
            "must be of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA".to_owned()
        })
    }
}

fn at_least_a_day(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    match time >= Duration::from_secs(24 * 60 * 60) {
        true => Ok(time),
        false => Err("must be at least 1d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_need_public_keys() {
        let parse = |text: &str| text.parse::<Algorithms>();
        assert_eq!(parse("RS256,ES256,EdDSA"), Ok(Algorithms::default()));
        assert_eq!(Algorithms::default().to_string(), "RS256,ES256,EdDSA");
        for wrong in [
            "",
            "none",
            "HS256",
            "RS256,HS512",
            "rs256",
            "RS256,,ES256",
            "RSA",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_come_from_a_file_or_over_http() {
        let parse = |text: &str| text.parse::<JwksSource>();
        assert!(matches!(parse("/etc/keys.json"), Ok(JwksSource::File(_))));
        let url = parse("https://id.example/keys?key=s3cret").unwrap();
        assert_eq!(format!("{url:?}"), "https://id.example/keys");
        for local in [
            "http://localhost:1/k",
            "http://127.0.0.1/k",
            "http://[::1]:1/k",
        ] {
            assert!(parse(local).is_ok(), "{local}");
        }
        for wrong in [
            "",
            "ftp://id.example/keys",
            "file:///etc/keys",
            "https://u:s3cret@id.example/",
            "http://id.example/keys",
            "http://10.0.0.1/keys",
            "http://localhost.id.example/keys",
            "http://",
        ] {
            let reason = parse(wrong).unwrap_err();
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }

    #[test]
    fn loopback_has_many_names() {
        for (listen, only_us) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
        ] {
            assert_eq!(is_loopback(listen.parse().unwrap()), only_us, "{listen}");
        }
    }
}
