//! JSON Web Tokens (RFC 7519), checked as RFC 8725 advises: the algorithm is ours to choose, the
//! issuer and the audience must be those expected, and a token without an end is refused.

use std::path::Path;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::Value;

use crate::http::auth::caller::{Caller, name_by_jwt};
use crate::http::auth::jwks::Jwks;
use crate::http::auth::rejection::Rejection;
use crate::http::auth::role::Role;
use crate::http::auth::settings::{JwksSource, Settings};

/// How far the clocks of the issuer and ours may be apart, in seconds.
const LEEWAY: u64 = 30;

/// Whose JWTs count here.
#[derive(Debug)]
pub(super) struct Jwt {
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    role_claim: String,
    jwks: Jwks,
}

impl Jwt {
    /// From the settings, if they speak of JWTs. The error names the setting.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, String> {
        let Settings {
            jwt_issuer: Some(issuer),
            jwt_audience: Some(audience),
            jwt_jwks: Some(source),
            ..
        } = settings
        else {
            return Ok(None);
        };
        let jwks = Jwks::new(source).map_err(|reason| match source {
            JwksSource::File(file) => wrong(file, &reason),
            JwksSource::Url(_) => reason,
        });
        let jwks = jwks.map_err(|reason| {
            format!("wrong setting --jwt-jwks (environment JWT_JWKS): {reason}")
        })?;
        Ok(Some(Self {
            issuer: issuer.clone(),
            audience: audience.clone(),
            algorithms: settings.jwt_algorithms.all().to_vec(),
            role_claim: settings.jwt_role_claim.clone(),
            jwks,
        }))
    }

    pub(super) async fn refresh(&self) {
        self.jwks.refresh().await;
    }

    /// Who it says its bearer is, if it is good.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, Rejection> {
        // `none` is no algorithm that could be named at all.
        let header = decode_header(token).map_err(|_| Rejection::Malformed)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(Rejection::Invalid);
        }
        let key = self.jwks.key(header.kid.as_deref(), header.alg).await?;
        let claims = decode::<Value>(token, &key, &self.validation(header.alg));
        let claims = claims.map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => Rejection::Expired,
            _ => Rejection::Invalid,
        })?;
        let claims = claims.claims;
        let name = claims["sub"].as_str().and_then(name_by_jwt);
        let name = name.ok_or(Rejection::Invalid)?;
        let role = highest(&claims[&self.role_claim]).ok_or(Rejection::NoRole)?;
        Ok(Caller { name, role })
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation
    }
}

/// The highest role among a text or a list of them. Words that are no roles of ours are somebody
/// else's.
fn highest(claim: &Value) -> Option<Role> {
    let word = |value: &Value| value.as_str().and_then(|word| word.parse().ok());
    match claim {
        Value::Array(words) => words.iter().filter_map(word).max(),
        one => word(one),
    }
}

fn wrong(file: &Path, reason: &str) -> String {
    format!("{}: {reason}", file.display())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_highest_role_that_is_known_counts() {
        for (claim, role) in [
            (json!("viewer"), Some(Role::Viewer)),
            (json!(["viewer", "admin", "operator"]), Some(Role::Admin)),
            (json!(["shop:operator", "viewer", 7]), Some(Role::Viewer)),
            (json!("Admin"), None),
            (json!("viewer admin"), None),
            (json!({"admin": true}), None),
            (json!(["root"]), None),
            (json!([["admin"]]), None),
            (json!(3), None),
            (Value::Null, None),
        ] {
            assert_eq!(highest(&claim), role, "{claim}");
        }
    }
}
