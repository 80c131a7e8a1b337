//! Canaries: words that stand in every secret there is, and must stand in nothing that anybody can read.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use chassis::http::auth::{COOKIE, Role, mint};
use reqwest::header::{AUTHORIZATION, COOKIE as COOKIE_HEADER};
use testbed::{Database, Process, free_port};
use tokio::process::Command;

/// Each in a place of its own, so that a leak says where it came from.
const PASSWORD: &str = "canary-of-the-password";
const BAD_TOKEN: &str = "canary-of-a-bad-token";
const JWKS_QUERY: &str = "canary-of-the-key-url";
const OTLP_HEADER: &str = "canary-of-the-collector";
/// The parts of a JWT that say something, as anybody could read them in it.
const JWT: &str =
    "eyJhbGciOiJFZERTQSIsImtpZCI6ImNhbmFyeSJ9.eyJzdWIiOiJjYW5hcnkifQ.Y2FuYXJ5LW9mLWEtand0";

const SERVICES: [&str; 4] = [
    "order-service",
    "payment-service",
    "delivery-service",
    "notification-service",
];

/// Everything that was read, with what it came from.
struct Cage {
    canaries: Vec<String>,
    looked_at: usize,
}

impl Cage {
    fn of(more: &[&str]) -> Self {
        let (claims, signature) = JWT
            .split_once('.')
            .and_then(|(_, rest)| rest.split_once('.'))
            .expect("three");
        let fixed = [
            PASSWORD,
            BAD_TOKEN,
            JWKS_QUERY,
            OTLP_HEADER,
            claims,
            signature,
        ];
        let all = fixed.iter().chain(more);
        Self {
            canaries: all.map(|canary| (*canary).to_owned()).collect(),
            looked_at: 0,
        }
    }

    fn look_at(&mut self, what: &str, text: &str) {
        for canary in &self.canaries {
            if let Some(at) = text.find(canary.as_str()) {
                let line = text[..at].lines().count();
                let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
                panic!("{what} tells {canary}: {shown}");
            }
        }
        self.looked_at += text.len();
    }
}

fn programs() -> PathBuf {
    let tests = std::env::current_exe().expect("our own place");
    tests
        .ancestors()
        .nth(2)
        .expect("the programs' folder")
        .to_owned()
}

/// A program that ends by itself, with nothing but this environment.
async fn end_of(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(programs().join(program));
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied());
    let output = tokio::time::timeout(Duration::from_secs(60), command.kill_on_drop(true).output());
    output
        .await
        .expect("it ends")
        .expect("cargo build --workspace --bins makes it")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn the_cage_holds_canaries() {
    let caught =
        std::panic::catch_unwind(|| Cage::of(&["x-1"]).look_at("a log", "line\nhere is x-1\n"));
    assert!(caught.is_err());
    Cage::of(&["x-1"]).look_at("a log", "nothing\n");
}

