//! The keys of a JWT's issuer: from a file or a URL, kept until there are newer ones.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::http::auth::file::File;
use crate::http::auth::rejection::Rejection;
use crate::http::auth::settings::JwksSource;

/// How old fetched keys become before they are fetched again.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often at most an unknown key id leads to a fetch: whoever sends such does not decide how often
/// we knock.
const KNOCK: Duration = Duration::from_secs(30);
/// For how long keys count that could not be fetched again: one that the issuer has withdrawn must not count
/// for as long as somebody keeps us from hearing of it.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);
/// For one fetch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer.
const LARGEST: usize = 1024 * 1024;
/// RFC 7518, section 3.3: RSA keys of at least 2048 bits.
const SMALLEST_RSA: usize = 256;

/// The keys known now, and where they come from.
#[derive(Debug)]
pub(super) struct Jwks {
    source: Source,
    keys: RwLock<Known>,
    /// When the source was last asked, and whether it answered. Held while it is being asked, so
    /// that of many who miss a key one asks.
    asked: Mutex<Option<Asked>>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Url(reqwest::Client, reqwest::Url),
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    answered: bool,
}

/// Keys, and when the source said so.
#[derive(Debug)]
struct Known {
    keys: Arc<[Key]>,
    at: Instant,
}

impl Known {
    fn now(keys: Arc<[Key]>) -> Self {
        let at = Instant::now();
        Self { keys, at }
    }
}

/// A public key that signs.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The only algorithm it is for, where it says so.
    algorithm: Option<Algorithm>,
    family: AlgorithmFamily,
    key: DecodingKey,
}

impl Jwks {
    /// Reads a file; a URL is not asked yet.
    pub(super) fn new(source: &JwksSource) -> Result<Self, String> {
        let (source, keys) = match source {
            JwksSource::File(path) => {
                let file = File::new(path);
                let text = file.changed().unwrap_or_else(|| Ok(String::new()))?;
                (Source::File(file), parse(text.as_bytes())?)
            }
            JwksSource::Url(url) => (Source::Url(client()?, url.clone()), Arc::default()),
        };
        Ok(Self {
            source,
            keys: RwLock::new(Known::now(keys)),
            asked: Mutex::new(None),
        })
    }

    /// Asks again if it is time. What cannot be had changes nothing.
    pub(super) async fn refresh(&self) {
        match &self.source {
            Source::File(file) => {
                if let Some(text) = file.changed() {
                    self.keep(text.and_then(|text| parse(text.as_bytes())));
                }
            }
            Source::Url(..) => {
                let mut asked = self.asked.lock().await;
                let wait = match *asked {
                    Some(Asked { answered: true, .. }) => LIFETIME,
                    Some(_) => RETRY,
                    None => Duration::ZERO,
                };
                if asked.is_none_or(|asked| asked.at.elapsed() >= wait) {
                    self.ask(&mut asked).await;
                }
            }
        }
    }

    /// The key that signed, by the token's header.
    pub(super) async fn key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, Rejection> {
        if let Some(key) = find(&self.known(), id, algorithm) {
            return Ok(key);
        }
        // A key that we have not seen may be new: keys are rolled.
        if let (Source::Url(..), Some(_)) = (&self.source, id) {
            let mut asked = self.asked.lock().await;
            if asked.is_none_or(|asked| asked.at.elapsed() >= KNOCK) {
                self.ask(&mut asked).await;
            }
        }
        let known = self.known();
        match find(&known, id, algorithm) {
            Some(key) => Ok(key),
            None if known.is_empty() => Err(Rejection::NoKeys),
            None => Err(Rejection::Unknown),
        }
    }

    fn known(&self) -> Arc<[Key]> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        match &self.source {
            Source::Url(..) if known.at.elapsed() > OLDEST => Arc::default(),
            _ => Arc::clone(&known.keys),
        }
    }

    async fn ask(&self, asked: &mut Option<Asked>) {
        let Source::Url(client, url) = &self.source else {
            return;
        };
        let fetched = match fetch(client, url).await {
            Ok(body) => parse(&body),
            Err(reason) => Err(reason),
        };
        let answered = fetched.is_ok();
        self.keep(fetched);
        let at = Instant::now();
        *asked = Some(Asked { at, answered });
    }

    fn keep(&self, keys: Result<Arc<[Key]>, String>) {
        let from = match &self.source {
            Source::File(file) => file.path().display().to_string(),
            // Without its query, which may be a secret.
            Source::Url(_, url) => format!("{}{}", url.origin().ascii_serialization(), url.path()),
        };
        match keys {
            Ok(keys) => {
                tracing::debug!(from, keys = keys.len(), "the keys of the JWTs' issuer");
                let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
                *known = Known::now(keys);
            }
            Err(reason) => tracing::error!(
                from,
                reason,
                "the keys of the JWTs' issuer cannot be had; those known go on counting for a day"
            ),
        }
    }
}

