//! The door: who is let in where, and what the others are told.

use std::path::PathBuf;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get as on_get};
use chassis::http::auth::{Access, Auth, COOKIE, Caller, Role, Settings, mint};
use chassis::http::{Described, OpenApiRouter, described, guard_described};
use clap::Parser;
use futures::StreamExt;
use tower::ServiceExt;
use utoipa_axum::routes;

use crate::request::{Answer, send};

#[derive(Debug, Parser)]
struct Config {
    #[command(flatten)]
    auth: Settings,
}

pub(crate) fn settings(arguments: &[&str]) -> Settings {
    let arguments = ["shop"].into_iter().chain(arguments.iter().copied());
    let config: Config = chassis::config::try_parse_from(arguments.map(Into::into)).unwrap();
    config.auth
}

pub(crate) fn auth(arguments: &[&str]) -> Auth {
    Auth::new(&settings(arguments), "0.0.0.0:8081".parse().unwrap()).unwrap()
}

async fn who(caller: Option<Extension<Caller>>) -> String {
    match caller {
        Some(Extension(Caller { name, role })) => format!("{name} {role}"),
        None => "nobody".to_owned(),
    }
}

macro_rules! route {
    ($name:ident, $method:ident, $path:literal $(, [$($security:tt)*])?) => {
        #[utoipa::path($method, path = $path, $(security($($security)*),)? responses((status = 200)))]
        async fn $name(caller: Option<Extension<Caller>>) -> String {
            who(caller).await
        }
    };
}
route!(look, get, "/v1/things");
route!(change, post, "/v1/things");
route!(give_up, delete, "/v1/things", [("bearer" = ["admin"])]);
route!(watch, get, "/v1/secrets", [("bearer" = ["operator"])]);
route!(ping, get, "/ping", [()]);
route!(mistaken, get, "/mistaken", [("bearer" = ["root"])]);
route!(login, get, "/login", [()]);
route!(own, post, "/own", [()]);

/// Sends its body back, if it is asked to read it.
#[utoipa::path(post, path = "/v1/echo", responses((status = 200)))]
async fn echo(body: String) -> String {
    body
}

#[utoipa::path(get, path = "/page", security(()), responses((status = 200)))]
async fn page() -> Response {
    let headers = [
        ("content-security-policy", "default-src 'self'"),
        ("cache-control", "max-age=60"),
    ];
    (headers, "page").into_response()
}

fn shop() -> Described {
    let router = OpenApiRouter::new()
        .routes(routes!(look, change, give_up))
        .routes(routes!(watch))
        .routes(routes!(ping))
        .routes(routes!(mistaken))
        .routes(routes!(own))
        .routes(routes!(echo))
        .routes(routes!(page));
    described("shop", "For a test.", "1", router)
}

fn shop_with_login() -> Described {
    let router = OpenApiRouter::new()
        .routes(routes!(look, change))
        .routes(routes!(login));
    described("shop", "For a test.", "1", router)
}

/// A file of tokens for one of each role, and one who is late.
pub(crate) struct Tokens {
    pub(crate) file: PathBuf,
    _folder: tempfile::TempDir,
    pub(crate) viewer: String,
    pub(crate) operator: String,
    pub(crate) admin: String,
    pub(crate) late: String,
}

impl Tokens {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let past = chrono::Utc::now() - Duration::from_secs(1);
        let [viewer, operator, admin, late] = [
            ("vera", Role::Viewer, None),
            ("otto", Role::Operator, None),
            ("ada", Role::Admin, None),
            ("late", Role::Admin, Some(past)),
        ]
        .map(|(name, role, expires)| mint(name, role, expires).unwrap());
        let lines = [&viewer, &operator, &admin, &late].map(|minted| minted.line.as_str());
        std::fs::write(&file, lines.join("\n")).unwrap();
        Self {
            file,
            _folder: folder,
            viewer: viewer.token,
            operator: operator.token,
            admin: admin.token,
            late: late.token,
        }
    }

    fn auth(&self) -> Auth {
        auth(&["--auth-tokens", self.file.to_str().unwrap()])
    }
}