#[tokio::test]
async fn no_secret_of_a_running_service_reaches_a_log_an_answer_or_a_figure() {
    let folder = tempfile::tempdir().expect("a folder");
    for program in SERVICES {
        let database = Database::fresh("e2e_canary").await;
        let pool = database.pool(1).await.expect("a pool");
        let user = format!("canary_{}", uuid::Uuid::now_v7().simple());
        let sql = format!("create role {user} superuser login password '{PASSWORD}'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&pool)
            .await
            .expect("a user");
        let at = database.options().expect("options");
        let url = format!(
            "postgres://{user}:{PASSWORD}@{}:{}/{}",
            at.get_host(),
            at.get_port(),
            database.name
        );
        let secret = folder.path().join(format!("{program}-url"));
        fs::write(&secret, &url).expect("a file");
        let minted = mint("ada", Role::Admin, None).expect("a token");
        let tokens = folder.path().join(format!("{program}-tokens"));
        fs::write(&tokens, &minted.line).expect("a file");
        let mut cage = Cage::of(&[&minted.token]);

        let port = free_port();
        let mut service = Process::new(program)
            .expect("the program")
            .env("DATABASE_URL_FILE", secret.display().to_string())
            .env("MIGRATE", "true")
            .env("KAFKA_BROKERS", "127.0.0.1:1")
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("AUTH_TOKENS", tokens.display().to_string())
            .env("JWT_ISSUER", "https://id.example")
            .env("JWT_AUDIENCE", "shop")
            .env(
                "JWT_JWKS",
                format!("http://127.0.0.1:1/keys?key={JWKS_QUERY}"),
            )
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .env(
                "OTEL_EXPORTER_OTLP_HEADERS",
                format!("authorization={OTLP_HEADER}"),
            )
            .env("RUST_LOG", "trace")
            .env("LOG_FORMAT", "json")
            .log(folder.path().join(format!("{program}.log")));
        service.start().expect("it starts");
        let url = format!("http://127.0.0.1:{port}");
        service
            .wait_for_ok(&format!("{url}/healthz"))
            .await
            .expect("it lives");

        let http = testbed::http(Duration::from_secs(30));
        let mut statuses = Vec::new();
        for path in [
            "/v1/outbox",
            "/v1/parked",
            "/v1/parked/outbox-1/replay",
            "/v1/audit",
            "/v1/orders",
            "/v1/payments",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/docs",
            "/nothing",
            "/problems/unauthenticated",
        ] {
            for (name, value) in [
                (AUTHORIZATION, format!("Bearer {}", minted.token)),
                (AUTHORIZATION, format!("Bearer {BAD_TOKEN}")),
                (AUTHORIZATION, format!("Basic {BAD_TOKEN}")),
                (AUTHORIZATION, format!("Bearer {JWT}")),
                (COOKIE_HEADER, format!("{COOKIE}={}", minted.token)),
                (COOKIE_HEADER, format!("{COOKIE}={BAD_TOKEN}")),
            ] {
                for method in ["GET", "POST"] {
                    let request = match method {
                        "GET" => http.get(format!("{url}{path}")),
                        _ => http.post(format!("{url}{path}")).body("{"),
                    };
                    let answer = request
                        .header(&name, &value)
                        .send()
                        .await
                        .expect("an answer");
                    statuses.push(answer.status().as_u16());
                    let head = format!("{:?}", answer.headers());
                    cage.look_at(&format!("the head of {method} {path}"), &head);
                    let body = answer.text().await.expect("a body");
                    cage.look_at(&format!("{method} {path}"), &body);
                }
            }
        }
        for expected in [200, 401, 403, 404, 405, 503] {
            assert!(
                statuses.contains(&expected),
                "{program}: no {expected} among {statuses:?}"
            );
        }
        // A file that becomes unreadable is told of, and what stands in it is not.
        fs::write(&tokens, format!("{BAD_TOKEN}\n")).expect("a file");
        testbed::until(
            Duration::from_secs(30),
            "the broken file to be noticed",
            async || {
                service
                    .output()
                    .contains("the tokens cannot be read")
                    .then_some(())
            },
        )
        .await;
        let figures = http
            .get(format!("{url}/metrics"))
            .send()
            .await
            .expect("figures");
        let figures = figures.text().await.expect("figures");
        assert!(figures.contains("http_unauthenticated_total"), "{figures}");
        cage.look_at("/metrics", &figures);
        service
            .terminate(Duration::from_secs(30))
            .await
            .expect("it ends");
        let log = folder.path().join(format!("{program}.log"));
        let log = fs::read_to_string(log).expect("a log");
        assert!(log.contains("TRACE"), "{program} logs everything");
        assert!(log.len() > 10_000, "{program}: {} bytes", log.len());
        cage.look_at(&format!("the log of {program}"), &log);
        assert!(
            cage.looked_at > 100_000,
            "{program}: {} bytes were read",
            cage.looked_at
        );
    }
}

#[tokio::test]
async fn no_secret_that_is_wrong_is_told_by_whoever_refuses_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).expect("a file");
        file.display().to_string()
    };
    let mut cage = Cage::of(&[]);
    let good = format!("postgres://shop:{PASSWORD}@127.0.0.1:9/shop");
    let file = write("good", &good);
    let two_lines = write("two-lines", &format!("{good}\n{PASSWORD}\n"));
    let tokens = write("tokens", &format!("ann {BAD_TOKEN} sha256:{BAD_TOKEN}\n"));
    let keys = write("keys", &format!("{{\"keys\": [\"{JWKS_QUERY}\"]}}"));
    let wrong_urls = [
        format!("{PASSWORD}@db"),
        format!("postgres://shop:{PASSWORD}@host:port/shop"),
        format!("postgres://shop:{PASSWORD}@[::/shop"),
        format!("mysql://shop:{PASSWORD}@db/shop"),
    ];
    let jwt = [("JWT_ISSUER", "i"), ("JWT_AUDIENCE", "a")];
    let base = [("KAFKA_BROKERS", "127.0.0.1:9"), ("LISTEN", "127.0.0.1:0")];
    let mut cases: Vec<Vec<(&str, &str)>> = vec![
        vec![("DATABASE_URL", &good), ("DATABASE_URL_FILE", &file)],
        vec![("DATABASE_URL_FILE", &two_lines)],
        vec![("DATABASE_URL", &good), ("KAFKA_BROKERS", &good)],
        vec![("DATABASE_URL", &good), ("LISTEN", &good)],
        vec![
            ("DATABASE_URL", &good),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", OTLP_HEADER),
        ],
    ];
    cases.extend(
        wrong_urls
            .iter()
            .map(|url| vec![("DATABASE_URL", url.as_str())]),
    );
    let services_only: [Vec<(&str, &str)>; 5] = [
        vec![("DATABASE_URL", &good), ("AUTH_TOKENS", &tokens)],
        [
            &[("DATABASE_URL", good.as_str()), ("JWT_JWKS", keys.as_str())][..],
            &jwt,
        ]
        .concat(),
        [
            &[
                ("DATABASE_URL", good.as_str()),
                ("JWT_JWKS", "https://u:canary-of-the-key-url@id/"),
            ][..],
            &jwt,
        ]
        .concat(),
        [
            &[
                ("DATABASE_URL", good.as_str()),
                ("JWT_JWKS", "ftp://id/canary-of-the-key-url"),
            ][..],
            &jwt,
        ]
        .concat(),
        vec![
            ("DATABASE_URL", &good),
            ("JWT_JWKS", "https://id/?canary-of-the-key-url"),
        ],
    ];
    for program in [
        "order-service",
        "payment-service",
        "delivery-service",
        "notification-service",
        "relay",
    ] {
        let services_only = services_only.iter().filter(|_| program != "relay");
        for case in cases.iter().chain(services_only) {
            let environment = [&base[..], case].concat();
            let output = end_of(program, &[], &environment).await;
            let said = said(&output);
            let names: Vec<_> = case.iter().map(|(name, _)| name).collect();
            assert_eq!(output.status.code(), Some(2), "{program} {names:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{program} {names:?}: {said}");
            cage.look_at(&format!("{program} with {names:?}"), &said);
        }
        for flag in ["--help", "-h", "--version"] {
            let environment = [
                ("DATABASE_URL", good.as_str()),
                ("KAFKA_BROKERS", "127.0.0.1:9"),
            ];
            let output = end_of(program, &[flag], &environment).await;
            assert!(output.status.success(), "{program} {flag}");
            cage.look_at(&format!("{program} {flag}"), &said(&output));
        }
    }
}