/// By id exactly; without one only where no other key could be meant.
fn find(keys: &[Key], id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
    let mut fitting = keys.iter().filter(|key| {
        key.family == algorithm.family()
            && key.algorithm.is_none_or(|only| only == algorithm)
            && id.is_none_or(|id| key.id.as_deref() == Some(id))
    });
    match (fitting.next(), fitting.next()) {
        (Some(key), None) => Some(key.key.clone()),
        _ => None,
    }
}

fn client() -> Result<reqwest::Client, String> {
    // An error means that there is a provider of cryptography already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("recompense/", env!("CARGO_PKG_VERSION")));
    client.build().map_err(|error| error.to_string())
}

async fn fetch(client: &reqwest::Client, url: &reqwest::Url) -> Result<Vec<u8>, String> {
    let describe = |error: reqwest::Error| {
        let error = error.without_url();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    };
    let answer = client.get(url.clone()).send().await.map_err(describe)?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()));
    }
    let mut answer = answer;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(describe)? {
        if body.len() + part.len() > LARGEST {
            return Err(format!("it has more than {LARGEST} bytes"));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// The public signing keys of a JWK set (RFC 7517). What is of no use here is passed over: keys to
/// encrypt with, of unknown kinds, and shared secrets, because whoever may see this set could sign
/// with those.
fn parse(text: &[u8]) -> Result<Arc<[Key]>, String> {
    let set: Value = serde_json::from_slice(text).map_err(|_| "it is not JSON".to_owned())?;
    let members = set["keys"].as_array().ok_or("it has no array `keys`")?;
    let keys: Vec<Key> = members.iter().filter_map(Key::of).collect();
    if keys.is_empty() {
        return Err("it has no public key that can check a signature".to_owned());
    }
    Ok(keys.into())
}

impl Key {
    fn of(member: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(member.clone()).ok()?;
        let common = &jwk.common;
        let signs = match (&common.public_key_use, &common.key_operations) {
            (Some(usage), _) => *usage == PublicKeyUse::Signature,
            (None, Some(operations)) => operations.contains(&KeyOperations::Verify),
            (None, None) => true,
        };
        let is_strong = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
                let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
                modulus.len() - zeros >= SMALLEST_RSA
            }
            AlgorithmParameters::EllipticCurve(_) | AlgorithmParameters::OctetKeyPair(_) => true,
            _ => false,
        };
        if !signs || !is_strong {
            return None;
        }
        let algorithm = match common.key_algorithm {
            None => None,
            Some(named) => Some(Algorithm::try_from(named).ok()?),
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let family = key.family();
        if family == AlgorithmFamily::Hmac {
            return None;
        }
        Some(Self {
            id: common.key_id.clone(),
            algorithm,
            family,
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ed(id: &str) -> Value {
        // Of RFC 8037, appendix A.2.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id})
    }

    fn count(keys: &[Value]) -> usize {
        let set = json!({ "keys": keys }).to_string();
        parse(set.as_bytes()).map_or(0, |keys| keys.len())
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn only_public_keys_that_sign_are_taken() {
        assert_eq!(count(&[ed("a"), ed("b")]), 2);
        let rsa = |bytes: usize| {
            let n = URL_SAFE_NO_PAD.encode(vec![0xff_u8; bytes]);
            json!({"kty": "RSA", "n": n, "e": "AQAB"})
        };
        assert_eq!(count(&[rsa(256)]), 1);
        for useless in [
            json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}),
            json!({"kty": "oct", "k": "c2VjcmV0", "alg": "RS256"}),
            rsa(255),
            with(ed("a"), "use", json!("enc")),
            with(ed("a"), "key_ops", json!(["encrypt"])),
            with(ed("a"), "alg", json!("RSA-OAEP")),
            with(ed("a"), "kty", json!("new")),
            json!("a"),
        ] {
            assert_eq!(count(std::slice::from_ref(&useless)), 0, "{useless}");
            assert_eq!(count(&[useless, ed("a")]), 1);
        }
        for text in ["", "[]", "{}", r#"{"keys": 1}"#, r#"{"keys": []}"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_could_not_be_fetched_for_a_day_count_no_more() {
        let nobody = "http://127.0.0.1:9/keys".parse().unwrap();
        let jwks = Jwks::new(&JwksSource::Url(nobody)).unwrap();
        jwks.keep(parse(json!({ "keys": [ed("a")] }).to_string().as_bytes()));
        let key = async || jwks.key(Some("a"), Algorithm::EdDSA).await.map(drop);
        tokio::time::advance(OLDEST).await;
        assert_eq!(key().await, Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(key().await, Err(Rejection::NoKeys));
    }

    #[test]
    fn a_key_is_found_by_its_id_or_where_no_other_could_be_meant() {
        let set = |keys: &[Value]| parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        let found = |keys: &[Key], id| find(keys, id, Algorithm::EdDSA).is_some();
        let two = set(&[ed("a"), ed("b")]);
        assert!(found(&two, Some("a")) && found(&two, Some("b")));
        assert!(!found(&two, Some("c")) && !found(&two, None));
        let one = set(&[ed("a")]);
        assert!(found(&one, None));
        assert!(find(&one, Some("a"), Algorithm::RS256).is_none());
        assert!(
            !found(&set(&[ed("a"), ed("a")]), Some("a")),
            "which of the two?"
        );
    }
}