/// `METHOD uri` with these headers.
async fn ask(router: &Router, what: &str, headers: &[(&str, &str)]) -> Answer {
    let (method, uri) = what.split_once(' ').unwrap();
    let request = Request::builder().method(method).uri(uri);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    send(router, request.body(Body::from("{}")).unwrap()).await
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn each_role_may_do_what_the_description_says_and_no_more() {
    let tokens = Tokens::make();
    let router = guard_described(shop(), tokens.auth());
    let all = [
        (&tokens.viewer, "vera viewer", Role::Viewer),
        (&tokens.operator, "otto operator", Role::Operator),
        (&tokens.admin, "ada admin", Role::Admin),
    ];
    for (what, needs) in [
        ("GET /v1/things", Role::Viewer),
        ("HEAD /v1/things", Role::Viewer),
        ("POST /v1/things", Role::Operator),
        ("DELETE /v1/things", Role::Admin),
        ("GET /v1/secrets", Role::Operator),
    ] {
        for (token, name, role) in all {
            let answer = ask(&router, what, &[("authorization", &bearer(token))]).await;
            if role >= needs {
                assert_eq!(answer.status, 200, "{what} as {role}");
                if !what.starts_with("HEAD") {
                    assert_eq!(answer.body, name, "{what}");
                }
            } else if what.starts_with("HEAD") {
                assert_eq!(answer.status, 403, "{what} as {role}");
            } else {
                answer.problem(403, "forbidden");
            }
        }
        let answer = ask(&router, what, &[]).await;
        assert_eq!(answer.status, 401, "{what} as nobody");
    }
    let public = ask(
        &router,
        "GET /ping",
        &[("authorization", "Bearer nonsense")],
    )
    .await;
    assert_eq!(
        (public.status.as_u16(), public.body),
        (200, "nobody".into())
    );
}

#[tokio::test]
async fn who_is_not_known_is_told_what_is_needed_and_nothing_else() {
    let tokens = Tokens::make();
    let router = guard_described(shop(), tokens.auth());
    let ask = async |authorization: Option<&str>| {
        let headers: Vec<_> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        let answer = ask(&router, "GET /v1/things", &headers).await;
        answer.problem(401, "unauthenticated");
        answer.header("www-authenticate").to_owned()
    };
    assert_eq!(ask(None).await, "Bearer realm=\"recompense\"");
    for malformed in ["Basic dXNlcjpwYXNz", "Bearer", "token"] {
        let told = ask(Some(malformed)).await;
        assert_eq!(
            told,
            "Bearer realm=\"recompense\", error=\"invalid_request\""
        );
    }
    let (late, half) = (bearer(&tokens.late), bearer(&tokens.admin[..20]));
    let long = bearer(&"a".repeat(9_000));
    for invalid in ["Bearer nonsense", "Bearer a.b.c", &late, &half, &long] {
        let told = ask(Some(invalid)).await;
        let expected = match invalid.len() > 9_000 {
            true => "Bearer realm=\"recompense\", error=\"invalid_request\"",
            false => "Bearer realm=\"recompense\", error=\"invalid_token\"",
        };
        assert_eq!(told, expected, "{invalid}");
    }
}

#[tokio::test]
async fn a_route_that_is_not_described_or_not_understood_is_nobodys() {
    async fn hidden() -> &'static str {
        "hidden"
    }
    let tokens = Tokens::make();
    let described = shop();
    let mistaken = described
        .policy()
        .routes()
        .find(|(path, ..)| *path == "/mistaken");
    assert_eq!(mistaken, Some(("/mistaken", "GET", Access::Nobody)));
    let admin = bearer(&tokens.admin);
    let admin = [("authorization", admin.as_str())];
    let router = guard_described(described, tokens.auth());
    ask(&router, "GET /mistaken", &admin)
        .await
        .problem(403, "forbidden");
    let answer = ask(&router, "PUT /v1/things", &[]).await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), "DELETE,GET,HEAD,POST");
    ask(&router, "GET /nothing", &[])
        .await
        .problem(404, "not-found");

    let bare = Router::new().route("/hidden", on_get(hidden));
    let router = guard_described(bare.clone(), tokens.auth());
    ask(&router, "GET /hidden", &admin)
        .await
        .problem(403, "forbidden");
    // Where nobody is asked, nothing changes.
    let router = guard_described(bare, Auth::open());
    assert_eq!(ask(&router, "GET /hidden", &[]).await.body, "hidden");
}

