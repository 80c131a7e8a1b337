//! Who asks: `--token-file`, RECOMPENSE_TOKEN; and over https.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::any,
};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::room::{Ran, SECRET, command};

/// What a request said of who asks.
type Asked = Arc<Mutex<Vec<Option<String>>>>;

/// A service that answers whoever has the token, and notes what everybody has.
async fn service() -> (String, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let answer = any(move |headers: HeaderMap| async move {
        let token = headers.get("authorization");
        let token = token.map(|token| token.to_str().unwrap().to_owned());
        noted.lock().unwrap().push(token.clone());
        let problem = |status: StatusCode| {
            let problem = json!({"title": "no", "detail": "this needs the role operator"});
            (status, Json(problem)).into_response()
        };
        match token.as_deref() {
            Some("Bearer c4nary-1") => Json(json!({"items": []})).into_response(),
            Some("Bearer c4nary-viewer") => problem(StatusCode::FORBIDDEN),
            _ => problem(StatusCode::UNAUTHORIZED),
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/{*path}", answer);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, asked)
}

/// Its end. A token is a secret, so nothing may show it.
async fn run(mut command: Command, arguments: &str) -> Ran {
    command.args(arguments.split(' '));
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran {
        status: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(
        !ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET),
        "{}",
        ran.stderr
    );
    ran
}

fn with_token(token: Option<&str>) -> Command {
    let mut command = command("");
    token.map(|token| command.env("RECOMPENSE_TOKEN", token));
    command
}

#[tokio::test]
async fn a_token_goes_along_with_everything_and_is_never_shown() {
    let (url, asked) = service().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "c4nary-1\n").unwrap();
    let file = file.display();

    let ls = format!("saga ls --url {url}");
    let ran = run(with_token(Some("c4nary-1")), &ls).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    // The file was named for this call, the variable for all.
    let ran = run(
        with_token(Some("c4nary-2")),
        &format!("{ls} --token-file {file}"),
    )
    .await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let top = format!("top --once --interval 1ms --output json --url {url} --token-file {file}");
    let ran = run(with_token(None), &top).await;
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let told = asked.lock().unwrap().clone();
    assert!(told.len() > 10);
    assert!(
        told.iter()
            .all(|token| token.as_deref() == Some("Bearer c4nary-1"))
    );

    let ran = run(with_token(None), &ls).await;
    ran.is_refusal(
        "no token",
        1,
        "(401); give a token by --token-file or RECOMPENSE_TOKEN",
    );
    let ran = run(with_token(Some("")), &ls).await;
    ran.is_refusal("an empty one is none", 1, "(401); give a token");
    let ran = run(with_token(Some("c4nary-2")), &ls).await;
    ran.is_refusal("a wrong token", 1, "does not accept this token (401)");
    let ran = run(with_token(Some("c4nary-viewer")), &ls).await;
    ran.is_refusal("a weak token", 1, "this needs the role operator (403)");
    let parked = format!("parked replay inbox-1 --reason mended --url {url}");
    let ran = run(with_token(Some("c4nary-viewer")), &parked).await;
    ran.is_refusal("a weak token", 1, "this needs the role operator (403)");
    let ran = run(
        with_token(Some("c4nary-2")),
        &format!("{top} --output table"),
    )
    .await;
    assert_eq!(ran.status, Some(2), "given twice: {}", ran.stderr);
    let id = uuid::Uuid::now_v7();
    let follow = format!("saga events {id} --follow --url {url}");
    let ran = run(with_token(None), &follow).await;
    ran.is_refusal("follow", 1, "(401)");
}

#[tokio::test]
async fn what_is_no_token_is_refused_without_being_sent() {
    let (url, asked) = service().await;
    let folder = tempfile::tempdir().unwrap();
    let ls = format!("saga ls --url {url}");
    for (name, content) in [
        ("empty", "\n"),
        ("two", "c4nary c4nary"),
        ("bytes", "c4nary\u{7}"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        let with = format!("{ls} --token-file {}", file.display());
        let ran = run(with_token(None), &with).await;
        ran.is_refusal(name, 2, "a token is one word of plain characters");
    }
    let ran = run(with_token(Some("c4nary\nc4nary")), &ls).await;
    ran.is_refusal("two lines", 2, "RECOMPENSE_TOKEN holds none");
    let ran = run(
        with_token(None),
        &format!("{ls} --token-file /nowhere/at/all"),
    )
    .await;
    ran.is_refusal("no file", 1, "cannot read --token-file /nowhere/at/all");
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_url_that_is_none_is_said_without_what_it_says_of_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("ca.pem");
    fs::write(&known, self_signed().cert.pem()).unwrap();
    let (url, _) = service().await;
    let port = url.rsplit(':').next().unwrap();
    for (url, status, says) in [
        (
            format!("ftp://127.0.0.1:{port}"),
            2,
            "is no place of a service",
        ),
        ("nonsense".to_owned(), 2, "--url"),
        (
            "http://user:c4nary@127.0.0.1:9".to_owned(),
            1,
            "http://127.0.0.1:9 does not answer",
        ),
        (format!("http://user:c4nary@127.0.0.1:{port}"), 1, "(401)"),
        (
            format!("https://127.0.0.1:{port}"),
            1,
            "does not answer; check --url",
        ),
    ] {
        let mut command = with_token(None);
        command.env("SSL_CERT_FILE", &known);
        let ran = run(command, &format!("saga ls --url {url}")).await;
        ran.is_refusal(&url, status, says);
    }
}

fn self_signed() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap()
}

/// A service that speaks https and says nothing but an empty list.
async fn secure() -> (String, String) {
    let CertifiedKey { cert, signing_key } = self_signed();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever does not trust us hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
            let is_known = request.contains("authorization: bearer c4nary-1");
            let status = if is_known {
                "200 OK"
            } else {
                "401 Unauthorized"
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\
                 connection: close\r\n\r\n{{\"items\":[]}}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (url, cert.pem())
}

#[tokio::test]
async fn https_is_spoken_with_whom_the_machine_knows() {
    let (url, certificate) = secure().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, certificate).unwrap();
    let ls = format!("saga ls --url {url} --output json");
    let mut known = with_token(Some("c4nary-1"));
    known.env("SSL_CERT_FILE", &file);
    let ran = run(known, &ls).await;
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""), "{}", ran.stdout);
    assert!(ran.stdout.contains("items"));

    fs::write(&file, self_signed().cert.pem()).unwrap();
    let mut unknown = with_token(Some("c4nary-1"));
    unknown.env("SSL_CERT_FILE", &file);
    let ran = run(unknown, &ls).await;
    ran.is_refusal("a stranger", 1, "does not answer; check --url");
    assert!(ran.stderr.contains("certificate"), "{}", ran.stderr);
}
