//! JWTs, good and forged, and the keys of their issuer, there and away.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get as on_get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chassis::http::auth::{Auth, Caller, Rejection, Role, mint};
use chrono::Utc;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::auth::auth;
use crate::jwt_keys::{Key, set, signed_with_the_public_key};

fn claims() -> Value {
    json!({
        "iss": "https://id.example",
        "aud": "shop",
        "sub": "ann",
        "exp": Utc::now().timestamp() + 60,
        "role": "operator",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn believing(jwks: &str, more: &[&str]) -> Auth {
    let issuer = ["--jwt-issuer=https://id.example", "--jwt-audience=shop"];
    let jwks = format!("--jwt-jwks={jwks}");
    auth(&[&issuer, &[jwks.as_str()][..], more].concat())
}

/// Keys in a file.
struct Keys(tempfile::TempDir);

impl Keys {
    fn of(keys: &[&Key]) -> Self {
        let keys = set(keys).to_string();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keys"), keys).unwrap();
        Self(folder)
    }

    fn believed(&self, more: &[&str]) -> Auth {
        believing(&self.0.path().join("keys").display().to_string(), more)
    }
}

#[tokio::test]
async fn a_good_token_of_each_algorithm_makes_a_caller() {
    let keys = [Key::rsa(), Key::ec(), Key::ed()];
    let auth = Keys::of(&keys.each_ref()).believed(&[]);
    for key in &keys {
        let caller = auth.authenticate(&key.sign(&claims())).await;
        let ann = Caller {
            // Not the name that a token of the file could have.
            name: "jwt:ann".to_owned(),
            role: Role::Operator,
        };
        assert_eq!(caller, Ok(ann), "{:?}", key.algorithm);
    }
    let lists = with("aud", json!(["elsewhere", "shop"]));
    assert!(auth.authenticate(&keys[2].sign(&lists)).await.is_ok());
    let one = Keys::of(&[&keys[2]]).believed(&[]);
    let nameless = keys[2].sign_as(Algorithm::EdDSA, None, &claims());
    assert!(
        one.authenticate(&nameless).await.is_ok(),
        "no other key could be meant"
    );
}

#[tokio::test]
async fn a_token_that_is_not_for_us_or_not_now_is_refused() {
    let key = Key::ed();
    let auth = Keys::of(&[&key]).believed(&[]);
    let now = Utc::now().timestamp();
    for (claims, rejection) in [
        (
            with("iss", json!("https://evil.example")),
            Rejection::Invalid,
        ),
        (
            with("iss", json!(["https://evil.example"])),
            Rejection::Invalid,
        ),
        (without("iss"), Rejection::Invalid),
        (with("aud", json!("elsewhere")), Rejection::Invalid),
        (with("aud", json!([])), Rejection::Invalid),
        (without("aud"), Rejection::Invalid),
        (with("exp", json!(now - 31)), Rejection::Expired),
        (with("exp", json!(now.to_string())), Rejection::Invalid),
        (with("exp", json!(null)), Rejection::Invalid),
        (without("exp"), Rejection::Invalid),
        (with("nbf", json!(now + 60)), Rejection::Invalid),
        (without("sub"), Rejection::Invalid),
        (with("sub", json!("")), Rejection::Invalid),
        (with("sub", json!("a\nb")), Rejection::Invalid),
        (with("sub", json!(7)), Rejection::Invalid),
        (with("sub", json!("s".repeat(197))), Rejection::Invalid),
        (without("role"), Rejection::NoRole),
        (with("role", json!("root")), Rejection::NoRole),
        (with("role", json!([])), Rejection::NoRole),
        (with("role", json!({"admin": 1})), Rejection::NoRole),
    ] {
        let caller = auth.authenticate(&key.sign(&claims)).await;
        assert_eq!(caller, Err(rejection), "{claims}");
    }
    for good in [
        with("exp", json!(now - 20)),
        with("nbf", json!(now + 20)),
        with("role", json!(["viewer", "somebody else's"])),
    ] {
        let caller = auth.authenticate(&key.sign(&good)).await;
        assert!(caller.is_ok(), "{good}: {caller:?}");
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let (rsa, ed, other) = (Key::rsa(), Key::ed(), Key::other());
    let auth = Keys::of(&[&rsa, &ed]).believed(&[]);
    let good = ed.sign(&claims());
    let (head, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let admin = part(&with("role", json!("admin")));
    let none = part(&json!({"alg": "none", "kid": "ed"}));
    let mut forged = vec![
        format!("{head}.{admin}.{signature}"),
        format!("{none}.{admin}."),
        format!("{none}.{admin}.{signature}"),
        format!("{head}.{admin}."),
        other.sign_as(Algorithm::EdDSA, Some("ed"), &claims()),
        other.sign(&claims()),
        ed.sign_as(Algorithm::EdDSA, Some("rsa"), &claims()),
        ed.sign_as(Algorithm::EdDSA, Some("../ed"), &claims()),
        good[..good.len() - 4].to_owned(),
        format!("{good}."),
        "a.b.c".to_owned(),
        "..".to_owned(),
    ];
    // RFC 8725, section 2.1: the public key taken for a shared secret, in each of its texts.
    let public = rsa.public();
    let modulus = URL_SAFE_NO_PAD
        .decode(public["n"].as_str().unwrap())
        .unwrap();
    let secrets = [
        public.to_string().into_bytes(),
        set(&[&rsa, &ed]).to_string().into_bytes(),
        public["n"].as_str().unwrap().as_bytes().to_vec(),
        modulus,
    ];
    for secret in &secrets {
        forged.push(signed_with_the_public_key(&rsa, secret, &claims()));
    }
    assert!(auth.authenticate(&good).await.is_ok());
    for token in forged {
        let caller = auth.authenticate(&token).await;
        let refused = [Rejection::Malformed, Rejection::Unknown, Rejection::Invalid];
        assert!(caller.is_err_and(|why| refused.contains(&why)), "{token}");
    }
    // An algorithm that is good elsewhere and was not allowed here.
    let strict = Keys::of(&[&rsa, &ed]).believed(&["--jwt-algorithms=RS256"]);
    assert_eq!(strict.authenticate(&good).await, Err(Rejection::Invalid));
    assert!(strict.authenticate(&rsa.sign(&claims())).await.is_ok());
    // A token with an extension that must be understood (RFC 7515, section 4.1.11).
    let critical = part(&json!({"alg": "EdDSA", "kid": "ed", "crit": ["exp"], "exp": 1}));
    let critical = format!("{critical}.{rest}");
    assert!(auth.authenticate(&critical).await.is_err());
}

#[tokio::test]
async fn the_role_stands_in_the_claim_that_was_named() {
    let key = Key::ed();
    let auth = Keys::of(&[&key]).believed(&["--jwt-role-claim=https://shop.example/roles"]);
    let caller = auth.authenticate(&key.sign(&claims())).await;
    assert_eq!(
        caller,
        Err(Rejection::NoRole),
        "`role` is another issuer's word"
    );
    let claims = with("https://shop.example/roles", json!(["viewer", "admin"]));
    let caller = auth.authenticate(&key.sign(&claims)).await.unwrap();
    assert_eq!(caller.role, Role::Admin);
}

#[tokio::test]
async fn tokens_of_a_file_count_beside_jwts() {
    let key = Key::ed();
    let folder = tempfile::tempdir().unwrap();
    let minted = mint("otto", Role::Viewer, None).unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, minted.line).unwrap();
    let tokens = format!("--auth-tokens={}", file.display());
    let auth = Keys::of(&[&key]).believed(&[&tokens]);
    assert_eq!(auth.authenticate(&minted.token).await.unwrap().name, "otto");
    assert_eq!(
        auth.authenticate(&key.sign(&claims())).await.unwrap().name,
        "jwt:ann"
    );
}

/// An issuer that answers, or does not.
#[derive(Clone)]
struct Issuer {
    answer: Arc<Mutex<Result<Value, StatusCode>>>,
    asked: Arc<AtomicU32>,
    url: String,
}

impl Issuer {
    async fn start(answer: Result<Value, StatusCode>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self {
            answer: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
        };
        let router = Router::new()
            .route("/keys", on_get(Self::keys))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    async fn keys(State(issuer): State<Self>) -> Result<Json<Value>, StatusCode> {
        issuer.asked.fetch_add(1, Ordering::SeqCst);
        issuer.answer.lock().unwrap().clone().map(Json)
    }

    fn set(&self, answer: Result<Value, StatusCode>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Time passes, without anybody waiting.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_that_are_rolled_are_fetched_but_nobody_makes_us_knock_often() {
    let (old, new) = (Key::ed(), Key::other());
    let issuer = Issuer::start(Ok(set(&[&old]))).await;
    let auth = believing(&issuer.url, &[]);
    auth.refresh().await;
    assert_eq!(issuer.asked(), 1);
    assert!(auth.authenticate(&old.sign(&claims())).await.is_ok());
    for _ in 0..20 {
        let forged = old.sign_as(Algorithm::EdDSA, Some("guessed"), &claims());
        assert_eq!(auth.authenticate(&forged).await, Err(Rejection::Unknown));
        auth.refresh().await;
    }
    assert_eq!(
        issuer.asked(),
        1,
        "a key of that moment is not asked for again"
    );
    issuer.set(Ok(set(&[&old, &new])));
    pass(Duration::from_secs(31)).await;
    let token = new.sign(&claims());
    let many = (0..20).map(|_| auth.authenticate(&token));
    let many = futures::future::join_all(many).await;
    assert!(many.iter().all(Result::is_ok), "{many:?}");
    assert_eq!(issuer.asked(), 2, "of many who miss a key one asks");
    pass(Duration::from_secs(301)).await;
    issuer.set(Ok(set(&[&new])));
    auth.refresh().await;
    assert_eq!(issuer.asked(), 3);
    let gone = auth.authenticate(&old.sign(&claims())).await;
    assert_eq!(gone, Err(Rejection::Unknown), "a key that was taken away");
}

#[tokio::test]
async fn an_issuer_that_is_away_takes_nobodys_access_away() {
    let key = Key::ed();
    let issuer = Issuer::start(Err(StatusCode::BAD_GATEWAY)).await;
    let auth = believing(&issuer.url, &[]);
    assert!(auth.is_required());
    let token = key.sign(&claims());
    assert_eq!(auth.authenticate(&token).await, Err(Rejection::NoKeys));
    issuer.set(Ok(set(&[&key])));
    pass(Duration::from_secs(11)).await;
    auth.refresh().await;
    assert!(auth.authenticate(&token).await.is_ok());
    for sick in [
        Err(StatusCode::NOT_FOUND),
        Ok(json!({"keys": []})),
        Ok(json!("maintenance")),
        Ok(json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "ed"}]})),
    ] {
        issuer.set(sick);
        pass(Duration::from_secs(301)).await;
        let before = issuer.asked();
        auth.refresh().await;
        assert_eq!(issuer.asked(), before + 1);
        assert!(auth.authenticate(&token).await.is_ok());
    }
}

#[tokio::test]
async fn without_keys_a_jwt_is_answered_503_and_a_token_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let minted = mint("otto", Role::Viewer, None).unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, minted.line).unwrap();
    let tokens = format!("--auth-tokens={}", file.display());
    let auth = believing("http://127.0.0.1:1/keys", &[&tokens]);
    let router = chassis::health::router(
        chassis::health::Readiness::new(),
        metrics_exporter_prometheus::PrometheusBuilder::new()
            .build_recorder()
            .handle(),
    );
    #[utoipa::path(get, path = "/v1/things", responses((status = 200)))]
    async fn things() {}
    let router =
        router.merge(chassis::http::OpenApiRouter::new().routes(utoipa_axum::routes!(things)));
    let router = chassis::http::described("shop", "For a test.", "1", router);
    let router = chassis::http::guard_described(router, auth);
    let ask = async |token: &str| {
        let request = axum::http::Request::get("/v1/things")
            .header("authorization", format!("Bearer {token}"));
        crate::request::send(&router, request.body(axum::body::Body::empty()).unwrap()).await
    };
    let answer = ask(&Key::ed().sign(&claims())).await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "2");
    assert_eq!(ask(&minted.token).await.status, 200);
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (Key::ed(), Key::other());
    let keys = Keys::of(&[&old]);
    let auth = keys.believed(&[]);
    let file = keys.0.path().join("keys");
    assert!(auth.authenticate(&new.sign(&claims())).await.is_err());
    std::fs::write(&file, set(&[&new]).to_string()).unwrap();
    auth.refresh().await;
    assert!(auth.authenticate(&new.sign(&claims())).await.is_ok());
    std::fs::write(&file, "{").unwrap();
    auth.refresh().await;
    assert!(auth.authenticate(&new.sign(&claims())).await.is_ok());
    assert_eq!(
        auth.authenticate(&old.sign(&claims())).await,
        Err(Rejection::Unknown)
    );
}
