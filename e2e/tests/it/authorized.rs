//! Who may call what: every operation of every service, by each role and by nobody. What is expected is
//! read off `/openapi.json`, and of what it says the most dangerous is written down here too.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use chassis::http::auth::{Access, Auth, Role, Settings, mint};
use chassis::http::guard_described;
use clap::Parser;
use serde_json::Value;
use tower::ServiceExt;

use crate::described::{concrete, whole_services};

/// What everybody may ask.
const PUBLIC: [&str; 11] = [
    "/assets/{name}",
    "/docs",
    "/docs/style.css",
    "/healthz",
    "/login",
    "/logout",
    "/metrics",
    "/openapi.json",
    "/problems",
    "/problems/{slug}",
    "/readyz",
];
/// What many things change by, or nothing brings back, or tells of people.
const FOR_ADMINS: [&str; 8] = [
    "GET /audit",
    "GET /v1/audit",
    "POST /bulk-operations",
    "POST /bulk-operations/{id}/cancel",
    "POST /parked/discard",
    "POST /v1/bulk-operations",
    "POST /v1/bulk-operations/{id}/cancel",
    "POST /v1/parked/{id}/discard",
];

#[derive(Debug, Parser)]
struct Config {
    #[command(flatten)]
    auth: Settings,
}

/// Who asks, with a token if he has one, and the role that it gives.
struct Asking {
    who: &'static str,
    token: Option<String>,
    role: Option<Role>,
}

/// Everybody there is, and the tokens of some of them.
fn everybody() -> (Vec<Asking>, String) {
    let past = chrono::Utc::now() - Duration::from_secs(1);
    let mut lines = String::new();
    let mut made = |who, role, expires| {
        let minted = mint(who, role, expires).expect("a token");
        lines.push_str(&format!("{}\n", minted.line));
        let role = expires.is_none().then_some(role);
        let token = Some(minted.token);
        Asking { who, token, role }
    };
    let mut all = vec![
        made("viewer", Role::Viewer, None),
        made("operator", Role::Operator, None),
        made("admin", Role::Admin, None),
        made("expired", Role::Admin, Some(past)),
    ];
    let stranger = mint("stranger", Role::Admin, None).expect("a token");
    for (who, token) in [
        ("nobody", None),
        ("garbage", Some("garbage".to_owned())),
        ("stranger", Some(stranger.token)),
        (
            "jwt",
            Some("eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYWRtaW4ifQ.".to_owned()),
        ),
    ] {
        let role = None;
        all.push(Asking { who, token, role });
    }
    (all, lines)
}

fn auth_of(lines: &str) -> Auth {
    let file = testbed::target_folder().join(format!("e2e-tokens-{}", uuid::Uuid::now_v7()));
    std::fs::write(&file, lines).expect("a file");
    let flag = format!("--auth-tokens={}", file.display());
    let config = Config::try_parse_from(["e2e", &flag]).expect("settings");
    let auth = Auth::new(&config.auth, "0.0.0.0:1".parse().expect("an address"));
    std::fs::remove_file(&file).expect("the file goes");
    auth.expect("tokens")
}

async fn ask(
    router: &Router,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(concrete(path));
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let request = token.into_iter().fold(request, |request, token| {
        request.header(header::AUTHORIZATION, format!("Bearer {token}"))
    });
    let request = request.body(Body::from("{}")).expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    let (head, body) = answer.into_parts();
    let challenged = head.headers.contains_key(header::WWW_AUTHENTICATE);
    assert_eq!(
        challenged,
        head.status == StatusCode::UNAUTHORIZED,
        "{method} {path}"
    );
    // A stream does not end.
    let kind = head.headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        return (head.status, Value::Null);
    }
    let body = to_bytes(body, 10_000_000).await.expect("a body");
    (
        head.status,
        serde_json::from_slice(&body).unwrap_or_default(),
    )
}

/// What the description of an operation says of who may call it.
fn required(operation: &Value) -> Option<Role> {
    let security = operation["security"]
        .as_array()
        .expect("every operation says it");
    let [requirement] = &security[..] else {
        panic!("one requirement: {security:?}");
    };
    let requirement = requirement.as_object().expect("an object");
    if requirement.is_empty() {
        return None;
    }
    let roles = requirement["bearer"].as_array().expect("by token");
    let [role] = &roles[..] else {
        panic!("one role: {roles:?}");
    };
    Some(role.as_str().expect("a text").parse().expect("a role"))
}