#[tokio::test]
async fn nobody_reads_a_body_before_its_sender_is_known() {
    let tokens = Tokens::make();
    let router = guard_described(shop(), tokens.auth());
    let never = || {
        let body = futures::stream::poll_fn(
            |_| -> std::task::Poll<Option<Result<String, std::io::Error>>> {
                panic!("somebody reads the body")
            },
        );
        Body::from_stream(body)
    };
    for (authorization, status) in [(None, 401), (Some(&tokens.viewer), 403)] {
        let request = Request::post("/v1/echo");
        let request = authorization.into_iter().fold(request, |request, token| {
            request.header("authorization", bearer(token))
        });
        let answer = send(&router, request.body(never()).unwrap()).await;
        assert_eq!(answer.status, status);
    }
    // To see that the trap snaps.
    let request = Request::post("/v1/echo").header("authorization", bearer(&tokens.operator));
    let answer = send(&router, request.body(never()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_cookie_counts_and_changes_things_for_our_own_pages_only() {
    let tokens = Tokens::make();
    let router = guard_described(shop(), tokens.auth());
    let cookie = format!("a=b; {COOKIE}={}", tokens.operator);
    let with = |more: &[(&'static str, &'static str)]| {
        let mut headers = vec![("cookie".to_owned(), cookie.clone())];
        headers.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        headers
    };
    let ask = async |what: &str, headers: Vec<(String, String)>| {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        ask(&router, what, &headers).await
    };
    assert_eq!(ask("GET /v1/things", with(&[])).await.body, "otto operator");
    let (site, host) = ("sec-fetch-site", ("host", "shop.example"));
    for ours in [
        &[(site, "same-origin")][..],
        &[("origin", "https://shop.example"), host],
    ] {
        assert_eq!(
            ask("POST /v1/things", with(ours)).await.body,
            "otto operator",
            "{ours:?}"
        );
    }
    for theirs in [
        &[][..],
        &[host],
        &[(site, "none")],
        &[(site, "same-site"), host],
        &[
            (site, "cross-site"),
            ("origin", "https://shop.example"),
            host,
        ],
        &[("origin", "https://evil.example"), host],
        &[("origin", "null"), host],
    ] {
        ask("POST /v1/things", with(theirs))
            .await
            .problem(403, "forbidden");
    }
    // The header is nothing that a page of somebody else's could make a browser send.
    let mut headers = with(&[(site, "cross-site")]);
    headers.push(("authorization".to_owned(), bearer(&tokens.admin)));
    assert_eq!(ask("POST /v1/things", headers).await.body, "ada admin");
}

#[tokio::test]
async fn a_foreign_page_changes_nothing_where_nobody_is_asked_either() {
    let foreign = [("sec-fetch-site", "cross-site")];
    let tokens = Tokens::make();
    for (auth, what) in [
        (Auth::open(), "POST /v1/things"),
        (tokens.auth(), "POST /own"),
    ] {
        let router = guard_described(shop(), auth);
        ask(&router, what, &foreign).await.problem(403, "forbidden");
        assert_eq!(ask(&router, what, &[]).await.body, "nobody");
    }
    let router = guard_described(shop(), Auth::open());
    assert_eq!(
        ask(&router, "GET /v1/things", &foreign).await.body,
        "nobody"
    );
}

#[tokio::test]
async fn a_person_is_sent_to_log_in_if_there_is_where() {
    let tokens = Tokens::make();
    let browser = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let router = guard_described(shop_with_login(), tokens.auth());
    let answer = ask(&router, "GET /v1/things?a=b&c=d", &[browser]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(
        answer.header("location"),
        "/login?next=%2Fv1%2Fthings%3Fa%3Db%26c%3Dd"
    );
    assert_eq!(answer.header("cache-control"), "no-store");
    let wrong = format!("{COOKIE}=nonsense");
    let answer = ask(&router, "GET /v1/things", &[browser, ("cookie", &wrong)]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "a token that ended");
    for headers in [
        &[][..],
        &[("accept", "application/json")],
        &[("accept", "*/*")],
    ] {
        ask(&router, "GET /v1/things", headers)
            .await
            .problem(401, "unauthenticated");
    }
    ask(&router, "POST /v1/things", &[browser])
        .await
        .problem(401, "unauthenticated");
    assert_eq!(ask(&router, "GET /login", &[browser]).await.body, "nobody");
    let router = guard_described(shop(), tokens.auth());
    ask(&router, "GET /v1/things", &[browser])
        .await
        .problem(401, "unauthenticated");
}

#[tokio::test]
async fn tokens_are_taken_away_and_given_without_a_restart() {
    let tokens = Tokens::make();
    let auth = tokens.auth();
    let lines = std::fs::read_to_string(&tokens.file).unwrap();
    let new = mint("nina", Role::Viewer, None).unwrap();
    assert!(auth.authenticate(&tokens.viewer).await.is_ok());
    assert!(auth.authenticate(&new.token).await.is_err());
    let kept: Vec<&str> = lines
        .lines()
        .filter(|line| !line.starts_with("vera "))
        .collect();
    std::fs::write(&tokens.file, format!("{}\n{}\n", kept.join("\n"), new.line)).unwrap();
    auth.refresh().await;
    assert!(auth.authenticate(&tokens.viewer).await.is_err());
    assert_eq!(auth.authenticate(&new.token).await.unwrap().name, "nina");
    for broken in ["nonsense\n", "\u{0}"] {
        std::fs::write(&tokens.file, broken).unwrap();
        auth.refresh().await;
        assert_eq!(auth.authenticate(&new.token).await.unwrap().name, "nina");
    }
    std::fs::remove_file(&tokens.file).unwrap();
    auth.refresh().await;
    assert!(auth.authenticate(&tokens.operator).await.is_ok());
    std::fs::write(&tokens.file, "# nobody\n").unwrap();
    auth.refresh().await;
    assert!(auth.authenticate(&tokens.operator).await.is_err());
    assert!(
        auth.is_required(),
        "an empty file lets nobody in, not everybody"
    );
}

#[utoipa::path(get, path = "/v1/stream", responses((status = 200)))]
async fn stream() -> Response {
    let endless = futures::stream::repeat_with(|| Ok::<_, std::convert::Infallible>("data: x\n\n"));
    let endless = endless.then(async |line| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        line
    });
    let kind = [("content-type", "text/event-stream")];
    (kind, Body::from_stream(endless)).into_response()
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_caller_is_known_no_more() {
    let tokens = Tokens::make();
    let auth = tokens.auth();
    let router = OpenApiRouter::new().routes(routes!(stream));
    let router = guard_described(described("shop", "For a test.", "1", router), auth.clone());
    let open = async |token: &str| {
        let request = Request::get("/v1/stream").header("authorization", bearer(token));
        let request = request.body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().into_data_stream()
    };
    let (mut gone, mut stays) = (open(&tokens.viewer).await, open(&tokens.admin).await);
    // Each line takes 50 ms: two minutes.
    for stream in [&mut gone, &mut stays] {
        assert_eq!(
            stream.take(2_400).count().await,
            2_400,
            "it ended by itself"
        );
    }
    let lines = std::fs::read_to_string(&tokens.file).unwrap();
    let kept: Vec<&str> = lines
        .lines()
        .filter(|line| !line.starts_with("vera "))
        .collect();
    std::fs::write(&tokens.file, kept.join("\n")).unwrap();
    auth.refresh().await;
    assert!(gone.take(2_400).count().await <= 100, "five seconds");
    assert_eq!(stays.take(2_400).count().await, 2_400);
}

#[tokio::test]
async fn a_service_that_serves_reads_the_file_again_by_itself() {
    let tokens = Tokens::make();
    let stop = tokio_util::sync::CancellationToken::new();
    let listener = chassis::http::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let url = format!("http://{}/v1/things", listener.local_addr().unwrap());
    let serving = chassis::http::serve(listener, shop(), tokens.auth(), stop.clone());
    let serving = tokio::spawn(serving);
    let http = testbed::http(Duration::from_secs(5));
    let status = async || {
        let answer = http.get(&url).bearer_auth(&tokens.viewer).send().await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(status().await, 200);
    std::fs::write(&tokens.file, "# nobody\n").unwrap();
    testbed::until(
        Duration::from_secs(20),
        "the token to be taken away",
        || async { (status().await == 401).then_some(()) },
    )
    .await;
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[test]
fn nobody_listens_to_others_without_asking_unless_told_to() {
    let refused = |arguments: &[&str], listen: &str| {
        let auth = Auth::new(&settings(arguments), listen.parse().unwrap());
        auth.err().map(|refusal| (refusal.status, refusal.text))
    };
    for open in ["0.0.0.0:8081", "[::]:8081", "10.1.2.3:0"] {
        let (status, text) = refused(&[], open).unwrap();
        assert_eq!((status, text.lines().count()), (2, 1), "{text}");
        for named in ["--listen", "--auth-tokens", "--jwt-issuer", "--insecure"] {
            assert!(text.contains(named), "{text}");
        }
        assert_eq!(refused(&["--insecure"], open), None);
    }
    assert_eq!(refused(&[], "127.0.0.1:8081"), None);
    assert_eq!(refused(&[], "[::1]:0"), None);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let arguments = ["--auth-tokens", file.to_str().unwrap()];
    let (status, text) = refused(&arguments, "127.0.0.1:1").unwrap();
    assert!(status == 2 && text.contains("AUTH_TOKENS"), "{text}");
    std::fs::write(&file, "ann s3cret sha256:00").unwrap();
    let (_, text) = refused(&arguments, "127.0.0.1:1").unwrap();
    assert!(
        text.contains("line 1") && !text.contains("s3cret"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test]
async fn where_nobody_is_asked_a_name_that_was_made_to_mean_this_machine_opens_nothing() {
    let open = |arguments: &[&str]| {
        let auth = Auth::new(&settings(arguments), "127.0.0.1:8081".parse().unwrap());
        guard_described(shop(), auth.unwrap())
    };
    // What a browser sends from a page at http://evil.example:8081 whose name means 127.0.0.1 by now.
    let evil = [
        ("host", "evil.example:8081"),
        ("origin", "http://evil.example:8081"),
    ];
    let own = [
        ("host", "localhost:8081"),
        ("origin", "http://localhost:8081"),
    ];
    for what in ["GET /v1/things", "POST /v1/things", "GET /ping"] {
        let alone = open(&[]);
        let answer = ask(&alone, what, &evil).await;
        answer.problem(403, "forbidden");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("--insecure"), "{detail}");
        assert_eq!(ask(&alone, what, &own).await.status, 200, "{what}");
        assert_eq!(ask(&alone, what, &[]).await.status, 200, "{what}");
        // Somebody said that something in front asks.
        assert_eq!(ask(&open(&["--insecure"]), what, &evil).await.status, 200);
    }
}

#[test]
fn half_of_what_jwts_need_is_a_missing_setting() {
    let parse = |arguments: &[&str]| {
        let arguments = ["shop"].into_iter().chain(arguments.iter().copied());
        chassis::config::try_parse_from::<Config>(arguments.map(Into::into))
    };
    let all = [
        "--jwt-issuer=i",
        "--jwt-audience=a",
        "--jwt-jwks=https://id.example/k",
    ];
    assert!(parse(&all).is_ok());
    for missing in 0..all.len() {
        let mut some = all.to_vec();
        let missing = some.remove(missing).split('=').next().unwrap();
        let refusal = parse(&some).unwrap_err();
        assert_eq!(refusal.status, 2);
        assert!(refusal.text.contains(missing), "{refusal}");
        assert_eq!(refusal.text.lines().count(), 1, "{refusal}");
    }
    let refusal = parse(&[&all[..], &["--jwt-algorithms=HS256"]].concat()).unwrap_err();
    assert!(refusal.text.contains("JWT_ALGORITHMS"), "{refusal}");
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let tokens = Tokens::make();
    let router = guard_described(shop(), tokens.auth());
    let viewer = bearer(&tokens.viewer);
    for (what, authorization) in [
        ("GET /v1/things", viewer.as_str()),
        ("GET /v1/things", "Bearer nonsense"),
        ("POST /v1/things", viewer.as_str()),
        ("GET /ping", ""),
        ("GET /nothing", ""),
        ("PUT /ping", ""),
        ("GET /page", ""),
    ] {
        let answer = ask(&router, what, &[("authorization", authorization)]).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{what}");
        }
        let policy = match what {
            "GET /page" => "default-src 'self'",
            _ => "default-src 'none'; frame-ancestors 'none'",
        };
        assert_eq!(answer.header("content-security-policy"), policy, "{what}");
        let cached = match what {
            "GET /page" => "max-age=60",
            _ if what.contains("/v1") => "no-store",
            _ => "",
        };
        assert_eq!(answer.header("cache-control"), cached, "{what}");
    }
}

#[tokio::test]
async fn no_page_of_another_origin_is_let_read_anything() {
    let tokens = Tokens::make();
    for auth in [Auth::open(), tokens.auth()] {
        let router = guard_described(shop(), auth);
        let origin = ("origin", "https://evil.example");
        let viewer = bearer(&tokens.viewer);
        let preflight = [
            origin,
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        for (what, headers) in [
            (
                "GET /v1/things",
                &[origin, ("authorization", viewer.as_str())][..],
            ),
            ("POST /v1/things", &[origin]),
            ("OPTIONS /v1/things", &preflight),
            ("OPTIONS /ping", &preflight),
            ("OPTIONS /nothing", &preflight),
        ] {
            let answer = ask(&router, what, headers).await;
            let names = answer.headers.keys().map(ToString::to_string);
            let cors: Vec<_> = names
                .filter(|name| name.starts_with("access-control-"))
                .collect();
            assert!(cors.is_empty(), "{what}: {cors:?}");
            if what.starts_with("OPTIONS") {
                assert!(
                    matches!(answer.status.as_u16(), 404 | 405),
                    "{what}: {}",
                    answer.status
                );
            }
        }
    }
}