#[tokio::test]
async fn the_command_line_tells_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = format!("postgres://shop:{PASSWORD}@127.0.0.1:9/shop");
    let file = folder.path().join("url");
    fs::write(&file, &good).expect("a file");
    let file = file.display().to_string();
    let mut cage = Cage::of(&[]);
    let wrong = format!("postgres://shop:{PASSWORD}@host:port/shop");
    for command in [
        &["outbox", "status"][..],
        &["outbox", "pause"],
        &["outbox", "parked", "list"],
        &["inbox", "parked", "list"],
        &["audit"],
        &["migrate", "--schema", "outbox"],
    ] {
        for environment in [
            &[("DATABASE_URL", good.as_str())][..],
            &[("DATABASE_URL", wrong.as_str())],
            &[("DATABASE_URL_FILE", file.as_str())],
            &[
                ("DATABASE_URL_FILE", file.as_str()),
                ("DATABASE_URL", good.as_str()),
            ],
        ] {
            let traced = [environment, &[("RUST_LOG", "trace"), ("USER", "ann")]].concat();
            let output = end_of("recompense", command, &traced).await;
            let said = said(&output);
            assert!(
                !output.status.success() && !said.is_empty(),
                "{command:?}: {said}"
            );
            cage.look_at(&format!("recompense {command:?}"), &said);
        }
        let flag = [command, &["--database-url", &wrong]].concat();
        cage.look_at(
            &format!("{command:?}"),
            &said(&end_of("recompense", &flag, &[]).await),
        );
        let help = [command, &["--help"]].concat();
        let output = end_of("recompense", &help, &[("DATABASE_URL", &good)]).await;
        assert!(output.status.success(), "{help:?}");
        cage.look_at(&format!("{help:?}"), &said(&output));
    }
    // A token is shown to whoever makes it; twice made it is another one.
    let made = end_of(
        "recompense",
        &[
            "token", "new", "ann", "--role", "viewer", "--output", "json",
        ],
        &[],
    )
    .await;
    let again = end_of(
        "recompense",
        &[
            "token", "new", "ann", "--role", "viewer", "--output", "json",
        ],
        &[],
    )
    .await;
    assert!(made.status.success() && again.status.success());
    let token = |output: &Output| {
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (
            made["token"].as_str().expect("a token").to_owned(),
            made["line"].as_str().expect("a line").to_owned(),
        )
    };
    let ((one, line), (other, _)) = (token(&made), token(&again));
    assert!(one != other && one.starts_with("rcp_"), "{line}");
    assert!(
        line.starts_with("ann viewer sha256:") && !line.contains(&one[4..]),
        "{line}"
    );
}