#[tokio::test]
async fn each_role_may_call_what_the_description_says_and_nothing_more() {
    let (everybody, lines) = everybody();
    let auth = auth_of(&lines);
    let (mut seen, mut outcomes) = (0, BTreeMap::<u16, usize>::new());
    for (name, described) in whole_services() {
        let router = guard_described(described, auth.clone());
        let (_, document) = ask(&router, "GET", "/openapi.json", None).await;
        assert_eq!(
            document["components"]["securitySchemes"]["bearer"]["scheme"],
            "bearer"
        );
        let paths = document["paths"].as_object().expect("paths");
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("operations") {
                seen += 1;
                let method = method.to_uppercase();
                let what = format!("{method} {path}");
                let required = required(operation);
                assert_eq!(
                    required.is_none(),
                    PUBLIC.contains(&path.as_str()),
                    "{name}: {what}"
                );
                let admin = FOR_ADMINS.contains(&what.as_str());
                assert_eq!(required == Some(Role::Admin), admin, "{name}: {what}");
                if method != "GET" && required.is_some() {
                    assert!(
                        required >= Some(Role::Operator),
                        "{name}: {what} changes something"
                    );
                }
                let told = operation["responses"].as_object().expect("responses");
                for status in ["401", "403"] {
                    // Who logs in says who he is, and may be wrong.
                    let logs_in = what == "POST /login" && status == "401";
                    assert_eq!(
                        told.contains_key(status),
                        required.is_some() || logs_in,
                        "{name}: {what}"
                    );
                }
                for asking in &everybody {
                    let (status, body) = ask(&router, &method, path, asking.token.as_deref()).await;
                    *outcomes.entry(status.as_u16()).or_default() += 1;
                    let at = format!("{name}: {what} as {}: {body}", asking.who);
                    match (required, asking.role) {
                        (None, _) => {
                            assert!(!matches!(status.as_u16(), 401 | 403), "{at}: {status}");
                        }
                        (Some(_), None) => {
                            assert_eq!(status, 401, "{at}");
                            assert_eq!(body["type"], "/problems/unauthenticated", "{at}");
                        }
                        (Some(needed), Some(role)) if role < needed => {
                            assert_eq!(status, 403, "{at}");
                            assert_eq!(body["type"], "/problems/forbidden", "{at}");
                        }
                        (Some(_), Some(_)) => {
                            assert!(!matches!(status.as_u16(), 401 | 403), "{at}: {status}");
                        }
                    }
                }
            }
        }
    }
    assert!(seen >= 95, "{seen} operations were tried");
    for status in [200, 401, 403, 503] {
        assert!(
            outcomes.get(&status).is_some_and(|times| *times > 20),
            "{outcomes:?}"
        );
    }
}

#[tokio::test]
async fn a_service_that_asks_nobody_lets_everybody_in() {
    for (name, described) in whole_services() {
        let router = guard_described(described, Auth::open());
        let (status, _) = ask(&router, "GET", "/v1/outbox", None).await;
        assert_eq!(
            status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{name}: the database is asked"
        );
    }
}

#[tokio::test]
async fn no_route_is_nobodys() {
    for (name, described) in whole_services() {
        let routes: Vec<_> = described.policy().routes().collect();
        assert!(routes.len() > 12, "{name}");
        for (path, method, access) in routes {
            assert_ne!(access, Access::Nobody, "{name}: {method} {path}");
        }
    }
}

/// A program of ours, which ends by itself.
fn end_of(program: &str, environment: &[(&str, &str)]) -> Output {
    let tests = std::env::current_exe().expect("our own place");
    let folder = tests.ancestors().nth(2).expect("the programs' folder");
    let mut command = std::process::Command::new(folder.join(program));
    command.env_clear().envs(environment.iter().copied());
    command
        .output()
        .expect("cargo build --workspace --bins makes it")
}

#[test]
fn no_service_starts_where_others_connect_and_nobody_is_asked() {
    let needed = [
        ("DATABASE_URL", "postgres://shop:s3cret@127.0.0.1:9/shop"),
        ("KAFKA_BROKERS", "127.0.0.1:9"),
        ("LISTEN", "0.0.0.0:0"),
    ];
    for program in [
        "order-service",
        "payment-service",
        "delivery-service",
        "notification-service",
    ] {
        for more in [&[][..], &[("INSECURE", "false")], &[("JWT_ISSUER", "i")]] {
            let output = end_of(program, &[&needed[..], more].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{program} {more:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{program}: {said}");
            let asked = ["--auth-tokens", "--jwt-audience"];
            assert!(
                asked.iter().any(|flag| said.contains(flag)),
                "{program}: {said}"
            );
            assert!(
                !said.contains("s3cret") && output.stdout.is_empty(),
                "{said}"
            );
        }
    }
}
